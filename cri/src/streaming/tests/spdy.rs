use super::*;
use crate::streaming::command::spdy::{Version, serve};
use crate::streaming::spdy::tests::client::{Client, Seen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Spoken = Client<DuplexStream>;

/// A client of `version`, and what becomes of the server's side.
fn meet(version: Version, command: Command, terms: Terms) -> (Spoken, tokio::task::JoinHandle<()>) {
    let (near, far) = tokio::io::duplex(PIPE);
    (Client::new(near), tokio::spawn(serve(far, version, command, terms)))
}

async fn open(client: &mut Spoken, kinds: &[&str]) {
    for (at, kind) in kinds.iter().enumerate() {
        let id = u32::try_from(at).unwrap() * 2 + 1;
        client.opened(id, &[("streamtype", kind)]).await;
    }
}

/// What each stream says until the session ends, with `!` where it was reset and `.` where it ended.
async fn rest(client: &mut Spoken, streams: usize) -> Vec<String> {
    let mut said = vec![String::new(); streams];
    let mut on = |id: u32, text: &str| said[(id as usize - 1) / 2].push_str(text);
    loop {
        match client.seen().await {
            Some(Seen::Data(id, bytes)) => on(id, &String::from_utf8(bytes).unwrap()),
            Some(Seen::Fin(id)) => on(id, "."),
            Some(Seen::Reset(id, _)) => on(id, "!"),
            Some(Seen::GoAway(..)) => {
                client.io.shutdown().await.unwrap();
            }
            None => return said,
            Some(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn version_4_passes_on_everything_and_then_tells_the_exit_code() {
    let (backend, mut processes) = Puppeteer::new();
    let (mut client, server) = meet(Version::V4, command(Kind::Exec, backend, ALL), terms());
    open(&mut client, &["error", "stdin", "stdout", "stderr"]).await;
    let mut process = processes.recv().await.unwrap();
    client.data(3, b"in").await;
    client.fin(3).await;
    let mut read = String::new();
    process.stdin.take().unwrap().read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "in");
    process.stdout.take().unwrap().write_all(b"out").await.unwrap();
    process.stderr.take().unwrap().write_all(b"err").await.unwrap();
    process.exit(3);
    let said = rest(&mut client, 4).await;
    assert!(
        said[0].contains(r#""reason":"NonZeroExitCode""#) && said[0].ends_with("}."),
        "{said:?}"
    );
    assert_eq!(said[1..], [".", "out.", "err."]);
    server.await.unwrap();
}

#[tokio::test]
async fn before_version_4_success_is_silent_and_failure_is_text() {
    for (version, code, told) in [
        (Version::V2, 0, "."),
        (Version::V3, 0, "."),
        (Version::V2, 7, "command terminated with non-zero exit code: exit status 7."),
        (Version::V3, 7, "command terminated with non-zero exit code: exit status 7."),
    ] {
        let (backend, mut processes) = Puppeteer::new();
        let (mut client, _server) = meet(version, command(Kind::Exec, backend, OUTPUT), terms());
        open(&mut client, &["stdout", "error"]).await;
        let mut process = processes.recv().await.unwrap();
        drop(process.stdout.take());
        process.exit(code);
        assert_eq!(rest(&mut client, 2).await, [".", told], "{version:?}");
    }
}

#[tokio::test]
async fn version_1_has_the_first_servers_quirks() {
    let (backend, mut processes) = Puppeteer::new();
    let (mut client, _server) = meet(Version::V1, command(Kind::Exec, backend, ALL), terms());
    open(&mut client, &["error", "stdin", "stdout", "stderr"]).await;
    let mut process = processes.recv().await.unwrap();
    let quirks = [client.seen().await.unwrap(), client.seen().await.unwrap()];
    assert!(quirks.contains(&Seen::Fin(3)), "{quirks:?}");
    assert!(quirks.iter().any(|seen| matches!(seen, Seen::Reset(1, _))), "{quirks:?}");
    // The input goes on all the same.
    client.data(3, b"in").await;
    let mut read = [0; 2];
    process.stdin.as_mut().unwrap().read_exact(&mut read).await.unwrap();
    process.stdout.take().unwrap().write_all(b"out").await.unwrap();
    drop(process.stderr.take());
    process.exit(1);
    assert_eq!(rest(&mut client, 4).await, ["", "", "out.", "."]);
}

#[tokio::test]
async fn a_flood_of_sizes_ends_with_the_last() {
    let (backend, mut processes) = Puppeteer::new();
    let (mut client, _server) = meet(Version::V4, command(Kind::Exec, backend, TERMINAL), terms());
    open(&mut client, &["error", "stdin", "stdout", "resize"]).await;
    let mut process = processes.recv().await.unwrap();
    for width in 1..=2000 {
        client.data(7, format!("{{\"Width\":{width},\"Height\":24}}\n").as_bytes()).await;
    }
    client.data(7, b"{\"Width\":0,\"Height\":0}{\"Width\":0").await;
    client.data(7, b",\"Height\":7}{\"Width\":99,\"Height\":33}").await;
    loop {
        let size = tokio::time::timeout(PATIENCE, process.sizes.recv()).await.unwrap().unwrap();
        if size == (Size { width: 99, height: 33 }) {
            break;
        }
    }
    assert!(process.sizes.try_recv().is_err());
}

#[tokio::test]
async fn a_container_whose_input_goes_on_is_left_by_the_end_of_a_clients() {
    for (wanted, last) in [(TERMINAL, "resize"), (ALL, "stderr")] {
        let (backend, mut processes) = Puppeteer::new();
        let command = attach(backend, wanted, OnEof::Detach);
        let (mut client, _server) = meet(Version::V4, command, terms());
        open(&mut client, &["error", "stdin", "stdout", last]).await;
        let mut process = processes.recv().await.unwrap();
        client.data(3, b"in").await;
        client.fin(3).await;
        let said = rest(&mut client, 4).await;
        assert_eq!(said[0], "{\"status\":\"Success\"}.");
        let mut read = String::new();
        process.stdin.take().unwrap().read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "in");
        process.hung_up().await;
    }
}

#[tokio::test]
async fn one_whose_input_ends_with_a_clients_is_heard_to_its_end() {
    let (backend, mut processes) = Puppeteer::new();
    let command = attach(backend, ALL, OnEof::Stay);
    let (mut client, _server) = meet(Version::V4, command, terms());
    open(&mut client, &["error", "stdin", "stdout", "stderr"]).await;
    let mut process = processes.recv().await.unwrap();
    client.fin(3).await;
    process.stdin.take().unwrap().read_to_string(&mut String::new()).await.unwrap();
    process.stdout.take().unwrap().write_all(b"out").await.unwrap();
    drop(process.stderr.take());
    process.exit(0);
    assert_eq!(rest(&mut client, 4).await, ["{\"status\":\"Success\"}.", ".", "out.", "."]);
}

#[tokio::test]
async fn a_command_that_cannot_be_run_is_told_in_the_error_stream() {
    let backend = Puppeteer::refusing("no such file");
    let (mut client, _server) = meet(Version::V4, command(Kind::Exec, backend, OUTPUT), terms());
    open(&mut client, &["error", "stdout"]).await;
    let said = rest(&mut client, 2).await;
    let told = "Internal error occurred: error executing command in container: no such file";
    assert!(said[0].contains(told) && said[0].contains("\"code\":500"), "{said:?}");
}

#[tokio::test]
async fn a_client_that_opens_too_little_hears_so_in_time() {
    let (backend, mut processes) = Puppeteer::new();
    let terms = Terms { creation: Duration::from_millis(500), ..terms() };
    let (mut client, server) = meet(Version::V4, command(Kind::Exec, backend, ALL), terms);
    open(&mut client, &["error", "stdout"]).await;
    // A second of a kind and one of no kind are refused, and the rest goes on.
    for (id, kind) in [(5, "stdout"), (7, "nonsense")] {
        client.open(id, &[("streamtype", kind)]).await;
        assert!(matches!(client.seen().await, Some(Seen::Reset(refused, 3)) if refused == id));
    }
    let said = rest(&mut client, 2).await;
    assert!(said[0].contains("not opened in time"), "{said:?}");
    server.await.unwrap();
    assert!(processes.try_recv().is_err(), "nothing was started");
}

#[tokio::test]
async fn a_client_that_goes_takes_the_process_with_it() {
    for at in [Kind::Exec, Kind::Attach] {
        let (backend, mut processes) = Puppeteer::new();
        let (mut client, server) = meet(Version::V4, command(at, backend, ALL), terms());
        open(&mut client, &["error", "stdin", "stdout", "stderr"]).await;
        let process = processes.recv().await.unwrap();
        drop(client);
        process.hung_up().await;
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_process_and_loses_nothing() {
    let (backend, mut processes) = Puppeteer::new();
    let (mut client, _server) = meet(Version::V4, command(Kind::Exec, backend, OUTPUT), terms());
    open(&mut client, &["error", "stdout"]).await;
    let mut process = processes.recv().await.unwrap();
    let mut stdout = process.stdout.take().unwrap();
    let mut written = 0;
    let chunk = [b'x'; 1024];
    while tokio::time::timeout(Duration::from_millis(300), stdout.write_all(&chunk)).await.is_ok() {
        written += chunk.len();
        assert!(written < 4 << 20, "nothing stops the process");
    }
    drop(stdout);
    process.exit(0);
    let said = rest(&mut client, 2).await;
    // What was being written when the time was up may be there in part.
    assert!((written..written + chunk.len()).contains(&said[1].len()), "{written}");
    assert_eq!(said[0], "{\"status\":\"Success\"}.");
}

#[tokio::test]
async fn input_that_nobody_reads_stops_the_client_and_not_the_output() {
    let (backend, mut processes) = Puppeteer::new();
    let (mut client, _server) = meet(Version::V4, command(Kind::Exec, backend, ALL), terms());
    open(&mut client, &["error", "stdin", "stdout", "stderr"]).await;
    let mut process = processes.recv().await.unwrap();
    let chunk = vec![b'x'; 16 * 1024];
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_millis(300), client.data(3, &chunk)).await.is_ok() {
        sent += chunk.len();
        assert!(sent < 8 << 20, "nothing stops the client");
    }
    process.stdout.as_mut().unwrap().write_all(b"still here").await.unwrap();
    assert_eq!(client.seen().await, Some(Seen::Data(5, b"still here".to_vec())));
}

#[tokio::test]
async fn a_daemon_that_stops_says_so() {
    let (backend, mut processes) = Puppeteer::new();
    let terms = terms();
    let end = terms.end.clone();
    let (mut client, _server) = meet(Version::V4, command(Kind::Attach, backend, ALL), terms);
    open(&mut client, &["error", "stdin", "stdout", "stderr"]).await;
    let process = processes.recv().await.unwrap();
    end.cancel();
    let said = rest(&mut client, 4).await;
    assert!(said[0].contains("davit stops"), "{said:?}");
    process.hung_up().await;
}

#[tokio::test]
async fn a_client_that_was_let_go_hears_why() {
    for (reason, told) in [(None, "Success"), (Some("it read too slowly".to_owned()), "too slowly")]
    {
        let (backend, mut processes) = Puppeteer::new();
        let (mut client, _server) =
            meet(Version::V4, command(Kind::Attach, backend, OUTPUT), terms());
        open(&mut client, &["error", "stdout"]).await;
        let mut process = processes.recv().await.unwrap();
        drop(process.stdout.take());
        process.end.send(Ok(Ended::Detached { reason })).unwrap();
        let said = rest(&mut client, 2).await;
        assert!(said[0].contains(told), "{said:?}");
    }
}
