//! Waiting a little for descriptors and memory, where what is to be done must not be left undone.

use davit_sys::shortage::is_shortage;
use std::io;
use std::time::Duration;

/// Between two tries, and for how many times.
const PAUSE: Duration = Duration::from_millis(10);
const TRIES: u32 = 300;

/// The answer of something that has one once there are descriptors and memory for it; or what was still wanting after 3 s.
pub(crate) async fn patiently<T>(mut ask: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..TRIES {
        match ask() {
            Err(error) if is_shortage(&error) => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
    ask()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[tokio::test(start_paused = true)]
    async fn only_a_shortage_is_waited_for_and_not_for_ever() {
        let mut answers = vec![Err(Errno::NOENT), Ok(7), Err(Errno::NFILE), Err(Errno::MFILE)];
        let mut next = || answers.pop().unwrap().map_err(io::Error::from);
        assert_eq!(patiently(&mut next).await.unwrap(), 7);
        assert_eq!(patiently(&mut next).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        let never = patiently(|| Err::<(), _>(Errno::MFILE.into())).await;
        assert!(is_shortage(&never.unwrap_err()));
    }
}
