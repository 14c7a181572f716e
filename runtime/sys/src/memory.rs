//! Giving memory back, and telling what the heap holds.

/// Returns what the allocator holds but nobody uses to the kernel. Takes some microseconds for a small heap.
///
/// By itself the C library returns only the top of the heap, and that only beyond 128 KiB: a process that is small most of
/// the time stays as large as it ever was.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches only what is free; the allocator takes its own locks.
    let _ = unsafe { nix::libc::malloc_trim(0) };
}

/// Has threads share this many heaps at most, where the C library would give each its own, up to eight for each processor. To be called while there is
/// one thread: those that there are keep theirs.
///
/// Threads that come and go leave behind what their heaps held, in pieces that no other thread may use.
pub fn share_heaps(most: i32) {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number in the allocator, which takes its own lock.
    let _ = unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, most) };
}

/// What the C library's allocator holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heap {
    /// Got from the kernel for heaps, large pieces left out.
    pub arena: usize,
    /// Of that, in use.
    pub used: usize,
    /// Of that, free: given out again, or given back by [`trim`].
    pub free: usize,
    /// Large pieces, each got from the kernel by itself.
    pub mapped: usize,
}

/// What the heap holds now; nothing where the C library doesn't tell.
#[must_use]
pub fn heap() -> Heap {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: reads the allocator's own counts, under its own locks.
        let told = unsafe { nix::libc::mallinfo2() };
        Heap { arena: told.arena, used: told.uordblks, free: told.fordblks, mapped: told.hblkhd }
    }
    #[cfg(not(target_env = "gnu"))]
    Heap::default()
}
