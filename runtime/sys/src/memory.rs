//! Giving memory back.

/// Returns what the allocator holds but nobody uses to the kernel. Takes some microseconds for a small heap.
///
/// By itself the C library returns only the top of the heap, and that only beyond 128 KiB: a process that is small most of
/// the time stays as large as it ever was.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches only what is free; the allocator takes its own locks.
    let _ = unsafe { nix::libc::malloc_trim(0) };
}
