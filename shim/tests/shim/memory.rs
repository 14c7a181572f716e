//! The promise of the shim's size, and what its calls cost: `DAVIT_SHIM=target/release/davit-shim cargo test -p davit-shim
//! --test shim memory -- --ignored --nocapture`.

use crate::harness::{Pod, RUNTIMES, sh};
use davit_proto::shim::EventsRequest;
use std::time::{Duration, Instant};

/// KiB of proportional memory per pod, at most (0.35 MiB).
const LIMIT: u64 = 358;
const PODS: usize = 50;
/// Longer than a shim waits before it gives memory back.
const REST: Duration = Duration::from_secs(1);

fn proportional(pod: &Pod) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.shim.id())).unwrap();
    let line = text.lines().find(|l| l.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn busy_pod() -> Pod {
    let mut pod = Pod::with(RUNTIMES[0], |config, dir| {
        config.netns = Some(dir.join("netns/it"));
        config.ipc = true;
        config.hostname = Some("pod".into());
    })
    .await;
    pod.run("c", &sh("echo hello; sleep 1000")).await;
    let request = pod.exec_request("c", &["/bin/true"]);
    pod.exec(request).await.unwrap();
    pod
}

#[tokio::test]
#[ignore = "measures: meaningful for a release build only"]
async fn fifty_shims_take_less_than_promised() {
    let (mut pods, mut subscriptions) = (Vec::new(), Vec::new());
    for _ in 0..PODS {
        let mut pod = busy_pod().await;
        subscriptions.push(pod.client.events(EventsRequest {}).await.unwrap());
        pods.push(pod);
    }
    tokio::time::sleep(REST).await;
    let mean = pods.iter().map(proportional).sum::<u64>() / PODS as u64;
    work(&mut pods[0]).await;
    tokio::time::sleep(REST).await;
    let busy = proportional(&pods[0]);
    println!(
        "PSS per shim: {mean} KiB; with 11 containers, after 50 execs and 16 MB of output: {busy} KiB"
    );
    drop(subscriptions);
    for mut pod in pods {
        for n in 0..10 {
            pod.delete(&format!("n{n}")).await;
        }
        pod.delete("c").await;
        pod.finish().await;
    }
    assert!(mean <= LIMIT && busy <= LIMIT, "{mean} KiB, {busy} KiB");
}

async fn work(pod: &mut Pod) {
    let begun = Instant::now();
    for _ in 0..50 {
        let request = pod.exec_request("c", &["/bin/true"]);
        pod.exec(request).await.unwrap();
    }
    println!("exec of true: {:?} each", begun.elapsed() / 50);
    let begun = Instant::now();
    (0..50).for_each(|_| exec_without_shim(pod));
    println!("of it the runtime's own: {:?} each", begun.elapsed() / 50);
    let begun = Instant::now();
    for n in 0..10 {
        pod.run(&format!("n{n}"), &sh("sleep 1000")).await;
    }
    println!("create and start: {:?} each", begun.elapsed() / 10);
    let request = pod.exec_request("c", &["/bin/head", "-c", "16000000", "/dev/zero"]);
    pod.exec(request).await.unwrap();
}

fn exec_without_shim(pod: &Pod) {
    let mut command = std::process::Command::new(RUNTIMES[0]);
    command.arg("--root").arg(pod.dir.join("runtime")).args(["exec", "--detach", "--pid-file"]);
    command.arg(pod.dir.join("pid")).args(["c", "/bin/true"]);
    assert!(command.status().unwrap().success());
}
