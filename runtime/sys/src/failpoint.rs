//! Places where a test can make an operation fail, or end the process as SIGKILL does.
//!
//! Owns what `DAVIT_FAILPOINT=STEP=error` and `DAVIT_FAILPOINT=STEP=kill` mean: the first time that this process reaches the step, it fails or
//! ends there. With a number instead it fails as the kernel would, with that error. Only with the feature `failpoints`, which no release has: without it nothing of this is compiled but an `Ok`. By hand, because that is all
//! that is needed; the crate `fail` would bring a random generator of its own.

/// Says where the operation is; here it may be made to fail.
///
/// # Errors
/// If a test has asked for it.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn reach(_step: &'static str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub use enabled::{ASKED, reach};

#[cfg(feature = "failpoints")]
mod enabled {
    use rustix::process::{Signal, getpid, kill_process};
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// In the environment: which step, and what is to happen there.
    pub const ASKED: &str = "DAVIT_FAILPOINT";

    static REACHED: AtomicBool = AtomicBool::new(false);

    /// Says where the operation is; here it may be made to fail.
    ///
    /// # Errors
    /// If a test has asked for it.
    pub fn reach(step: &'static str) -> io::Result<()> {
        let Ok(asked) = std::env::var(ASKED) else { return Ok(()) };
        let Some((name, action)) = asked.split_once('=') else { return Ok(()) };
        if name != step || REACHED.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        if action == "kill" {
            // Delivered before this returns.
            kill_process(getpid(), Signal::KILL)?;
        }
        // As the kernel would say it: the number of an error.
        if let Ok(number) = action.parse() {
            return Err(io::Error::from_raw_os_error(number));
        }
        Err(io::Error::other(format!("the failpoint {step} was reached")))
    }
}
