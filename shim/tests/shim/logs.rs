//! What arrives in the log, whatever a container prints.

use crate::harness::{Pod, RUNTIMES, eventually, sh};
use davit_proto::shim::{ReopenLogRequest, StateRequest};
use std::fs;
use std::time::Duration;

#[tokio::test]
async fn long_and_unfinished_lines_are_cut_and_nothing_is_lost() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    let script = "head -c 1000000 /dev/zero | busybox tr '\\0' x; echo; printf 'dos\\r\\nend' >&2";
    assert_eq!(pod.run_to_end("c", &sh(script)).await.code, 0);
    let log = pod.log("c");
    let (stdout, stderr): (Vec<_>, Vec<_>) = log.iter().partition(|l| l.starts_with("stdout"));
    assert_eq!(stderr, ["stderr F dos", "stderr P end"]);
    let contents: Vec<_> =
        stdout.iter().map(|l| l.split_once(' ').unwrap().1.split_once(' ').unwrap()).collect();
    let (last, partial) = contents.split_last().unwrap();
    assert!(partial.iter().all(|(tag, content)| *tag == "P" && content.len() == 16384));
    assert_eq!(last.0, "F");
    assert_eq!(contents.iter().map(|(_, content)| content.len()).sum::<usize>(), 1_000_000);
    pod.finish().await;
}

#[tokio::test]
async fn rotation_loses_and_repeats_nothing() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    pod.run("c", &sh("seq 200000")).await;
    let mut old = Vec::new();
    for n in 0..5 {
        let rotated = pod.dir.join(format!("old.{n}"));
        fs::rename(pod.log_path("c"), &rotated).unwrap();
        pod.client.reopen_log(ReopenLogRequest { id: "c".into() }).await.unwrap();
        assert!(pod.log_path("c").exists());
        old.push((fs::metadata(&rotated).unwrap().len(), rotated));
    }
    pod.exit("c").await;
    for (length, rotated) in &old {
        assert_eq!(fs::metadata(rotated).unwrap().len(), *length, "written to after the reopening");
    }
    let all = old.iter().map(|(_, path)| path.clone()).chain([pod.log_path("c")]);
    let numbers: Vec<String> = all.flat_map(|path| crate::harness::records(&path)).collect();
    let expected: Vec<String> = (1..=200_000).map(|n| format!("stdout F {n}")).collect();
    assert!(numbers == expected, "{} records", numbers.len());
    pod.finish().await;
}

#[tokio::test]
async fn without_a_log_the_output_is_drained() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    let mut container = sh("head -c 10000000 /dev/zero");
    container.request.log_path = "none".into();
    assert_eq!(pod.run_to_end("c", &container).await.code, 0);
    assert!(!pod.log_path("c").exists());
    pod.finish().await;
}

#[tokio::test]
async fn a_terminal_is_one_stream() {
    for runtime in RUNTIMES {
        let mut pod = Pod::new(runtime).await;
        let mut container =
            sh("test -t 0 && test -t 1 && test -t 2 && echo all; echo err >&2; exit 4");
        container.request.terminal = true;
        assert_eq!(pod.run_to_end("c", &container).await.code, 4);
        assert_eq!(pod.log("c"), ["stdout F all", "stdout F err"]);
        pod.finish().await;
    }
}

#[tokio::test]
async fn a_terminal_that_nobody_had_open_for_a_while_goes_on() {
    for runtime in RUNTIMES {
        let mut pod = Pod::new(runtime).await;
        let mut container =
            sh("echo early; exec </dev/null >/dev/null 2>&1; sleep 1; echo late >/dev/console; \
             head -c 100000 /dev/zero >/dev/console; sleep 1; printf last >/dev/console; exit 3");
        container.request.terminal = true;
        assert_eq!(pod.run_to_end("c", &container).await.code, 3);
        let log = pod.log("c");
        assert_eq!(log.first().map(String::as_str), Some("stdout F early"));
        assert_eq!(log.get(1).map(String::as_str), Some("stdout F late"));
        let rest: String = log.iter().skip(2).map(|line| &line["stdout P ".len()..]).collect();
        assert_eq!(rest.trim_start_matches('\0'), "last");
        assert_eq!(rest.len(), 100_004);
        pod.finish().await;
    }
}

#[tokio::test]
async fn who_writes_without_end_keeps_the_shim_from_nothing() {
    for terminal in [false, true] {
        let mut pod = Pod::new(RUNTIMES[0]).await;
        let mut container = sh("for n in 1 2 3; do cat /dev/zero & done; wait");
        container.request.terminal = terminal;
        // What is written is the shim's to read, and nobody's to keep.
        container.request.log_path = "none".into();
        pod.run("c", &container).await;
        for _ in 0..20 {
            let answer = pod.client.state(StateRequest {});
            tokio::time::timeout(Duration::from_secs(5), answer).await.unwrap().unwrap();
        }
        pod.signal_all("c", 9).await.unwrap();
        pod.exit("c").await;
        pod.finish().await;
    }
}

#[tokio::test]
async fn standard_input_stays_open_only_if_asked_for() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    assert_eq!(pod.run_to_end("closed", &sh("cat; exit 3")).await.code, 3);
    let mut open = sh("echo waits; cat; exit 3");
    open.request.stdin = true;
    pod.run("open", &open).await;
    eventually("it waits", || (!pod.log("open").is_empty()).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!pod.bundle("open").join("exit.json").exists());
    pod.delete("open").await;
    pod.finish().await;
}

#[tokio::test]
async fn a_process_that_keeps_the_pipe_delays_the_end_no_longer_than_the_drain() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    // In the host's PID namespace, nothing but the shim ends what the init leaves.
    let mut container = sh("sleep 1000 & exit 6");
    container.namespaces.retain(|(kind, _)| *kind != "pid");
    container.request.own_pid_namespace = false;
    let begun = std::time::Instant::now();
    assert_eq!(pod.run_to_end("c", &container).await.code, 6);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    assert_eq!(pod.processes(), Vec::<i32>::new());
    pod.finish().await;
}
