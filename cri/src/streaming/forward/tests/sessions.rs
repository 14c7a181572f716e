//! `portforward.k8s.io`.

use super::{Here, closed, listening, parrot};
use crate::streaming::forward::spdy;
use crate::streaming::spdy::tests::client::{Client, Seen};
use crate::streaming::spdy::{Limits, serve};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

fn forwarded(limits: Limits) -> Client<DuplexStream> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let session = serve(ours, limits);
    tokio::spawn(async move { Box::pin(spdy::serve(session, "pod1", Here)).await });
    Client::new(theirs)
}

fn plain() -> Client<DuplexStream> {
    forwarded(spdy::limits(Duration::from_secs(60)))
}

/// Opens a pair as the clients do: error, its half ended, then data, two numbers on.
async fn open(client: &mut Client<DuplexStream>, id: u32, port: &str) {
    let request = id.to_string();
    let error = [("streamtype", "error"), ("port", port), ("requestid", &request)];
    client.opened(id, &error).await;
    client.fin(id).await;
    let data = [("streamtype", "data"), ("port", port), ("requestid", &request)];
    client.opened(id + 2, &data).await;
}

/// Everything up to the end of both streams of a pair: what each said, and whether data was reset.
async fn ends(client: &mut Client<DuplexStream>, id: u32) -> (String, Vec<u8>, bool) {
    let (mut error, mut data) = (Vec::new(), Vec::new());
    let (mut open_error, mut open_data, mut reset) = (true, true, false);
    while open_error || open_data {
        match client.seen().await.expect("the session goes on") {
            Seen::Data(from, bytes) if from == id => error.extend(bytes),
            Seen::Data(from, bytes) if from == id + 2 => data.extend(bytes),
            Seen::Fin(from) if from == id => open_error = false,
            Seen::Fin(from) if from == id + 2 => open_data = false,
            Seen::Reset(from, _) if from == id + 2 => (open_data, reset) = (false, true),
            other => panic!("{other:?}"),
        }
    }
    (String::from_utf8(error).unwrap(), data, reset)
}

#[tokio::test]
async fn a_client_that_ends_its_half_still_gets_the_whole_answer() {
    let port = listening(parrot).await.to_string();
    let mut client = plain();
    for id in [1, 5, 9] {
        open(&mut client, id, &port).await;
        let text = format!("connection {id}");
        client.data(id + 2, text.as_bytes()).await;
        client.fin(id + 2).await;
        let (error, data, reset) = ends(&mut client, id).await;
        assert_eq!((error.as_str(), reset), ("", false));
        assert_eq!(data, format!("heard: {text}").into_bytes());
    }
}

#[tokio::test]
async fn connections_and_ports_of_one_session_do_not_mix() {
    let first = listening(parrot).await.to_string();
    let second = listening(|mut stream: TcpStream| async move {
        stream.write_all(b"second").await.unwrap();
    })
    .await
    .to_string();
    let mut client = plain();
    open(&mut client, 1, &first).await;
    client.data(3, b"first").await;
    open(&mut client, 5, &second).await;
    // It is done as soon as the port is, though the client has not ended its half.
    assert_eq!(client.read_all(7).await, b"second");
    client.reset(7).await;
    assert_eq!(client.seen().await, Some(Seen::Fin(5)));
    client.fin(3).await;
    let (error, data, reset) = ends(&mut client, 1).await;
    assert_eq!((error.as_str(), data.as_slice(), reset), ("", &b"heard: first"[..], false));
}

#[tokio::test]
async fn streams_may_come_in_any_order_and_without_a_request_id() {
    let port = listening(parrot).await.to_string();
    let mut client = plain();
    client.opened(1, &[("streamtype", "error"), ("port", &port)]).await;
    client.opened(3, &[("streamtype", "data"), ("port", &port)]).await;
    client.fin(3).await;
    assert_eq!(ends(&mut client, 1).await.1, b"heard: ");
    // The client left its half of the error stream open: that it is over is told all the same.
    assert_eq!(client.seen().await, Some(Seen::Reset(1, 5)));
    let both = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "x")];
    client.opened(5, &both("data")).await;
    client.fin(5).await;
    client.opened(7, &both("error")).await;
    assert_eq!(client.read_all(5).await, b"heard: ");
}

#[tokio::test]
async fn a_refused_connection_is_told_in_known_words_and_harms_no_other() {
    let (bad, good) = (closed().await.to_string(), listening(parrot).await.to_string());
    let mut client = plain();
    open(&mut client, 1, &bad).await;
    let (error, data, reset) = ends(&mut client, 1).await;
    let words = format!(
        "error forwarding port {bad} to pod pod1, uid : failed to connect to localhost:{bad} inside the pod's network: \
         connect: connection refused"
    );
    assert_eq!((error, data, reset), (words, Vec::new(), true));
    open(&mut client, 5, &good).await;
    client.fin(7).await;
    assert_eq!(ends(&mut client, 5).await.1, b"heard: ");
}

#[tokio::test]
async fn ports_that_are_none_are_told_with_their_header() {
    let mut client = plain();
    for (id, bad, words) in [
        (1, "0", "\"port\" header: unable to parse \"0\" as a port"),
        (5, "65536", "\"port\" header: unable to parse \"65536\" as a port"),
        (9, "http", "\"port\" header: unable to parse \"http\" as a port"),
        (13, "", "\"port\" header is required"),
    ] {
        open(&mut client, id, bad).await;
        let (error, _, reset) = ends(&mut client, id).await;
        assert!(error.starts_with(words) && reset, "{error}");
    }
}

