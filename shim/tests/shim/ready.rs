//! A shim that waits for its pod.

use crate::harness::{Setup, connect, executable, plain_config, put};
use davit_proto::disk::SHIM_ENV;
use davit_proto::ready::{Begin, ENV, Meanwhile, NAME};
use davit_proto::shim::{ShutdownRequest, StateRequest};
use davit_sys::passing::{message_pair, send_message};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn start(pod_dir: &Path) -> (Child, OwnedFd) {
    let (here, there) = message_pair().unwrap();
    let meanwhile = Meanwhile { cgroup_procs: Vec::new(), oom_score_adj: None };
    let mut command = Command::new(executable());
    command.arg("--pod-dir").arg(pod_dir).env(SHIM_ENV.0, SHIM_ENV.1);
    command.env(ENV, serde_json::to_string(&meanwhile).unwrap());
    command.stdin(there).stdout(Stdio::null()).stderr(Stdio::null());
    (command.spawn().unwrap(), here)
}

/// What it is called, once that is `name`.
fn is_called(pid: u32, name: &[u8]) {
    let end = Instant::now() + Duration::from_secs(10);
    let called = || std::fs::read(format!("/proc/{pid}/comm")).unwrap();
    while called().trim_ascii_end() != name {
        assert!(Instant::now() < end, "{:?}", String::from_utf8(called()));
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn it_is_the_pods_once_that_is_there() {
    let setup = Setup::new();
    let (mut shim, socket) = start(&setup.dir);
    is_called(shim.id(), NAME.to_bytes());
    put(&setup.dir.join("shim.json"), &serde_json::to_string(&plain_config(&setup.name)).unwrap());
    let listener = UnixListener::bind(setup.dir.join("s")).unwrap();
    let log = File::create(setup.dir.join("shim.log")).unwrap();
    let begin = Begin { sealed: None }.to_bytes();
    send_message(socket.as_fd(), &begin, &[listener.as_fd(), log.as_fd()]).unwrap();
    drop((socket, listener, log));
    let mut client = connect(setup.dir.join("s")).await;
    let state = client.state(StateRequest {}).await.unwrap().into_inner();
    assert_eq!(state.pid, shim.id());
    is_called(shim.id(), b"davit-shim");
    client.shutdown(ShutdownRequest {}).await.unwrap();
    assert!(shim.wait().unwrap().success());
}

#[test]
fn without_a_pod_it_ends_and_has_made_nothing() {
    let setup = Setup::new();
    let (mut shim, socket) = start(&setup.dir.join("none"));
    is_called(shim.id(), NAME.to_bytes());
    drop(socket);
    assert!(shim.wait().unwrap().success());
    assert!(!setup.dir.join("none").exists());
}

#[test]
fn what_no_daemon_passes_is_refused() {
    let setup = Setup::new();
    let log = File::create(setup.dir.join("shim.log")).unwrap();
    for (message, with) in [(&b"nonsense"[..], 2), (b"b", 1), (b"b", 0)] {
        let (mut shim, socket) = start(&setup.dir);
        let descriptors = [log.as_fd(); 2];
        send_message(socket.as_fd(), message, &descriptors[..with]).unwrap();
        assert_eq!(shim.wait().unwrap().code(), Some(1), "{message:?} {with}");
    }
}
