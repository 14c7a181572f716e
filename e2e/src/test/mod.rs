//! A test against a daemon of its own, in few words.
//!
//! Owns the frame around a test's body: directory, registry and daemon before it; after it, whether it failed or not, the removal of
//! all its pods, the search for what is left, the daemon's orderly end and a look at its log. A test that leaves
//! anything, or makes the daemon complain, fails with the list.
//!
//! ```text
//! on_both!(a_stopped_pod_is_not_ready, |t| {
//!     let pod = t.pod("web", |_| ())?;
//!     t.cri.stop_pod(&pod.id)?;
//!     assert_eq!(t.cri.pod_status(&pod.id)?.state(), PodSandboxState::SandboxNotready);
//!     Ok(())
//! });
//! ```

mod frame;
mod log;
mod pods;

pub use frame::run;
pub(crate) use frame::write_hosts;
pub use log::{Line, parse_log};
pub use pods::{Pod, namespaces, resources, security, sh};

use crate::cri::Cri;
use crate::daemon::{Daemon, Settings};
use crate::registry::Registry;
use anyhow::Context as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a test's body works with.
#[derive(Debug)]
pub struct Test {
    /// A client of the daemon.
    pub cri: Cri,
    /// The registry that the daemon knows, under its own address and as the mirror of the public ones.
    pub registry: Registry,
    /// The test's directory.
    pub dir: PathBuf,
    /// Where the shared images are.
    pub images: PathBuf,
    daemon: Mutex<Daemon>,
    /// Ids of all pods and containers: none may be spoken of once they are removed.
    ids: Mutex<Vec<String>>,
    allowed: Mutex<Vec<String>>,
}

impl Test {
    /// The daemon, to stop, kill or start it.
    pub fn daemon(&self) -> MutexGuard<'_, Daemon> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The daemon's setup.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.daemon().settings().clone()
    }

    /// Expects warnings and errors with this text in the daemon's log.
    pub fn allow_log(&self, text: &str) {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    /// Makes a file of this name in the test's directory, which its programs look for.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn set_flag(&self, name: &str) -> anyhow::Result<()> {
        std::fs::File::create(self.dir.join(name)).with_context(|| format!("set {name}"))?;
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// If there is none.
    pub fn clear_flag(&self, name: &str) -> anyhow::Result<()> {
        std::fs::remove_file(self.dir.join(name)).with_context(|| format!("clear {name}"))
    }

    /// Makes the end of the test look for what is left of this pod or container too.
    pub fn watch(&self, id: &str) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id.to_owned());
    }

    fn watched(&self) -> Vec<String> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn allowed(&self) -> Vec<String> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A test that runs twice: on crun and on runc. With `setup`, the daemon's settings are changed before it starts.
#[macro_export]
macro_rules! on_both {
    ($(#[$meta:meta])* $name:ident, |$t:ident| $body:block) => {
        $crate::on_both!($(#[$meta])* $name, setup: |_| Ok(()), |$t| $body);
    };
    ($(#[$meta:meta])* $name:ident, setup: $setup:expr, |$t:ident| $body:block) => {
        $(#[$meta])*
        mod $name {
            use super::*;

            fn body($t: &$crate::test::Test) -> anyhow::Result<()> $body

            #[test]
            fn on_crun() -> anyhow::Result<()> {
                $crate::test::run("crun", $setup, body)
            }

            #[test]
            fn on_runc() -> anyhow::Result<()> {
                $crate::test::run("runc", $setup, body)
            }
        }
    };
}

/// A test that has nothing to do with the OCI runtime: it runs once, on crun.
#[macro_export]
macro_rules! on_one {
    ($(#[$meta:meta])* $name:ident, |$t:ident| $body:block) => {
        $crate::on_one!($(#[$meta])* $name, setup: |_| Ok(()), |$t| $body);
    };
    ($(#[$meta:meta])* $name:ident, setup: $setup:expr, |$t:ident| $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() -> anyhow::Result<()> {
            fn body($t: &$crate::test::Test) -> anyhow::Result<()> $body
            $crate::test::run("crun", $setup, body)
        }
    };
}

/// What nearly every test names.
pub mod prelude {
    pub use crate::cri::refused;
    pub use crate::daemon::Settings;
    pub use crate::host::{cgroup_value, eventually, free_port, pause};
    pub use crate::images::{Compression, ImageBuilder};
    pub use crate::registry::{Auth, Digest, Fault};
    pub use crate::test::{Pod, Test, namespaces, resources, security, sh};
    pub use crate::{on_both, on_one};
    pub use anyhow::{Context as _, Result, bail, ensure};
    pub use k8s_cri::v1::{
        Capability, ContainerConfig, ContainerState, KeyValue, LinuxContainerResources, Mount,
        NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxState,
    };
    pub use std::path::{Path, PathBuf};
    pub use std::time::Duration;
    pub use tonic::Code;
}
