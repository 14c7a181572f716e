use super::*;
use crate::streaming::command::websocket::{Coding, Flavour, Version, serve};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

type Client = WebSocketStream<DuplexStream>;

const V5: Flavour = Flavour { version: Version::V5, coding: Coding::Binary };

async fn meet(
    flavour: Flavour,
    command: Command,
    terms: Terms,
) -> (Client, tokio::task::JoinHandle<()>) {
    let (near, far) = tokio::io::duplex(PIPE);
    let server = tokio::spawn(serve(far, flavour, command, terms));
    (WebSocketStream::from_raw_socket(near, Role::Client, None).await, server)
}

fn binary(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[channel], bytes].concat().into())
}

async fn message(client: &mut Client) -> Option<Message> {
    let message = tokio::time::timeout(PATIENCE, client.next()).await.expect("something is said");
    message.map(|message| message.unwrap())
}

/// What the channels say until the connection is closed.
async fn rest(client: &mut Client) -> Vec<(u8, String)> {
    let mut said: Vec<(u8, String)> = Vec::new();
    while let Some(message) = message(client).await {
        match message {
            Message::Binary(bytes) => {
                let text = String::from_utf8(bytes[1..].to_vec()).unwrap();
                match said.iter_mut().find(|(channel, _)| *channel == bytes[0]) {
                    Some((_, before)) => before.push_str(&text),
                    None => said.push((bytes[0], text)),
                }
            }
            Message::Close(frame) => assert_eq!(u16::from(frame.unwrap().code), 1000),
            Message::Pong(_) => {}
            other @ (Message::Text(_) | Message::Ping(_) | Message::Frame(_)) => {
                panic!("{other:?}")
            }
        }
    }
    said.sort();
    said
}

#[tokio::test]
async fn version_5_ends_the_input_alone_and_then_tells_the_exit_code() {
    let (backend, mut processes) = Puppeteer::new();
    let (mut client, server) = meet(V5, command(Kind::Exec, backend, ALL), terms()).await;
    assert_eq!(message(&mut client).await, Some(binary(1, b"")), "the connection stands");
    let mut process = processes.recv().await.unwrap();
    client.send(binary(0, b"i")).await.unwrap();
    client.send(binary(0, b"n")).await.unwrap();
    client.send(binary(255, &[0])).await.unwrap();
    let mut read = String::new();
    process.stdin.take().unwrap().read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "in");
    process.stdout.take().unwrap().write_all(b"out").await.unwrap();
    process.stderr.take().unwrap().write_all(b"err").await.unwrap();
    process.exit(3);
    let said = rest(&mut client).await;
    assert_eq!(said[..2], [(1, "out".to_owned()), (2, "err".to_owned())]);
    assert!(said[2].0 == 3 && said[2].1.contains(r#""message":"3""#), "{said:?}");
    server.await.unwrap();
}

#[tokio::test]
async fn a_container_whose_input_goes_on_is_left_by_the_end_of_a_clients() {
    for wanted in [TERMINAL, ALL] {
        let (backend, mut processes) = Puppeteer::new();
        let command = attach(backend, wanted, OnEof::Detach);
        let (mut client, _server) = meet(V5, command, terms()).await;
        let mut process = processes.recv().await.unwrap();
        client.send(binary(0, b"in")).await.unwrap();
        client.send(binary(255, &[0])).await.unwrap();
        let said = rest(&mut client).await;
        assert_eq!(said.last().unwrap(), &(3, "{\"status\":\"Success\"}".to_owned()));
        let mut read = String::new();
        process.stdin.take().unwrap().read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "in");
        process.hung_up().await;
    }
}

#[tokio::test]
async fn before_version_5_a_close_signal_is_nothing_special() {
    let flavour = Flavour { version: Version::V4, ..V5 };
    let (backend, mut processes) = Puppeteer::new();
    let (mut client, _server) = meet(flavour, command(Kind::Exec, backend, ALL), terms()).await;
    let mut process = processes.recv().await.unwrap();
    for odd in [&[255, 0][..], &[], &[9, 1], &[0]] {
        client.send(Message::Binary(Bytes::copy_from_slice(odd))).await.unwrap();
    }
    client.send(binary(0, b"x")).await.unwrap();
    assert_eq!(process.stdin.as_mut().unwrap().read_u8().await.unwrap(), b'x');
    let closed = process.stdin.as_mut().unwrap().read_u8();
    assert!(tokio::time::timeout(Duration::from_millis(100), closed).await.is_err());
}

#[tokio::test]
async fn base64_is_spoken_as_text() {
    for version in [Version::V1, Version::V4] {
        let flavour = Flavour { version, coding: Coding::Text };
        let (backend, mut processes) = Puppeteer::new();
        let (mut client, _server) = meet(flavour, command(Kind::Exec, backend, ALL), terms()).await;
        assert_eq!(message(&mut client).await, Some(Message::text("1")));
        let mut process = processes.recv().await.unwrap();
        // No base64, and no channel: passed over.
        for odd in ["0!", "", "\u{1}Zg=="] {
            client.send(Message::text(odd)).await.unwrap();
        }
        client.send(Message::text("0Zm9vCg==")).await.unwrap();
        let mut read = [0; 4];
        process.stdin.as_mut().unwrap().read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"foo\n");
        process.stdout.as_mut().unwrap().write_all(b"\n").await.unwrap();
        assert_eq!(message(&mut client).await, Some(Message::text("1Cg==")));
        drop((process.stdout.take(), process.stderr.take()));
        process.exit(0);
        let last = message(&mut client).await.unwrap();
        if version == Version::V4 {
            assert_eq!(last, Message::text("3eyJzdGF0dXMiOiJTdWNjZXNzIn0="));
        } else {
            assert!(last.is_close(), "{last:?}");
        }
    }
}

