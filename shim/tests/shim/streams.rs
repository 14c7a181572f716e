//! Commands with streams of their client's, by the daemon's own half of a session.

use crate::harness::{PATIENCE, Pod, RUNTIMES, eventually, random, sh};
use davit_runtime::shim::{ShimClient, ShimError};
use davit_runtime::stream::{Ended, OpenFailure, Opening, Session, Size, Wanted, open};
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long output may come after the end, where a test does not say.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

pub(crate) const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, terminal: false };
const TERMINAL: Wanted = Wanted { stdin: true, stdout: true, stderr: false, terminal: true };

/// The daemon's client of a pod's shim.
pub(crate) fn client(pod: &Pod) -> ShimClient {
    let name = pod.dir.join(davit_proto::disk::SHIM_SOCKET);
    if !name.exists() {
        std::os::unix::fs::symlink("s", name).unwrap();
    }
    ShimClient::new(&pod.dir, PATIENCE)
}

pub(crate) async fn running(runtime: &str) -> Pod {
    let mut pod = Pod::new(runtime).await;
    pod.run("c", &sh("trap 'exit 0' TERM; sleep 1000 & wait")).await;
    pod
}

pub(crate) async fn exec(pod: &Pod, args: &[&str], wanted: Wanted) -> Result<Session, OpenFailure> {
    let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
    let mut process = pod.process(&args);
    process["terminal"] = wanted.terminal.into();
    let process = process.to_string().into_bytes();
    let opening = Opening::Exec { id: "c".to_owned(), exec_id: random(), process };
    open(&client(pod), opening, wanted, DRAIN).await
}

pub(crate) async fn finish(mut pod: Pod) {
    pod.delete("c").await;
    pod.finish().await;
}

async fn text(mut output: impl AsyncReadExt + Unpin) -> String {
    let mut all = String::new();
    tokio::time::timeout(PATIENCE, output.read_to_string(&mut all)).await.unwrap().unwrap();
    all
}

fn exited(code: i32) -> Ended {
    Ended::Exited { code, signal: 0 }
}

fn running_as(pod: &Pod, part: &str) -> usize {
    let line = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pod.processes().iter().filter(|pid| String::from_utf8_lossy(&line(pid)).contains(part)).count()
}

#[tokio::test]
async fn a_command_has_its_clients_streams_and_no_other_descriptor() {
    for runtime in RUNTIMES {
        let pod = running(runtime).await;
        let script = "read line; echo got $line; echo err >&2; ls /proc/self/fd; exit 9";
        let session = exec(&pod, &["/bin/sh", "-c", script], ALL).await.unwrap();
        let Session { stdin, stdout, stderr, mut control } = session;
        let mut stdin = stdin.unwrap();
        stdin.write_all(b"this\n").await.unwrap();
        stdin.shutdown().await.unwrap();
        // 3 is the directory that ls reads.
        assert_eq!(text(stdout.unwrap()).await, "got this\n0\n1\n2\n3\n");
        assert_eq!(text(stderr.unwrap()).await, "err\n");
        assert_eq!(control.ended().await.unwrap(), exited(9));
        assert_eq!(control.ended().await.unwrap(), exited(9));
        let session = exec(&pod, &["/bin/sh", "-c", "kill -9 $$"], Wanted::default()).await;
        let ended = session.unwrap().control.ended().await.unwrap();
        assert_eq!(ended, Ended::Exited { code: 137, signal: 9 });
        finish(pod).await;
    }
}

#[tokio::test]
async fn streams_that_are_not_wanted_are_none() {
    let pod = running(RUNTIMES[0]).await;
    let wanted = Wanted { stdout: true, ..Wanted::default() };
    let script = "cat; echo err >&2; echo out";
    let session = exec(&pod, &["/bin/sh", "-c", script], wanted).await.unwrap();
    assert!(session.stdin.is_none() && session.stderr.is_none());
    assert_eq!(text(session.stdout.unwrap()).await, "out\n");
    finish(pod).await;
}