#[tokio::test]
async fn streams_of_no_known_type_are_refused() {
    let mut client = plain();
    client.open(1, &[("port", "80")]).await;
    assert_eq!(client.seen().await, Some(Seen::Reset(1, 3)));
    client.open(3, &[("streamtype", "stdin"), ("port", "80")]).await;
    assert_eq!(client.seen().await, Some(Seen::Reset(3, 3)));
}

#[tokio::test]
async fn a_second_stream_of_one_kind_is_an_error() {
    let mut client = plain();
    let error = [("streamtype", "error"), ("port", "80"), ("requestid", "7")];
    client.opened(1, &error).await;
    client.fin(1).await;
    client.open(3, &error).await;
    let words = "error processing stream for request 7: error stream already assigned";
    let mut seen = vec![
        client.seen().await.unwrap(),
        client.seen().await.unwrap(),
        client.seen().await.unwrap(),
    ];
    seen.retain(|seen| *seen != Seen::Reset(3, 3));
    assert_eq!(seen, [Seen::Data(1, words.into()), Seen::Fin(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_counterpart_does_not_come_is_told_so() {
    let mut client = plain();
    let start = tokio::time::Instant::now();
    client.opened(1, &[("streamtype", "error"), ("port", "80"), ("requestid", "7")]).await;
    client.fin(1).await;
    client.opened(3, &[("streamtype", "data"), ("port", "80"), ("requestid", "8")]).await;
    tokio::time::sleep(Duration::from_secs(29)).await;
    client.send(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]).await;
    assert_eq!(client.seen().await, Some(Seen::Ping(1)));
    let mut said = Vec::new();
    loop {
        match client.seen().await.unwrap() {
            Seen::NoSettings => {}
            Seen::Reset(3, 5) => break,
            other => said.push(other),
        }
    }
    let words = "timed out waiting for streams of request 7";
    while said.len() < 2 {
        said.push(client.seen().await.unwrap());
    }
    assert_eq!(said, [Seen::Data(1, words.into()), Seen::Fin(1)]);
    assert_eq!(start.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn a_connection_that_breaks_is_reset_and_no_word_ends_the_session_for_it() {
    let port = listening(|stream: TcpStream| async move {
        // Closed so that its peer sees a reset.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        stream.readable().await.unwrap();
    })
    .await
    .to_string();
    let mut client = plain();
    open(&mut client, 1, &port).await;
    client.data(3, b"x").await;
    let (error, data, reset) = ends(&mut client, 1).await;
    assert_eq!((error.as_str(), data.len(), reset), ("", 0, true));
}

#[tokio::test]
async fn what_the_port_says_before_it_closes_arrives_though_it_read_nothing() {
    let port = listening(|mut stream: TcpStream| async move {
        stream.write_all(&[7; 200_000]).await.unwrap();
        stream.shutdown().await.unwrap();
        // Until the client is done: unread bytes would make the kernel reset.
        tokio::time::sleep(Duration::from_secs(5)).await;
    })
    .await
    .to_string();
    let mut client = plain();
    open(&mut client, 1, &port).await;
    client.data(3, b"nobody reads this").await;
    assert_eq!(client.read_all(3).await.len(), 200_000);
}

#[tokio::test]
async fn one_connection_that_takes_nothing_stops_the_others_for_a_while_only() {
    let stuck = listening(|stream: TcpStream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await
    .to_string();
    let good = listening(parrot).await.to_string();
    let limits = Limits { stall: Some(Duration::from_millis(300)), ..Limits::default() };
    let mut client = forwarded(limits);
    open(&mut client, 1, &stuck).await;
    open(&mut client, 5, &good).await;
    // More than the kernel and we together hold for it.
    for _ in 0..1000 {
        client.data(3, &[0; 16 * 1024]).await;
    }
    client.data(7, b"behind").await;
    client.fin(7).await;
    let mut rest = vec![Seen::Fin(1), Seen::Reset(3, 7)];
    let mut data = Vec::new();
    while !rest.is_empty() {
        let seen = client.seen().await.unwrap();
        rest.retain(|left| *left != seen);
        if let Seen::Data(7, bytes) = seen {
            data.extend(bytes);
        }
    }
    while data != b"heard: behind" {
        match client.seen().await.unwrap() {
            Seen::Data(7, bytes) => data.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_ports_connections_end_with_the_session() {
    let (ended, mut hears) = mpsc::channel(4);
    let port = listening(move |mut stream: TcpStream| {
        let ended = ended.clone();
        async move {
            stream.write_all(b"here").await.unwrap();
            let left = stream.read(&mut [0; 8]).await;
            ended.send(left.map_err(|error| error.kind())).await.unwrap();
        }
    })
    .await
    .to_string();
    let mut client = plain();
    for id in [1, 5] {
        open(&mut client, id, &port).await;
        assert_eq!(client.seen().await, Some(Seen::Data(id + 2, b"here".to_vec())));
    }
    drop(client);
    for _ in 0..2 {
        assert_eq!(hears.recv().await, Some(Ok(0)));
    }
}

#[tokio::test]
async fn megabytes_arrive_whole_in_both_directions_at_once() {
    let port = listening(|mut stream: TcpStream| async move {
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    })
    .await
    .to_string();
    let mut client = plain();
    open(&mut client, 1, &port).await;
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 253) as u8).collect();
    let expected = sent.clone();
    let (read, write) = tokio::io::split(client.io);
    tokio::spawn(async move {
        let mut sending = Client::new(tokio::io::join(tokio::io::empty(), write));
        for piece in sent.chunks(32 * 1024) {
            sending.data(3, piece).await;
        }
        sending.fin(3).await;
        std::future::pending::<()>().await;
    });
    let mut receiving = Client::new(tokio::io::join(read, tokio::io::sink()));
    assert!(receiving.read_all(3).await == expected);
    assert_eq!(receiving.seen().await, Some(Seen::Fin(1)));
}