#[tokio::test]
async fn sizes_reach_the_terminal() {
    let (backend, mut processes) = Puppeteer::new();
    let (mut client, _server) = meet(V5, command(Kind::Exec, backend, TERMINAL), terms()).await;
    let mut process = processes.recv().await.unwrap();
    client.send(binary(4, br#"{"Width":80,"Height":24}"#)).await.unwrap();
    assert_eq!(process.sizes.recv().await, Some(Size { width: 80, height: 24 }));
}

#[tokio::test]
async fn who_wants_no_output_is_greeted_on_the_error_channel() {
    let (backend, mut processes) = Puppeteer::new();
    let wanted = Wanted { stdin: true, ..Wanted::default() };
    let (mut client, _server) = meet(V5, command(Kind::Attach, backend, wanted), terms()).await;
    assert_eq!(message(&mut client).await, Some(binary(3, b"")));
    processes.recv().await.unwrap().exit(5);
    assert_eq!(rest(&mut client).await, [(3, "{\"status\":\"Success\"}".to_owned())]);
}

#[tokio::test]
async fn a_client_that_goes_takes_the_process_with_it() {
    for last in [None, Some(Message::Close(None)), Some(binary(0, &[0; 64]))] {
        let (backend, mut processes) = Puppeteer::new();
        let (mut client, server) = meet(V5, command(Kind::Exec, backend, ALL), terms()).await;
        let process = processes.recv().await.unwrap();
        if let Some(last) = last {
            client.send(last).await.unwrap();
        }
        drop(client);
        process.hung_up().await;
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_message_beyond_4_mib_ends_the_session() {
    let (backend, mut processes) = Puppeteer::new();
    let (mut client, _server) = meet(V5, command(Kind::Exec, backend, ALL), terms()).await;
    let mut process = processes.recv().await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let reader = tokio::spawn(async move { stdin.read_to_end(&mut Vec::new()).await.unwrap() });
    client.send(binary(0, &vec![0; (4 << 20) - 1])).await.unwrap();
    // The server may be gone before the whole of it is sent.
    client.send(binary(0, &vec![0; 4 << 20])).await.ok();
    process.hung_up().await;
    assert_eq!(reader.await.unwrap(), (4 << 20) - 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_process_and_loses_nothing() {
    let (backend, mut processes) = Puppeteer::new();
    let (mut client, _server) = meet(V5, command(Kind::Exec, backend, OUTPUT), terms()).await;
    let mut process = processes.recv().await.unwrap();
    let mut stdout = process.stdout.take().unwrap();
    let (chunk, mut written) = ([b'x'; 1024], 0);
    while tokio::time::timeout(Duration::from_millis(300), stdout.write_all(&chunk)).await.is_ok() {
        written += chunk.len();
        assert!(written < 1 << 20, "nothing stops the process");
    }
    drop(stdout);
    process.exit(0);
    let said = rest(&mut client).await;
    assert!((written..written + chunk.len()).contains(&said[0].1.len()), "{written}");
    assert_eq!(said[1].1, "{\"status\":\"Success\"}");
}

#[tokio::test(start_paused = true)]
async fn while_input_waits_the_client_is_shown_that_somebody_is_here() {
    let (backend, mut processes) = Puppeteer::new();
    let (client, _server) = meet(V5, command(Kind::Exec, backend, ALL), terms()).await;
    let mut process = processes.recv().await.unwrap();
    let (mut sink, mut stream) = client.split();
    let sending = tokio::spawn(async move {
        // More than the pipes hold: it waits.
        sink.send(binary(0, &[0; 4 * PIPE])).await.unwrap();
        sink.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    });
    let mut pongs = 0;
    while pongs < 3 {
        let heard = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap();
        if heard == Message::Pong(Bytes::new()) {
            pongs += 1;
        } else {
            assert_eq!(heard, binary(1, b""));
        }
    }
    let mut read = vec![0; 4 * PIPE];
    process.stdin.as_mut().unwrap().read_exact(&mut read).await.unwrap();
    sending.await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"there?")));
}

#[tokio::test]
async fn what_a_client_still_sends_at_the_end_costs_it_nothing() {
    let (backend, mut processes) = Puppeteer::new();
    let (client, _server) = meet(V5, command(Kind::Exec, backend, ALL), terms()).await;
    let mut process = processes.recv().await.unwrap();
    let (mut sink, mut stream) = client.split();
    tokio::spawn(async move { while sink.send(binary(0, &[0; 1024])).await.is_ok() {} });
    drop((process.stdin.take(), process.stdout.take(), process.stderr.take()));
    process.exit(0);
    let mut last = None;
    while let Some(Ok(Message::Binary(bytes))) = stream.next().await {
        last = Some(bytes);
    }
    assert_eq!(last.unwrap(), b"\x03{\"status\":\"Success\"}".as_slice());
}

#[tokio::test]
async fn a_daemon_that_stops_says_so() {
    let (backend, mut processes) = Puppeteer::new();
    let terms = terms();
    let end = terms.end.clone();
    let (mut client, _server) = meet(V5, command(Kind::Exec, backend, ALL), terms).await;
    let process = processes.recv().await.unwrap();
    end.cancel();
    let said = rest(&mut client).await;
    assert!(said.last().unwrap().1.contains("davit stops"), "{said:?}");
    process.hung_up().await;
}
