//! Want of descriptors or memory: what it says, which is nothing of what was asked, and waiting until it has passed.
//!
//! A record that can't be read for it is not broken, and a process that can't be looked at has not ended. Who asks somebody may be told so; where the
//! answer decides what becomes of a container, it is waited for.

use rustix::io::Errno;
use std::error::Error;
use std::io;
use std::time::Duration;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Whether what failed did so for want of descriptors or memory.
#[must_use]
pub(crate) fn is_shortage(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let told = error.downcast_ref::<io::Error>().and_then(Errno::from_io_error);
        let errno = told.or_else(|| error.downcast_ref::<Errno>().copied());
        if matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The answer of something that has one once there are descriptors and memory for it.
pub(crate) async fn patiently<T, E: Error + 'static>(
    mut ask: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut told = false;
    loop {
        match ask() {
            Err(error) if is_shortage(&error) => {
                if !std::mem::replace(&mut told, true) {
                    let error: &dyn Error = &error;
                    tracing::warn!(error, "it is waited for");
                }
            }
            answer => return answer,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open the door")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_shortage_is_found_below_other_errors() {
        let of = |errno: Errno| is_shortage(&Outer(io::Error::from(errno)));
        assert!(of(Errno::MFILE) && of(Errno::NFILE) && of(Errno::NOMEM));
        assert!(is_shortage(&Errno::MFILE) && is_shortage(&io::Error::from(Errno::MFILE)));
        assert!(!of(Errno::NOENT) && !of(Errno::IO) && !is_shortage(&io::Error::other("x")));
    }

    #[tokio::test]
    async fn only_a_shortage_is_waited_for() {
        let mut answers = vec![Err(Errno::NOENT), Ok(7), Err(Errno::NFILE), Err(Errno::MFILE)];
        let mut next = || answers.pop().unwrap();
        assert_eq!(patiently(&mut next).await, Ok(7));
        assert_eq!(patiently(&mut next).await, Err(Errno::NOENT));
    }
}