#[tokio::test]
async fn a_refusal_comes_fast_and_in_the_runtimes_words() {
    for runtime in RUNTIMES {
        let pod = running(runtime).await;
        for wanted in [ALL, TERMINAL] {
            let begun = Instant::now();
            let refused = exec(&pod, &["/no/such/command"], wanted).await.unwrap_err();
            let took = begun.elapsed();
            println!("{runtime}: refused after {took:?}");
            let OpenFailure::Shim(ShimError::Runtime { message }) = refused else {
                panic!("{refused:?}")
            };
            assert!(message.contains("/no/such/command"), "{message}");
            assert!(took < Duration::from_secs(2), "{took:?}");
        }
        let before = pod.descriptors();
        for _ in 0..20 {
            drop(exec(&pod, &["/no/such/command"], TERMINAL).await.unwrap_err());
        }
        eventually("nothing is left", || (pod.descriptors() <= before).then_some(())).await;
        finish(pod).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_passes_in_and_out_without_a_byte_lost() {
    const MUCH: u64 = 1 << 30;
    let pod = running(RUNTIMES[0]).await;
    let session = exec(&pod, &["/bin/cat"], ALL).await.unwrap();
    let (mut stdin, mut stdout) = (session.stdin.unwrap(), session.stdout.unwrap());
    let mut control = session.control;
    // A block whose length is prime to everything, so that a lost or doubled piece shows.
    let block: Vec<u8> = (0..65_521_u32).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect();
    let begun = Instant::now();
    let sent = block.clone();
    let writing = tokio::spawn(async move {
        let mut left = MUCH;
        while left > 0 {
            let piece = usize::try_from(left.min(sent.len() as u64)).unwrap();
            stdin.write_all(&sent[..piece]).await.unwrap();
            left -= piece as u64;
        }
        stdin.shutdown().await.unwrap();
    });
    let (mut all, mut at, mut buffer) = (0_u64, 0, vec![0; 1 << 16]);
    loop {
        let read = stdout.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        let mut piece = &buffer[..read];
        while !piece.is_empty() {
            let n = piece.len().min(block.len() - at);
            assert!(piece[..n] == block[at..at + n], "at {all}");
            (piece, at, all) = (&piece[n..], (at + n) % block.len(), all + n as u64);
        }
    }
    writing.await.unwrap();
    assert_eq!(all, MUCH);
    assert_eq!(control.ended().await.unwrap(), exited(0));
    let rate = MUCH as f64 / begun.elapsed().as_secs_f64() / 1e9;
    println!("exec cat, in and out at once: {rate:.2} GB/s each way");
    for (direction, args) in [
        ("out", ["/bin/dd", "if=/dev/zero", "bs=1M", "count=1024"].as_slice()),
        ("in", &["/bin/dd", "of=/dev/null", "bs=1M"]),
    ] {
        one_way(&pod, direction, args).await;
    }
    finish(pod).await;
}

async fn one_way(pod: &Pod, direction: &str, args: &[&str]) {
    const MUCH: u64 = 1 << 30;
    let session = exec(pod, args, ALL).await.unwrap();
    let (mut stdin, mut stdout) = (session.stdin.unwrap(), session.stdout.unwrap());
    let begun = Instant::now();
    if direction == "in" {
        let zeros = vec![0; 1 << 16];
        for _ in 0..MUCH / (1 << 16) {
            stdin.write_all(&zeros).await.unwrap();
        }
        stdin.shutdown().await.unwrap();
        // Counting the bytes there would take longer than sending them; `cat` above has shown that all arrive.
        assert!(text(session.stderr.unwrap()).await.ends_with(" records out\n"));
    } else {
        let (mut all, mut buffer, mut sum) = (0_u64, vec![0; 1 << 16], Sha256::new());
        loop {
            let read = stdout.read(&mut buffer).await.unwrap();
            if read == 0 {
                break;
            }
            if all < 1 << 20 {
                sum.update(&buffer[..read]);
            }
            all += read as u64;
        }
        assert_eq!(all, MUCH);
        assert!(!sum.finalize().is_empty());
    }
    let rate = MUCH as f64 / begun.elapsed().as_secs_f64() / 1e9;
    println!("exec {}, {direction}: {rate:.2} GB/s", args[0]);
}

#[tokio::test]
async fn a_short_command_loses_none_of_its_output() {
    for runtime in RUNTIMES {
        let pod = running(runtime).await;
        let without = Wanted { terminal: false, ..TERMINAL };
        for (wanted, expected) in [(without, "a\nb\nlast"), (TERMINAL, "a\r\nb\r\nlast")] {
            for _ in 0..100 {
                let args = ["/bin/sh", "-c", "echo a; echo b; printf last"];
                let session = exec(&pod, &args, wanted).await.unwrap();
                assert_eq!(text(session.stdout.unwrap()).await, expected);
                let mut control = session.control;
                assert_eq!(control.ended().await.unwrap(), exited(0));
            }
        }
        finish(pod).await;
    }
}

#[tokio::test]
async fn a_terminal_has_the_size_that_was_asked_for_last() {
    for runtime in RUNTIMES {
        let pod = running(runtime).await;
        let args = [
            "/bin/sh",
            "-c",
            "trap 'echo changed' WINCH; tty; while :; do read x && stty size; [ \"$x\" = bye ] && exit 3; done",
        ];
        let session = exec(&pod, &args, TERMINAL).await.unwrap();
        let (mut stdin, mut stdout) = (session.stdin.unwrap(), session.stdout.unwrap());
        let (resizer, mut control) = (session.control.resizer(), session.control);
        let mut seen = String::new();
        read_until(&mut stdout, &mut seen, "/dev/pts/").await;
        for n in 1..=5000 {
            resizer.resize(Size { width: n, height: 1 });
        }
        resizer.resize(Size { width: 120, height: 40 });
        resizer.resize(Size { width: 0, height: 40 });
        read_until(&mut stdout, &mut seen, "changed").await;
        eventually_size(&mut stdin, &mut stdout, "40 120").await;
        stdin.write_all(b"bye\n").await.unwrap();
        assert_eq!(control.ended().await.unwrap(), exited(3));
        finish(pod).await;
    }
}

async fn read_until(output: &mut (impl AsyncReadExt + Unpin), seen: &mut String, wanted: &str) {
    let read = async {
        while !seen.contains(wanted) {
            let mut buffer = [0; 1024];
            let n = output.read(&mut buffer).await.unwrap();
            assert!(n > 0, "{seen:?} has no {wanted:?}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no {wanted:?}"));
}

async fn eventually_size(
    stdin: &mut (impl AsyncWriteExt + Unpin),
    stdout: &mut (impl AsyncReadExt + Unpin),
    wanted: &str,
) {
    let mut seen = String::new();
    for _ in 0..100 {
        stdin.write_all(b"x\n").await.unwrap();
        let answer = async {
            while !seen.contains(wanted) {
                let mut buffer = [0; 1024];
                let n = stdout.read(&mut buffer).await.unwrap();
                assert!(n > 0, "{seen:?} has no {wanted:?}");
                seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        };
        if tokio::time::timeout(Duration::from_millis(300), answer).await.is_ok() {
            return;
        }
    }
    panic!("never {wanted:?} in {seen:?}");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_command_with_it_and_what_ends_by_itself_may() {
    for (wanted, script) in [
        (ALL, "echo begun; trap '' PIPE HUP; sleep 777 & while :; do sleep 777; done"),
        (TERMINAL, "echo begun; sleep 777"),
    ] {
        let pod = running(RUNTIMES[0]).await;
        let session = exec(&pod, &["/bin/sh", "-c", script], wanted).await.unwrap();
        let Session { stdin, mut stdout, stderr, control } = session;
        let mut seen = String::new();
        read_until(stdout.as_mut().unwrap(), &mut seen, "begun").await;
        eventually("it runs", || (running_as(&pod, "777") > 0).then_some(())).await;
        // Any part keeps it up.
        drop((stdin, stderr, control));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(running_as(&pod, "777") > 0);
        drop(stdout);
        let begun = Instant::now();
        eventually("it is gone", || (running_as(&pod, "777") == 0).then_some(())).await;
        println!("gone {:?} after its client (terminal: {})", begun.elapsed(), wanted.terminal);
        assert!(running_as(&pod, "1000") > 0);
        finish(pod).await;
    }
}

#[tokio::test]
async fn what_a_command_leaves_in_the_background_stays_and_does_not_keep_the_stream() {
    let pod = running(RUNTIMES[0]).await;
    let wanted = Wanted { stdout: true, ..Wanted::default() };
    let args = ["/bin/sh", "-c", "sleep 888 & echo done"];
    let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
    let process = pod.process(&args).to_string().into_bytes();
    let opening = Opening::Exec { id: "c".to_owned(), exec_id: random(), process };
    let drain = Duration::from_millis(300);
    let session = open(&client(&pod), opening, wanted, drain).await.unwrap();
    let begun = Instant::now();
    assert_eq!(text(session.stdout.unwrap()).await, "done\n");
    assert!(begun.elapsed() >= drain && begun.elapsed() < Duration::from_secs(3));
    let mut control = session.control;
    assert_eq!(control.ended().await.unwrap(), exited(0));
    drop(control);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(running_as(&pod, "888"), 1);
    finish(pod).await;
}

#[tokio::test]
async fn a_hundred_commands_at_once_all_run_and_more_than_fit_are_refused() {
    for runtime in RUNTIMES {
        let pod = running(runtime).await;
        exec(&pod, &["/bin/true"], ALL).await.unwrap().control.ended().await.unwrap();
        let before = pod.descriptors();
        let begun = Instant::now();
        let opening = (0..100).map(|_| exec(&pod, &["/bin/cat"], ALL));
        let sessions = futures_util::future::join_all(opening).await;
        for (n, session) in sessions.into_iter().enumerate() {
            let Session { stdin, stdout, mut control, .. } = session.unwrap();
            let mut stdin = stdin.unwrap();
            stdin.write_all(format!("I am {n}").as_bytes()).await.unwrap();
            drop(stdin);
            assert_eq!(text(stdout.unwrap()).await, format!("I am {n}"));
            assert_eq!(control.ended().await.unwrap(), exited(0));
        }
        println!("{runtime}: 100 commands at once in {:?}", begun.elapsed());
        eventually("the descriptors are closed", || (pod.descriptors() <= before).then_some(()))
            .await;
        finish(pod).await;
    }
}

#[tokio::test]
async fn an_unread_command_holds_up_nothing_and_its_container_stops_at_once() {
    let mut pod = running(RUNTIMES[0]).await;
    let unread = exec(&pod, &["/bin/yes"], ALL).await.unwrap();
    let unread_terminal = exec(&pod, &["/bin/yes"], TERMINAL).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(pod.run_to_end("other", &sh("seq 10000")).await.code, 0);
    let begun = Instant::now();
    pod.signal("c", 15).await.unwrap();
    pod.exit("c").await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    pod.delete("c").await;
    pod.delete("other").await;
    for mut session in [unread, unread_terminal] {
        assert_eq!(session.control.ended().await.unwrap(), Ended::Exited { code: 137, signal: 9 });
    }
    pod.finish().await;
}
