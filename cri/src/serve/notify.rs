//! What the service manager is told (sd_notify(3)). Without one, nothing.
//!
//! Owns the words. docs/startup.md lists them; [`super::watchdog`] decides when the daemon is alive.

use sd_notify::NotifyState;

/// What `systemctl status` shows while all is well.
const SERVES: &str = "serves";

/// The sockets are bound, and what an earlier daemon has left is taken up.
pub(crate) fn taking_up() {
    send(&[NotifyState::Status("takes up what is there")]);
}

/// The daemon is ready: what comes to its sockets will be answered.
pub(crate) fn ready() {
    send(&[NotifyState::Ready, NotifyState::Status(SERVES)]);
}

/// The daemon stops, and so many calls are under way.
pub(crate) fn stopping(calls: usize) {
    let status = format!("stops; calls under way: {calls}");
    send(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// The configuration is read again; [`ready`] or [`reload_refused`] follows.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => {
            send(&[NotifyState::Reloading, now, NotifyState::Status("reads its configuration")])
        }
        Err(error) => tracing::debug!(%error, "read the clock"),
    }
}

/// The new configuration is not in effect. There is no word for a reload that failed, so people are told by the status.
pub(crate) fn reload_refused() {
    let status = "serves with the old configuration: the new one was refused, see the log";
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The daemon lives.
pub(crate) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// The daemon could not start, or not go on: `error` in one line.
pub(crate) fn failed(error: &str) {
    send(&[NotifyState::Status(error)]);
}

/// A manager that does not listen changes nothing about what is served.
fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "notify the service manager");
    }
}
