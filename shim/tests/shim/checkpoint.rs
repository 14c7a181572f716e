//! Checkpoint and Thaw: a container is frozen for as long as its caller wants, goes on after a failure, and by itself in the end.
//!
//! What is frozen is real, by crun and runc. Where CRIU doesn't work with the kernel the dump itself is left out: a script stands before the
//! OCI runtime that answers for `checkpoint` alone.

use crate::harness::{Pod, RUNTIMES, eventually, put, sh};
use davit_proto::shim::{CheckpointRequest, ThawRequest};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tonic::Code;

/// An OCI runtime whose `checkpoint` does this.
fn wrapper(directory: &Path, runtime: &str, script: &str) -> String {
    let path = directory.join("runtime.sh");
    let text = format!(
        "#!/bin/sh\nfor a; do [ \"$a\" != checkpoint ] || {{ {script}; }}; done\nexec {runtime} \"$@\"\n"
    );
    put(&path, &text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn request(directory: &Path, hold_ms: u64) -> CheckpointRequest {
    let made = |name: &str| {
        let path = directory.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path.to_string_lossy().into_owned()
    };
    let (images, work) = (made("images"), made("work"));
    CheckpointRequest { id: "c".into(), images, work, timeout_ms: 2_000, hold_ms }
}

async fn counting(pod: &mut Pod) {
    pod.run("c", &sh("i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")).await;
    grows(pod).await;
}

async fn grows(pod: &Pod) {
    let before = pod.log("c").len();
    eventually("it goes on", || (pod.log("c").len() > before + 2).then_some(())).await;
}

async fn stands_still(pod: &Pod) {
    // What it had written may still be on its way.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = pod.log("c").len();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(pod.log("c").len(), before, "it is not frozen");
}

async fn thaw(pod: &mut Pod) {
    pod.client.thaw(ThawRequest { id: "c".into() }).await.unwrap();
}

#[tokio::test]
async fn a_container_stays_frozen_until_it_is_thawed_or_the_time_is_up() {
    for runtime in RUNTIMES {
        let directory = tempfile::tempdir().unwrap();
        let mut pod = Pod::new(&wrapper(directory.path(), runtime, "exit 0")).await;
        counting(&mut pod).await;
        pod.client.checkpoint(request(directory.path(), 60_000)).await.unwrap();
        stands_still(&pod).await;
        let again = pod.client.checkpoint(request(directory.path(), 1)).await.unwrap_err();
        assert_eq!(again.code(), Code::FailedPrecondition, "{again:?}");
        thaw(&mut pod).await;
        grows(&pod).await;
        thaw(&mut pod).await;
        pod.client.checkpoint(request(directory.path(), 5_000)).await.unwrap();
        stands_still(&pod).await;
        grows(&pod).await;
        pod.signal("c", 9).await.unwrap();
        pod.exit("c").await;
        pod.delete("c").await;
        pod.finish().await;
    }
}

#[tokio::test]
async fn a_container_goes_on_after_a_checkpoint_that_fails_or_takes_too_long() {
    for runtime in RUNTIMES {
        for (script, code) in
            [("echo broken >&2; exit 1", Code::Aborted), ("sleep 100", Code::DeadlineExceeded)]
        {
            let directory = tempfile::tempdir().unwrap();
            let mut pod = Pod::new(&wrapper(directory.path(), runtime, script)).await;
            counting(&mut pod).await;
            let error = pod.client.checkpoint(request(directory.path(), 60_000)).await.unwrap_err();
            assert_eq!(error.code(), code, "{error:?}");
            grows(&pod).await;
            pod.signal("c", 9).await.unwrap();
            pod.exit("c").await;
            pod.delete("c").await;
            pod.finish().await;
        }
    }
}

#[tokio::test]
async fn a_container_that_is_killed_while_it_is_frozen_ends() {
    for runtime in RUNTIMES {
        let directory = tempfile::tempdir().unwrap();
        let mut pod = Pod::new(&wrapper(directory.path(), runtime, "exit 0")).await;
        counting(&mut pod).await;
        pod.client.checkpoint(request(directory.path(), 2_000)).await.unwrap();
        pod.delete("c").await;
        pod.finish().await;
    }
}
