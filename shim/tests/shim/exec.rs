//! ExecSync.

use crate::harness::{Pod, RUNTIMES, eventually, sh};
use davit_proto::shim::exec_sync_output::Kind;
use std::time::{Duration, Instant};
use tonic::Code;

async fn running(runtime: &str) -> Pod {
    let mut pod = Pod::new(runtime).await;
    pod.run("c", &sh("trap 'exit 0' TERM; sleep 1000 & wait")).await;
    pod
}

fn processes_named(pod: &Pod, part: &str) -> usize {
    let line = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pod.processes().iter().filter(|pid| String::from_utf8_lossy(&line(pid)).contains(part)).count()
}

#[tokio::test]
async fn a_command_answers_with_its_output_and_code_and_nothing_is_left_of_it() {
    for runtime in RUNTIMES {
        let mut pod = running(runtime).await;
        let request = pod.exec_request(
            "c",
            &["/bin/sh", "-c", "echo out; echo err >&2; ls /proc/self/fd; exit 9"],
        );
        let (stdout, stderr, end) = pod.exec(request).await.unwrap();
        let exit = end.exit.unwrap();
        assert_eq!((exit.code, end.timed_out, end.dropped), (9, false, 0));
        // 3 is the directory that ls reads.
        assert_eq!(String::from_utf8(stdout).unwrap(), "out\n0\n1\n2\n3\n");
        assert_eq!(String::from_utf8(stderr).unwrap(), "err\n");
        let request = pod.exec_request("c", &["/bin/sh", "-c", "kill -9 $$"]);
        let (_, _, end) = pod.exec(request).await.unwrap();
        assert_eq!((end.exit.unwrap().code, end.exit.unwrap().signal), (137, 9));
        pod.delete("c").await;
        pod.finish().await;
    }
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_refused_with_the_runtimes_words() {
    for runtime in RUNTIMES {
        let mut pod = running(runtime).await;
        let request = pod.exec_request("c", &["/no/such/command"]);
        let error = pod.exec(request).await.unwrap_err();
        assert_eq!(error.code(), Code::Aborted, "{error}");
        assert!(error.message().contains("/no/such/command"), "{error}");
        let request = pod.exec_request("none", &["/bin/true"]);
        assert_eq!(pod.exec(request).await.unwrap_err().code(), Code::NotFound);
        pod.delete("c").await;
        pod.finish().await;
    }
}

#[tokio::test]
async fn a_command_whose_time_is_up_is_gone_with_its_children_when_that_is_told() {
    for runtime in RUNTIMES {
        let mut pod = running(runtime).await;
        let mut request =
            pod.exec_request("c", &["/bin/sh", "-c", "echo begun; sleep 777 & sleep 777"]);
        request.timeout_ms = 300;
        let (stdout, _, end) = pod.exec(request).await.unwrap();
        assert_eq!(stdout, b"begun\n");
        assert!(end.timed_out);
        assert_eq!(end.exit.unwrap().signal, 9);
        assert_eq!(processes_named(&pod, "777"), 0);
        assert!(processes_named(&pod, "1000") > 0);
        pod.delete("c").await;
        pod.finish().await;
    }
}

#[tokio::test]
async fn output_beyond_the_limit_is_counted_and_dropped() {
    let mut pod = running(RUNTIMES[0]).await;
    let limit: u64 = 16 << 20;
    let script = format!("head -c {} /dev/zero; head -c {} /dev/zero >&2", limit + 12_345, limit);
    let request = pod.exec_request("c", &["/bin/sh", "-c", &script]);
    let (stdout, stderr, end) = pod.exec(request).await.unwrap();
    assert_eq!((stdout.len() as u64, stderr.len() as u64, end.dropped), (limit, limit, 12_345));
    assert_eq!(end.exit.unwrap().code, 0);
    pod.delete("c").await;
    pod.finish().await;
}

#[tokio::test]
async fn a_child_that_keeps_the_pipe_does_not_keep_the_answer() {
    let mut pod = running(RUNTIMES[0]).await;
    let mut request = pod.exec_request("c", &["/bin/sh", "-c", "sleep 888 & echo done"]);
    request.drain_ms = 200;
    let begun = Instant::now();
    let (stdout, _, end) = pod.exec(request).await.unwrap();
    assert_eq!((stdout.as_slice(), end.exit.unwrap().code), (b"done\n".as_slice(), 0));
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(3), "{took:?}");
    pod.delete("c").await;
    pod.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_command_with_it() {
    let mut pod = running(RUNTIMES[0]).await;
    let request = pod.exec_request("c", &["/bin/sh", "-c", "echo begun; sleep 999"]);
    let mut stream = pod.client.exec_sync(request).await.unwrap().into_inner();
    assert!(matches!(stream.message().await.unwrap().unwrap().kind, Some(Kind::Stdout(_))));
    assert!(processes_named(&pod, "999") > 0);
    drop(stream);
    eventually("the command is gone", || (processes_named(&pod, "999") == 0).then_some(())).await;
    pod.delete("c").await;
    pod.finish().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_its_command_and_nothing_else() {
    let mut pod = running(RUNTIMES[0]).await;
    let request = pod.exec_request("c", &["/bin/yes"]);
    let unread = pod.client.exec_sync(request).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Past the windows of the stream, everything else still answers, and the log is written.
    assert_eq!(pod.run_to_end("other", &sh("seq 10000")).await.code, 0);
    assert_eq!(pod.log("other").len(), 10_000);
    let memory = std::fs::read_to_string(format!("/proc/{}/statm", pod.shim.id())).unwrap();
    let pages: u64 = memory.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(pages * 4096 < 32 << 20, "{pages} pages");
    drop(unread);
    pod.delete("c").await;
    pod.finish().await;
}

#[tokio::test]
async fn many_commands_at_once_leave_no_descriptor_and_no_file() {
    let mut pod = running(RUNTIMES[0]).await;
    let request = pod.exec_request("c", &["/bin/true"]);
    pod.exec(request).await.unwrap();
    let before = pod.descriptors();
    for _ in 0..10 {
        let requests: Vec<_> = (0..5).map(|_| pod.exec_request("c", &["/bin/true"])).collect();
        let mut calls = tokio::task::JoinSet::new();
        for request in requests {
            let mut client = pod.client.clone();
            calls.spawn(async move {
                let mut stream = client.exec_sync(request).await.unwrap().into_inner();
                while let Some(message) = stream.message().await.unwrap() {
                    if let Some(Kind::End(end)) = message.kind {
                        assert_eq!(end.exit.unwrap().code, 0);
                    }
                }
            });
        }
        while let Some(call) = calls.join_next().await {
            call.unwrap();
        }
    }
    let (after, pod_ref) = (before, &pod);
    eventually("the descriptors are closed", || (pod_ref.descriptors() == after).then_some(()))
        .await;
    pod.delete("c").await;
    pod.finish().await;
}

#[tokio::test]
async fn no_command_is_run_once_the_container_has_ended() {
    let mut pod = running(RUNTIMES[0]).await;
    pod.signal("c", 9).await.unwrap();
    pod.exit("c").await;
    let request = pod.exec_request("c", &["/bin/true"]);
    assert_eq!(pod.exec(request).await.unwrap_err().code(), Code::FailedPrecondition);
    pod.finish().await;
}

#[tokio::test]
async fn a_command_in_a_container_that_is_killed_meanwhile_is_refused_as_in_one_that_has_exited() {
    for runtime in RUNTIMES {
        let mut pod = Pod::new(runtime).await;
        let mut refused = 0;
        for step in 0..12_u64 {
            let id = format!("c{step}");
            pod.run(&id, &sh("sleep 1000")).await;
            let request = pod.exec_request(&id, &["true"]);
            let mut client = pod.client.clone();
            let command = tokio::spawn(async move {
                let mut stream = client.exec_sync(request).await?.into_inner();
                while stream.message().await?.is_some() {}
                Ok::<(), tonic::Status>(())
            });
            tokio::time::sleep(Duration::from_millis(step)).await;
            pod.signal(&id, 9).await.unwrap();
            if let Err(status) = command.await.unwrap() {
                assert_eq!(status.code(), Code::FailedPrecondition, "{runtime}: {status}");
                refused += 1;
            }
            pod.exit(&id).await;
            pod.delete(&id).await;
        }
        assert!(refused > 0, "{runtime}: no kill came in between");
        pod.finish().await;
    }
}
