//! A registry on loopback: the pull half of the OCI distribution interface, read from a directory.
//!
//! Owns a thread with the listener, what was asked of it ([`Registry::requests`], so that a test can say "once per digest"), who
//! may ask ([`Auth`]) and how it misbehaves ([`Fault`]). The directory is [`Store`]'s. It never takes a push over HTTP: images
//! are put into the store by [`crate::images`].
//!
//! Invariant: what it serves without a fault is byte for byte what the store holds, under the digest of those bytes.

mod access;
mod body;
mod serve;
mod store;

pub use access::Auth;
pub use store::{Digest, Store, write_whole};

use anyhow::{Context, Result};
use serve::State;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

/// A registry that answers until it is dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// How requests for one repository go wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A blob comes with one bit changed; its length is right.
    Corrupt,
    /// A blob comes with this many bytes more than it has.
    Longer(u64),
    /// A blob's connection ends after half of it, with the whole length announced.
    Truncated,
    /// A blob stops after half of it, and the connection stays open.
    Stalled,
    /// A blob comes this slowly, in bytes per second.
    Slow(u64),
    /// The next requests, this many of them, are refused with this HTTP status.
    Refuse {
        /// The status.
        status: u16,
        /// How many requests, blobs and manifests alike.
        times: u32,
    },
    /// A manifest is followed by white space up to this many bytes.
    HugeManifest(u64),
    /// A manifest comes with one byte changed, under the digest of the right one.
    WrongManifest,
    /// Blobs are elsewhere: below this address, at the same path.
    Redirect(String),
    /// Byte ranges are not understood: the answer is always the whole. This blob's connection ends after half of it, until a range is asked for.
    NoRanges(Digest),
}

/// One request that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The scheme and credentials of the `Authorization` header, as they came.
    pub authorization: Option<String>,
    /// What it was answered with.
    pub status: u16,
}

impl Registry {
    /// Serves `store` on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If the port cannot be bound or the thread cannot be started.
    pub fn start(store: Store) -> Result<Self> {
        Self::start_at(store, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Serves `store` at `address`.
    ///
    /// # Errors
    /// If the address cannot be bound or the thread cannot be started.
    pub fn start_at(store: Store, address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("bind {address}"))?;
        listener.set_nonblocking(true).context("make the listener non-blocking")?;
        let address = listener.local_addr().context("read the listener's address")?;
        let state = Arc::new(State::new(store, address));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let executor = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the registry's executor")?;
        let served = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || executor.block_on(serve::run(listener, served, stopped)))
            .context("start the registry's thread")?;
        Ok(Self { address, state, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `name` (repository, with tag or digest) as an image reference on this registry.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The directory it serves.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.state.store()
    }

    /// Makes requests for `repository` go wrong from now on; a later fault replaces an earlier one.
    pub fn fault(&self, repository: &str, fault: Fault) {
        self.state.set_fault(repository, Some(fault));
    }

    /// Ends what [`Self::fault`] began.
    pub fn heal(&self, repository: &str) {
        self.state.set_fault(repository, None);
    }

    /// Asks for credentials from now on.
    pub fn require(&self, auth: Auth) {
        self.state.set_auth(auth);
    }

    /// All requests so far, in the order in which they were answered.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests()
    }

    /// How many times the content with this digest was asked for with `GET` and given.
    #[must_use]
    pub fn downloads(&self, digest: &Digest) -> usize {
        let given = |request: &&Request| {
            request.method == "GET"
                && (200..300).contains(&request.status)
                && request
                    .target
                    .split('?')
                    .next()
                    .is_some_and(|path| path.ends_with(digest.as_str()))
        };
        self.requests().iter().filter(given).count()
    }

    /// Waits until a request for which `wanted` holds has been answered.
    ///
    /// # Errors
    /// If none was within `within`.
    pub fn wait_for(&self, within: Duration, wanted: impl Fn(&Request) -> bool) -> Result<()> {
        crate::host::eventually(within, "the registry is asked", || {
            Ok(self.requests().iter().any(&wanted).then_some(()))
        })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The thread may have ended by itself; there is nobody to tell then.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests;
