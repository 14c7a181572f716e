//! What the service manager is told (sd_notify(3)). Without one, nothing.

use sd_notify::NotifyState;

/// The daemon serves.
pub(crate) fn ready() {
    send(&[NotifyState::Ready]);
}

/// The daemon stops.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// The configuration is read again; [`ready`] follows.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "read the clock"),
    }
}

/// A manager that does not listen changes nothing about what is served.
fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "notify the service manager");
    }
}
