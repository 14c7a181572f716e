//! Waiting for the calls under way, but not for ever.

use crate::layer::InFlight;
use std::time::Duration;

/// How long running calls get.
pub(crate) const GRACE: Duration = Duration::from_secs(15);

/// What has been sent is still in hyper's hands when its call has ended; this is what it gets to put it on the wire.
const FLUSH: Duration = Duration::from_millis(100);

/// How waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// Every call has ended.
    All,
    /// The time was up with so many calls left.
    TimedOut(usize),
    /// Somebody could not wait, with so many calls left.
    Hurried(usize),
}

/// Refuses new calls and waits until those under way have ended, `hurry` comes, or `grace` is over.
pub(crate) async fn drain(
    calls: &InFlight,
    hurry: impl Future<Output = ()>,
    grace: Duration,
) -> Drained {
    calls.stop();
    tokio::select! {
        // An end that is there already is told, even to somebody in a hurry.
        biased;
        () = calls.drained() => {
            tokio::time::sleep(FLUSH).await;
            Drained::All
        }
        () = hurry => Drained::Hurried(calls.len()),
        () = tokio::time::sleep(grace) => Drained::TimedOut(calls.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Concern, Method};
    use http::HeaderMap;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn an_idle_daemon_ends_at_once() {
        assert_eq!(drain(&InFlight::default(), pending(), GRACE).await, Drained::All);
    }

    #[tokio::test]
    async fn a_running_call_is_waited_for() {
        let calls = InFlight::default();
        let call = calls.begin(Method::of("/x/StopContainer"), &HeaderMap::new()).unwrap();
        let waiter = calls.clone();
        let drained = tokio::spawn(async move { drain(&waiter, pending(), GRACE).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!drained.is_finished());
        assert!(calls.begin(Method::of("/x/StopContainer"), &HeaderMap::new()).is_err());
        drop(call);
        assert_eq!(drained.await.unwrap(), Drained::All);
    }

    #[tokio::test]
    async fn neither_a_stuck_call_nor_a_second_signal_is_waited_for_long() {
        let calls = InFlight::default();
        let _stuck = calls.begin(Method::of("/x/StopContainer"), &HeaderMap::new()).unwrap();
        assert_eq!(drain(&calls, pending(), Duration::from_millis(20)).await, Drained::TimedOut(1));
        assert_eq!(drain(&calls, ready(()), GRACE).await, Drained::Hurried(1));
    }

    #[tokio::test]
    async fn an_endless_call_holds_nobody_up() {
        let calls = InFlight::default();
        let _events = calls.begin(Method::of("/x/GetContainerEvents"), &HeaderMap::new()).unwrap();
        assert_eq!(drain(&calls, pending(), GRACE).await, Drained::All);
    }
}
