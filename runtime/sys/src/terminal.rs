//! Reading what may be a terminal's master side to its end.
//!
//! Owns what its end looks like; everything else about a terminal is its user's, also whether somebody may open it again.

use rustix::io::Errno;

/// As read(2), which `read` calls, but that a master whose other side is closed is at its end: once all that was written there has been read.
///
/// The kernel tells of the close by EIO. It looks for bytes on their way first and for the close then, so what is written and closed in between is told as
/// closed only, and found by the next read.
///
/// # Errors
/// What read(2) says.
pub fn read(mut read: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
    match read() {
        Err(Errno::IO) => match read() {
            Err(Errno::IO) => Ok(0),
            second => second,
        },
        first => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_behind_the_news_of_the_close_are_found() {
        let told = |answers: &[Result<usize, Errno>]| {
            let mut rest = answers.iter().copied();
            (read(|| rest.next().unwrap()), rest.len())
        };
        assert_eq!(told(&[Err(Errno::IO), Ok(6), Err(Errno::IO)]), (Ok(6), 1));
        assert_eq!(told(&[Err(Errno::IO), Err(Errno::IO)]), (Ok(0), 0));
        assert_eq!(told(&[Ok(0), Ok(1)]), (Ok(0), 1));
        assert_eq!(told(&[Err(Errno::AGAIN), Ok(1)]), (Err(Errno::AGAIN), 1));
    }
}
