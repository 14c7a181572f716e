//! Want of descriptors or memory: what it says, which is nothing of what was asked, and waiting until it has passed.
//!
//! A record that can't be read for it is not broken, and a process that can't be looked at has not ended. Who asks somebody may be told so; where the
//! answer decides what becomes of a container, it is waited for.

use crate::shim::ShimError;
use davit_sys::shortage;
use std::error::Error;
use std::io;
use std::time::Duration;

/// Between two tries.
pub(crate) const PAUSE: Duration = Duration::from_millis(200);

/// Whether what failed did so for want of descriptors or memory, in this process.
#[must_use]
pub(crate) fn is_shortage(error: &(dyn Error + 'static)) -> bool {
    let told = std::iter::successors(Some(error), |error| (*error).source());
    let shims = |error: &(dyn Error + 'static)| {
        matches!(error.downcast_ref(), Some(ShimError::Short { .. }))
    };
    shortage::is_shortage(error) || told.into_iter().any(shims)
}

/// As many descriptors as something needs that would, without them, find out what is not so.
///
/// # Errors
/// There are fewer.
pub(crate) fn spare(count: usize) -> io::Result<()> {
    let first = std::fs::File::open("/dev/null")?;
    let more = (1..count).map(|_| rustix::io::fcntl_dupfd_cloexec(&first, 0));
    Ok(more.collect::<Result<Vec<_>, _>>().map(drop)?)
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
    use crate::shim::SpawnError;
    use rustix::io::Errno;

    #[test]
    fn one_that_a_call_of_a_shim_met_is_one() {
        let message = "connect: Too many open files".to_owned();
        let of = |source| SpawnError::State(source);
        assert!(is_shortage(&of(ShimError::Short { message: message.clone() })));
        assert!(!is_shortage(&of(ShimError::Gone { message })));
        assert!(spare(4).is_ok());
    }

    #[tokio::test]
    async fn only_a_shortage_is_waited_for() {
        let mut answers = vec![Err(Errno::NOENT), Ok(7), Err(Errno::NFILE), Err(Errno::MFILE)];
        let mut next = || answers.pop().unwrap();
        assert_eq!(patiently(&mut next).await, Ok(7));
        assert_eq!(patiently(&mut next).await, Err(Errno::NOENT));
    }
}
