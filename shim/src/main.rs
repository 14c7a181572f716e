//! davit-shim: the parent of a pod's processes.
//!
//! One small process per pod. It makes and pins the pod's namespaces, mounts containers' roots, calls the OCI runtime,
//! reads output and writes the logs, reaps, and tells how each container ended. It outlives the daemon, which talks to it
//! over the listening socket passed as standard input.
//!
//! **One thread, ever**: forking is sound only so, and threads cost memory. Hence no blocking pool and no `tokio::fs`; files
//! here are small and on tmpfs, and a log's disk that hangs hangs the pod's logging, as it would in any writer.
//!
//! ```text
//! args → (ready) → config → process → namespaces → serve ─┬► service ─► container/{create,start,signal,exit,delete}, exec
//!                                                └► session ─► a command with streams, an attached client
//!                                                              │ oci      one call of the OCI runtime
//!                                                              │ rootfs   in the child, before it becomes the runtime
//!                                                              │ cgroup   who is left, and whether the kernel killed
//!                                                              └ stdio/   pipes and terminals → log lines, attached clients
//! reaper: the only one that waits for children.     events: what subscribers are told.     init: PID 1 of a shared pod.
//! ```

mod args;
mod cgroup;
mod config;
mod container;
mod error;
mod events;
mod exec;
mod files;
mod hidden;
mod init;
mod mapped;
mod namespaces;
mod oci;
mod overlay;
mod passed;
mod pod;
mod process;
mod ready;
mod reaper;
mod rootfs;
mod sealed;
mod serve;
mod service;
mod session;
mod shortage;
mod stdio;
mod sysctl;
mod userns;
mod view;

use args::Action;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let done = match args::parse(std::env::args_os().skip(1)) {
        Ok(Action::Version) => version(),
        Ok(Action::Init(user)) => init::run(user).map_err(Into::into),
        Ok(Action::Serve(pod_dir)) => serve::run(&pod_dir).map_err(Into::into),
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&*error);
            ExitCode::FAILURE
        }
    }
}

fn version() -> Result<(), Box<dyn std::error::Error>> {
    Ok(writeln!(std::io::stdout(), "davit-shim {}", env!("CARGO_PKG_VERSION"))?)
}

/// One line to standard error, which is the shim's log: the error and its causes.
fn say(error: &dyn std::error::Error) {
    // Where it goes may be full; there is nobody else to tell.
    drop(writeln!(std::io::stderr(), "davit-shim: {}", error::chain(error)));
}
