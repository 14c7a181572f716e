//! The time: certificates are valid in it, and events are told by it.

use super::Finding;
use davit_sys::clock::{Clock, clock};
use std::time::SystemTime;

pub(super) fn findings() -> Vec<Finding> {
    let made =
        std::env::current_exe().and_then(|path| path.metadata()).and_then(|file| file.modified());
    vec![judge(SystemTime::now(), made.ok(), clock())]
}

/// A clock that was never set is behind the time at which this program was put here.
fn judge(now: SystemTime, installed: Option<SystemTime>, clock: Clock) -> Finding {
    let subject = "clock";
    if installed.is_some_and(|installed| now < installed) {
        return Finding::problem(
            subject,
            "it is behind the time at which davit was installed: certificates of registries are not valid yet",
            "set it",
        );
    }
    if clock == Clock::Free {
        return Finding::warning(
            subject,
            "nothing keeps it right (adjtimex tells that it is not synchronized): certificates and times of events go wrong with it",
            "run a time service, such as chrony or systemd-timesyncd",
        );
    }
    Finding::ok(subject, "kept right by a time service")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Verdict;
    use std::time::Duration;

    #[test]
    fn a_clock_that_was_never_set_is_a_problem() {
        let (then, now) = (SystemTime::UNIX_EPOCH, SystemTime::now());
        let verdict = |now, clock| judge(now, Some(then + Duration::from_secs(9)), clock).verdict;
        assert_eq!(verdict(then, Clock::Kept), Verdict::Problem);
        assert_eq!(verdict(now, Clock::Free), Verdict::Warning);
        assert_eq!(verdict(now, Clock::Kept), Verdict::Ok);
    }
}
