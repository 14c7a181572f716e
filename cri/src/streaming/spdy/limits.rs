//! What one session may cost, and how long it may take.

use std::time::Duration;

/// Bounds of one session. Sizes are in bytes.
///
/// **There is no flow control.** SPDY/3.1 has windows, but the library that every Kubernetes client speaks it by neither keeps nor sends
/// them. So what bounds memory here is to stop reading the connection, and that stops all of its streams. What is done about that:
/// a stream has room of its own before it does so, a stream that nobody reads any more never does so, and with [`Self::stall`] one that
/// does so for too long is given up for the others' sake. Writing never waits for reading, nor reading for writing, so a stream that is
/// stuck in one direction never stops the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Streams at once. More are refused, one by one.
    pub(crate) streams: usize,
    /// A control frame, and its headers when inflated. More ends the session.
    pub(crate) control: usize,
    /// What may lie unread in one stream before the connection is no longer read. Exceeded by at most one read.
    pub(crate) unread: usize,
    /// The same of all streams together.
    pub(crate) unread_session: usize,
    /// What may wait to be sent in one stream, before its writer waits. As much again may be on its way out.
    pub(crate) unsent: usize,
    /// Beyond this sum of all streams, a stream may only have [`Self::unsent_crowded`] waiting.
    pub(crate) unsent_session: usize,
    /// See [`Self::unsent_session`].
    pub(crate) unsent_crowded: usize,
    /// How long a full stream may keep the connection from being read while others could have something to say: it is reset then.
    /// `None`: for ever, since whoever gives a process its input would rather wait than lose some.
    pub(crate) stall: Option<Duration>,
    /// A session where nothing went either way for this long is ended. Also how long a session that is being closed waits for its peer.
    pub(crate) idle: Duration,
    /// When nothing went either way for this long, a frame is sent that says nothing: it keeps middleboxes from forgetting the connection
    /// and makes the kernel find out that the peer is gone. It is not a PING: the clients answer those by the workers that also hand out
    /// data, so an answer can wait for the very stream that is stuck, and asking for it could close that circle.
    pub(crate) keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 1024,
            control: 4 * 1024,
            unread: 512 * 1024,
            unread_session: 8 * 1024 * 1024,
            unsent: 128 * 1024,
            unsent_session: 1024 * 1024,
            unsent_crowded: 4 * 1024,
            stall: None,
            idle: Duration::from_secs(4 * 60 * 60),
            keep_alive: Duration::from_secs(30),
        }
    }
}
