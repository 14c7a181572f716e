//! Clients attached to containers, by the daemon's own half of a session.

use crate::harness::{Container, PATIENCE, Pod, RUNTIMES, eventually, sh};
use crate::streams::{ALL, DRAIN, client, running};
use davit_proto::shim::StartRequest;
use davit_runtime::shim::ShimClient;
use davit_runtime::stream::{Ended, OpenFailure, Opening, Session, Size, Wanted, open};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const OUT: Wanted = Wanted { stdin: false, stdout: true, stderr: false, terminal: false };
const IN_OUT: Wanted = Wanted { stdin: true, stdout: true, stderr: false, terminal: false };

async fn attach(client: &ShimClient, id: &str, wanted: Wanted) -> Result<Session, OpenFailure> {
    open(client, Opening::Attach { id: id.to_owned() }, wanted, DRAIN).await
}

async fn read_until(session: &mut Session, seen: &mut String, wanted: &str) {
    let stdout = session.stdout.as_mut().unwrap();
    let read = async {
        let mut looked = 0;
        while !seen[looked..].contains(wanted) {
            looked = seen.len().saturating_sub(wanted.len());
            let mut buffer = vec![0; 16 * 1024];
            let n = stdout.read(&mut buffer).await.unwrap();
            assert!(n > 0, "{seen:?} has no {wanted:?}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no {wanted:?}"));
}

async fn rest(session: &mut Session) -> String {
    let mut all = Vec::new();
    let stdout = session.stdout.as_mut().unwrap();
    tokio::time::timeout(PATIENCE, stdout.read_to_end(&mut all)).await.unwrap().unwrap();
    String::from_utf8(all).unwrap()
}

async fn say(session: &mut Session, text: &str) {
    session.stdin.as_mut().unwrap().write_all(text.as_bytes()).await.unwrap();
}

/// Its input is for all clients.
fn with_input(script: &str) -> Container {
    let mut container = sh(script);
    container.request.stdin = true;
    container
}

/// Its input ends with the first client.
fn with_input_once(script: &str) -> Container {
    let mut container = with_input(script);
    container.request.stdin_once = true;
    container
}

fn with_terminal(script: &str) -> Container {
    let mut container = sh(script);
    container.request.terminal = true;
    container.request.stdin = true;
    container
}

fn exited(code: i32) -> Ended {
    Ended::Exited { code, signal: 0 }
}

#[tokio::test]
async fn a_client_gets_all_from_its_start_nothing_from_before_and_the_exit_last() {
    for runtime in RUNTIMES {
        let mut pod = Pod::new(runtime).await;
        let container = with_input("echo early; read x; seq 20000; echo err >&2; exit 7");
        pod.run("c", &container).await;
        let logged = || (pod.log("c").len() == 1).then_some(());
        eventually("the first line is logged", logged).await;
        let client = client(&pod);
        let mut one = attach(&client, "c", ALL).await.unwrap();
        let mut two = attach(&client, "c", OUT).await.unwrap();
        say(&mut one, "go\n").await;
        let expected: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
        assert_eq!(rest(&mut one).await, expected);
        assert_eq!(rest(&mut two).await, expected);
        let mut errors = String::new();
        one.stderr.as_mut().unwrap().read_to_string(&mut errors).await.unwrap();
        assert_eq!(errors, "err\n");
        assert_eq!(one.control.ended().await.unwrap(), exited(7));
        assert_eq!(two.control.ended().await.unwrap(), exited(7));
        assert!(attach(&client, "c", OUT).await.is_err(), "it has ended");
        assert_eq!(pod.log("c").len(), 20_002);
        pod.delete("c").await;
        pod.finish().await;
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off_and_neither_log_nor_others_lose_a_line() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    let container = with_input("read x; seq 300000; read x");
    pod.run("c", &container).await;
    let client = client(&pod);
    let mut stuck = attach(&client, "c", OUT).await.unwrap();
    let mut other = attach(&client, "c", IN_OUT).await.unwrap();
    let begun = Instant::now();
    say(&mut other, "go\n").await;
    let mut seen = String::new();
    read_until(&mut other, &mut seen, "\n300000\n").await;
    let took = begun.elapsed();
    println!("300000 lines; the others were held up for {took:?} in all");
    assert!(took < Duration::from_secs(6), "{took:?}");
    let expected: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert!(seen == expected);
    let lines = || (pod.log("c").len() == 300_000).then(|| pod.log("c"));
    let log = eventually("the log is whole", lines).await;
    assert!(log.iter().zip(1..).all(|(line, n)| *line == format!("stdout F {n}")));
    let Ended::Detached { reason } = stuck.control.ended().await.unwrap() else {
        panic!("not cut off")
    };
    println!("cut off: {reason}");
    // What had reached its pipe is there still, and then the end.
    let last = rest(&mut stuck).await;
    assert!(!last.is_empty() && expected.starts_with(&last));
    say(&mut other, "go\n").await;
    assert_eq!(other.control.ended().await.unwrap(), exited(0));
    pod.delete("c").await;
    pod.finish().await;
}

#[tokio::test]
async fn an_unread_client_does_not_delay_the_exit_and_gets_what_was_left() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    let client = client(&pod);
    let mut times = Vec::new();
    for id in ["c", "d", "e"] {
        // More than the client's pipe holds, less than it and the queue.
        pod.run(id, &with_input("read x; head -c 200000 /dev/zero; exit 5")).await;
        let mut session = attach(&client, id, IN_OUT).await.unwrap();
        let begun = Instant::now();
        say(&mut session, "go\n").await;
        assert_eq!(pod.exit(id).await.code, 5);
        times.push(begun.elapsed());
        assert_eq!(rest(&mut session).await.len(), 200_000);
        assert_eq!(session.control.ended().await.unwrap(), exited(5));
        pod.delete(id).await;
    }
    // Less than a client that stalls is waited for. A busy machine only adds, and not each time; such a wait is there each time.
    assert!(times.iter().any(|took| *took < Duration::from_secs(1)), "{times:?}");
    pod.finish().await;
}

#[tokio::test]
async fn input_that_is_for_one_client_ends_with_the_first() {
    for runtime in RUNTIMES {
        let mut pod = Pod::new(runtime).await;
        pod.run("c", &with_input_once("cat; echo end; sleep 1000")).await;
        let client = client(&pod);
        let mut other = attach(&client, "c", IN_OUT).await.unwrap();
        let mut first = attach(&client, "c", IN_OUT).await.unwrap();
        say(&mut first, "hello\n").await;
        let mut seen = String::new();
        read_until(&mut first, &mut seen, "hello\n").await;
        first.stdin = None;
        read_until(&mut first, &mut seen, "hello\nend\n").await;
        // Nobody's input goes anywhere now.
        let refused = async {
            let stdin = other.stdin.as_mut().unwrap();
            loop {
                if let Err(error) = stdin.write_all(b"x\n").await {
                    return error.kind();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let kind = tokio::time::timeout(PATIENCE, refused).await.unwrap();
        assert_eq!(kind, std::io::ErrorKind::BrokenPipe);
        let later = attach(&client, "c", IN_OUT).await.unwrap();
        pod.signal("c", 9).await.unwrap();
        pod.exit("c").await;
        drop((first, other, later));
        pod.delete("c").await;
        pod.finish().await;
    }
}

#[tokio::test]
async fn what_a_client_said_before_it_went_is_heard_and_then_the_input_ends() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    let client = client(&pod);
    for n in 0..50 {
        let id = format!("n{n}");
        pod.run(&id, &with_input_once("cat")).await;
        let mut session = attach(&client, &id, IN_OUT).await.unwrap();
        say(&mut session, "last\n").await;
        drop(session);
        assert_eq!(pod.exit(&id).await.code, 0);
        assert_eq!(pod.log(&id), ["stdout F last"], "{n}");
        pod.delete(&id).await;
    }
    // More than the container's pipe holds, and nothing of it read for a while.
    pod.run("c", &with_input_once("echo begun; sleep 1; wc -c")).await;
    let mut session = attach(&client, "c", IN_OUT).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let writing = async {
        stdin.write_all(&[b'x'; 200_000]).await.unwrap();
        drop(stdin);
    };
    tokio::time::timeout(PATIENCE, writing).await.unwrap();
    drop(session);
    assert_eq!(pod.exit("c").await.code, 0);
    assert_eq!(pod.log("c"), ["stdout F begun", "stdout F 200000"]);
    pod.delete("c").await;
    pod.finish().await;
}

#[tokio::test]
async fn a_container_that_does_not_read_is_not_waited_for_for_ever() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    pod.run("c", &with_input_once("sleep 12; wc -c; sleep 1000")).await;
    let client = client(&pod);
    let mut session = attach(&client, "c", IN_OUT).await.unwrap();
    let much = vec![b'x'; 1 << 20];
    let writing = session.stdin.as_mut().unwrap().write_all(&much);
    let written = tokio::time::timeout(Duration::from_secs(1), writing).await;
    assert!(written.is_err(), "the pipes hold it all");
    drop(session);
    // What was in the container's own pipe is read, and then the end.
    let log = eventually("it is read", || (!pod.log("c").is_empty()).then(|| pod.log("c"))).await;
    assert_eq!(log, ["stdout F 65536"]);
    pod.signal("c", 9).await.unwrap();
    pod.exit("c").await;
    pod.delete("c").await;
    pod.finish().await;
}

#[tokio::test]
async fn input_that_is_for_all_clients_outlives_each() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    pod.run("c", &with_input("while read x; do echo got $x; done")).await;
    let client = client(&pod);
    for n in 0..3 {
        let mut session = attach(&client, "c", IN_OUT).await.unwrap();
        say(&mut session, &format!("{n}\n")).await;
        let mut seen = String::new();
        read_until(&mut session, &mut seen, &format!("got {n}\n")).await;
        if n == 1 {
            session.stdin.as_mut().unwrap().shutdown().await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(pod.log("c"), ["stdout F got 0", "stdout F got 1", "stdout F got 2"]);
    pod.signal("c", 9).await.unwrap();
    pod.exit("c").await;
    pod.delete("c").await;
    pod.finish().await;
}

#[tokio::test]
async fn a_terminal_is_attached_to_before_the_start_and_resized() {
    for runtime in RUNTIMES {
        let mut pod = Pod::new(runtime).await;
        let container = with_terminal(
            "stty size; trap : WINCH; while :; do read x && stty size; [ \"$x\" = bye ] && exit 3; done",
        );
        pod.create("c", &container).await.unwrap();
        let client = client(&pod);
        let mut session = attach(&client, "c", IN_OUT).await.unwrap();
        session.control.resizer().resize(Size { width: 101, height: 31 });
        // There is nothing to see of it before the start.
        tokio::time::sleep(Duration::from_secs(1)).await;
        pod.client.start(StartRequest { id: "c".to_owned(), timeout_ms: 0 }).await.unwrap();
        let mut seen = String::new();
        read_until(&mut session, &mut seen, "31 101\r\n").await;
        for n in 1..=10_000_u16 {
            session.control.resizer().resize(Size { width: n, height: 5 });
        }
        session.control.resizer().resize(Size { width: 77, height: 22 });
        let begun = Instant::now();
        while !seen.contains("\r\n22 77\r\n") {
            assert!(begun.elapsed() < PATIENCE, "{seen:?}");
            let read = seen.len();
            say(&mut session, "word\n").await;
            let mut more = String::new();
            read_until(&mut session, &mut more, "word\r\n").await;
            seen.push_str(&more);
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(seen.len() > read);
        }
        let wanted = Wanted { stderr: true, ..OUT };
        let refused = attach(&client, "c", wanted).await.unwrap_err();
        println!("{refused}");
        say(&mut session, "bye\n").await;
        assert_eq!(session.control.ended().await.unwrap(), exited(3));
        pod.delete("c").await;
        pod.finish().await;
    }
}

#[tokio::test]
async fn a_short_command_on_a_terminal_loses_nothing() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    let client = client(&pod);
    for n in 0..30 {
        let id = format!("n{n}");
        pod.create(&id, &with_terminal("echo a; echo b; printf last")).await.unwrap();
        let mut session = attach(&client, &id, OUT).await.unwrap();
        pod.client.start(StartRequest { id: id.clone(), timeout_ms: 0 }).await.unwrap();
        assert_eq!(rest(&mut session).await, "a\r\nb\r\nlast");
        assert_eq!(session.control.ended().await.unwrap(), exited(0));
        pod.delete(&id).await;
    }
    pod.finish().await;
}

/// What a process has and holds: descriptors, and KiB of memory of its own; pages of code come and go.
fn holds(pod: &Pod) -> (usize, u64) {
    let text = std::fs::read_to_string(format!("/proc/{}/statm", pod.shim.id())).unwrap();
    let pages: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    (pod.descriptors(), (pages[1] - pages[2]) * 4)
}

async fn cycles(pod: &Pod, count: usize) {
    let client = client(pod);
    for n in 0..count {
        let wanted = if n % 2 == 0 { ALL } else { OUT };
        let session = attach(&client, "c", wanted).await.unwrap();
        if n % 3 == 0 {
            tokio::task::yield_now().await;
        }
        drop(session);
    }
}

async fn flat(count: usize) {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    pod.run("c", &with_input("while :; do echo line; usleep 20000; done")).await;
    cycles(&pod, 200).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let (descriptors, memory) = holds(&pod);
    let begun = Instant::now();
    cycles(&pod, count).await;
    println!("{count} attaches: {:?} each", begun.elapsed() / u32::try_from(count).unwrap());
    eventually("the descriptors are closed", || (holds(&pod).0 <= descriptors).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let after = holds(&pod);
    println!("descriptors {descriptors} → {}, memory {memory} KiB → {} KiB", after.0, after.1);
    assert!(after.1 <= memory + 256, "{memory} KiB, then {} KiB", after.1);
    pod.signal("c", 9).await.unwrap();
    pod.exit("c").await;
    pod.delete("c").await;
    pod.finish().await;
}

#[tokio::test]
async fn two_thousand_attaches_leave_nothing() {
    flat(2000).await;
}

#[tokio::test]
#[ignore = "takes its time; the same with fewer is not ignored"]
async fn ten_thousand_attaches_leave_nothing() {
    flat(10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_goes_into_a_container_and_out_of_it() {
    const MUCH: u64 = 1 << 30;
    let mut pod = Pod::new(RUNTIMES[0]).await;
    let rate = |much: u64, begun: Instant| much as f64 / begun.elapsed().as_secs_f64() / 1e9;
    let client = client(&pod);
    // What counts the bytes takes longer than what drops them.
    for (id, script, much, said) in [
        ("c", "wc -c", MUCH / 8, "134217728\n"),
        ("e", "dd of=/dev/null bs=1M 2>&1", MUCH, " records out\n"),
    ] {
        pod.run(id, &with_input_once(script)).await;
        let mut session = attach(&client, id, IN_OUT).await.unwrap();
        let (zeros, begun) = (vec![0; 1 << 16], Instant::now());
        let mut stdin = session.stdin.take().unwrap();
        for _ in 0..much / (1 << 16) {
            stdin.write_all(&zeros).await.unwrap();
        }
        drop(stdin);
        let rest = rest(&mut session).await;
        assert!(rest.ends_with(said), "{rest}");
        println!("attach, in, {script}: {:.2} GB/s", rate(much, begun));
    }
    let mut container = with_input("read x; dd if=/dev/zero bs=1M count=1024");
    container.request.log_path = "none".to_owned();
    pod.run("d", &container).await;
    let mut session = attach(&client, "d", IN_OUT).await.unwrap();
    let begun = Instant::now();
    say(&mut session, "go\n").await;
    let (mut all, mut buffer) = (0_u64, vec![0; 1 << 16]);
    let stdout = session.stdout.as_mut().unwrap();
    loop {
        let read = stdout.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        all += read as u64;
    }
    assert_eq!(all, MUCH);
    println!("attach, out: {:.2} GB/s", rate(MUCH, begun));
    for id in ["c", "d", "e"] {
        pod.delete(id).await;
    }
    pod.finish().await;
}

#[tokio::test]
async fn a_container_goes_on_when_everybody_attached_has_gone() {
    let mut pod = running(RUNTIMES[0]).await;
    let container =
        with_input("n=0; while [ $n -lt 50 ]; do n=$((n+1)); echo $n; usleep 10000; done");
    pod.run("d", &container).await;
    {
        // A daemon of its own runtime, which ends with all of its descriptors.
        let dir = pod.dir.clone();
        drop(client(&pod));
        let daemon = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let client = ShimClient::new(&dir, PATIENCE);
                let mut session = attach(&client, "d", IN_OUT).await.unwrap();
                let mut seen = String::new();
                read_until(&mut session, &mut seen, "\n").await;
            });
        });
        daemon.join().unwrap();
    }
    assert_eq!(pod.exit("d").await.code, 0);
    assert_eq!(pod.log("d").len(), 50);
    pod.delete("d").await;
    crate::streams::finish(pod).await;
}
