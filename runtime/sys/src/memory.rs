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

/// Lets go of the pages of this program's code: each comes back, from the page cache, when it is next run. To be called once the start is over: much of what
/// that has run is never run again, and the kernel maps 64 KiB around each page that is. Where the mapping can't be found nothing is done.
pub fn let_code_go() {
    let Some((start, end)) = own_code() else { return };
    // SAFETY: the range is one whole mapping of this program's file that can't be written to. The kernel may take such pages away at any time, and has each from
    // the file again when a thread runs into it; this is no more than asking it to. (A debugger's breakpoints, which are pages of their own, would be lost.)
    let _ = unsafe {
        nix::libc::madvise(
            std::ptr::with_exposed_provenance_mut(start),
            end - start,
            nix::libc::MADV_DONTNEED,
        )
    };
}

/// Where the code is that this function is part of.
fn own_code() -> Option<(usize, usize)> {
    let here = (own_code as fn() -> Option<(usize, usize)>) as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let (start, end) = (address(start)?, address(end)?);
        (rest.starts_with("r-xp ") && (start..end).contains(&here)).then_some((start, end))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_was_let_go_runs_on() {
        let (start, end) = own_code().unwrap();
        assert!(start < end);
        let_code_go();
        assert_eq!(own_code(), Some((start, end)));
    }
}
