//! Telling a want of descriptors or memory from all else that a call can fail for: it says nothing of what was asked.

use rustix::io::Errno;
use std::error::Error;
use std::io;

/// Whether what failed did so for want of descriptors or memory.
#[must_use]
pub fn is_shortage(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let told = error.downcast_ref::<io::Error>();
        let errno = told.and_then(Errno::from_io_error).or_else(|| error.downcast_ref().copied());
        let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
        // An allocation that failed in here, and not in the kernel, has no number.
        if errno.is_some_and(|errno| short.contains(&errno))
            || told.is_some_and(|error| error.kind() == io::ErrorKind::OutOfMemory)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(io::Error);

    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("open the door")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_shortage_is_found_below_other_errors() {
        let of = |errno: Errno| is_shortage(&Outer(io::Error::from(errno)));
        assert!(of(Errno::MFILE) && of(Errno::NFILE) && of(Errno::NOMEM));
        assert!(is_shortage(&Errno::MFILE) && is_shortage(&io::Error::from(Errno::MFILE)));
        assert!(is_shortage(&io::Error::from(io::ErrorKind::OutOfMemory)));
        assert!(
            !of(Errno::NOENT)
                && !of(Errno::IO)
                && !of(Errno::AGAIN)
                && !is_shortage(&io::Error::other("x"))
        );
    }
}
