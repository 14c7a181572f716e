//! What good peers are promised.

use super::client::{Client, Seen, control};
use crate::streaming::spdy::{Limits, Session, Stream, serve};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub(super) fn pair(limits: Limits) -> (Client<DuplexStream>, Session) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    (Client::new(theirs), serve(ours, limits))
}

/// A session with one stream, number 1.
pub(super) async fn with_stream(limits: Limits) -> (Client<DuplexStream>, Session, Stream) {
    let (mut client, mut session) = pair(limits);
    client.open(1, &[("streamtype", "stdin")]).await;
    let stream = session.accept().await.unwrap().accept();
    assert_eq!(client.seen().await, Some(Seen::Reply(1, 0)));
    (client, session, stream)
}

#[tokio::test]
async fn streams_come_with_their_headers_and_in_order() {
    let (mut client, mut session) = pair(Limits::default());
    for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
        client.open(id, &[("streamtype", kind)]).await;
        let incoming = session.accept().await.unwrap();
        assert_eq!(incoming.id(), id);
        assert_eq!(incoming.headers.get("streamtype"), Some(kind));
        let _stream = incoming.accept();
        assert_eq!(client.seen().await, Some(Seen::Reply(id, 0)));
        drop(_stream);
        assert_eq!(client.seen().await, Some(Seen::Reset(id, 5)));
    }
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_half_ends_for_itself() {
    let (mut client, _session, stream) = with_stream(Limits::default()).await;
    let (mut reader, mut writer) = stream.split();
    client.data(1, b"hello ").await;
    client.data(1, b"davit").await;
    client.fin(1).await;
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello davit");
    writer.write_all(b"hello client").await.unwrap();
    writer.shutdown().await.unwrap();
    assert_eq!(client.read_all(1).await, b"hello client");
    let after = writer.write_all(b"more").await.unwrap_err();
    assert_eq!(after.kind(), ErrorKind::BrokenPipe);
    drop((reader, writer));
    // Both halves ended properly: nothing more is said of the stream.
    client.send(&control(6, 0, &[0, 0, 0, 1])).await;
    assert_eq!(client.seen().await, Some(Seen::Ping(1)));
}

#[tokio::test]
async fn refusing_or_dropping_an_offer_tells_the_peer() {
    let (mut client, mut session) = pair(Limits::default());
    client.open(1, &[]).await;
    session.accept().await.unwrap().refuse();
    assert_eq!(client.seen().await, Some(Seen::Reset(1, 3)));
    client.open(3, &[]).await;
    drop(session.accept().await);
    assert_eq!(client.seen().await, Some(Seen::Reset(3, 3)));
}

#[tokio::test]
async fn a_reset_fails_reads_and_writes() {
    let (mut client, _session, stream) = with_stream(Limits::default()).await;
    let (mut reader, mut writer) = stream.split();
    client.data(1, b"lost").await;
    client.reset(1).await;
    client.send(&control(6, 0, &[0, 0, 0, 1])).await;
    assert_eq!(client.seen().await, Some(Seen::Ping(1)));
    let read = reader.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(read.kind(), ErrorKind::ConnectionReset);
    let write = writer.write(b"x").await.unwrap_err();
    assert_eq!(write.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_of_ours_takes_what_was_not_sent_with_it() {
    let (mut client, _session, stream) = with_stream(Limits::default()).await;
    stream.reset();
    assert_eq!(client.seen().await, Some(Seen::Reset(1, 5)));
    // What the peer had under way is passed over.
    client.data(1, b"late").await;
    client.send(&control(6, 0, &[0, 0, 0, 7])).await;
    assert_eq!(client.seen().await, Some(Seen::Ping(7)));
}

#[tokio::test]
async fn dropping_the_writer_without_an_end_resets_after_what_was_written() {
    let (mut client, _session, stream) = with_stream(Limits::default()).await;
    let (reader, mut writer) = stream.split();
    writer.write_all(b"partial").await.unwrap();
    drop((reader, writer));
    assert_eq!(client.seen().await, Some(Seen::Data(1, b"partial".to_vec())));
    assert_eq!(client.seen().await, Some(Seen::Reset(1, 5)));
}

#[tokio::test]
async fn closing_sends_what_is_written_then_goaway_and_waits_for_the_peer() {
    let (mut client, mut session, stream) = with_stream(Limits::default()).await;
    let (_reader, mut writer) = stream.split();
    writer.write_all(b"the end").await.unwrap();
    writer.shutdown().await.unwrap();
    let closer = session.closer();
    let closing = tokio::spawn(async move { closer.close().await });
    assert_eq!(client.read_all(1).await, b"the end");
    assert_eq!(client.seen().await, Some(Seen::GoAway(1, 0)));
    assert_eq!(client.seen().await, None);
    // The peer may go on talking; it is listened to and not answered, and nothing is reset.
    client.data(1, &[0; 300_000]).await;
    assert!(!closing.is_finished());
    assert!(session.accept().await.is_none());
    drop(client);
    closing.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_goes_leaves_what_it_had_finished() {
    let (mut client, mut session, stream) = with_stream(Limits::default()).await;
    client.open(3, &[]).await;
    let (mut unfinished, _w) = session.accept().await.unwrap().accept().split();
    assert_eq!(client.seen().await, Some(Seen::Reply(3, 0)));
    let (mut finished, mut writer) = stream.split();
    client.data(1, b"whole").await;
    client.fin(1).await;
    client.data(3, b"half").await;
    drop(client);
    assert!(session.accept().await.is_none());
    let mut all = Vec::new();
    finished.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"whole");
    all.clear();
    let lost = unfinished.read_to_end(&mut all).await.unwrap_err();
    assert_eq!((lost.kind(), &all[..]), (ErrorKind::ConnectionAborted, &b"half"[..]));
    let write = writer.write(b"x").await.unwrap_err();
    assert_eq!(write.kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn dropping_the_session_ends_all() {
    let (mut client, session, stream) = with_stream(Limits::default()).await;
    let (mut reader, _writer) = stream.split();
    drop(session);
    let read = reader.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(read.kind(), ErrorKind::ConnectionAborted);
    assert_eq!(client.seen().await, None);
}

#[tokio::test]
async fn pings_are_answered_and_answers_are_not() {
    let (mut client, _session) = pair(Limits::default());
    client.send(&control(6, 0, &[0, 0, 0, 2])).await;
    client.send(&control(6, 0, &[0, 0, 0, 3])).await;
    assert_eq!(client.seen().await, Some(Seen::Ping(3)));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_session_is_kept_alive_until_it_is_idle_for_too_long() {
    let limits = Limits {
        idle: Duration::from_secs(100),
        keep_alive: Duration::from_secs(30),
        ..Limits::default()
    };
    let (mut client, mut session) = pair(limits);
    let start = tokio::time::Instant::now();
    for _ in 0..3 {
        let seen = client.io.read_exact(&mut [0; 12]).await;
        assert_eq!(seen.unwrap(), 12);
    }
    assert_eq!(client.io.read(&mut [0; 12]).await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), 100);
    assert!(session.accept().await.is_none());
}

#[tokio::test]
async fn what_is_written_meanwhile_does_not_keep_the_connection_from_being_read_again() {
    let limits = Limits { unread: 100_000, ..Limits::default() };
    let (mut client, mut session, first) = with_stream(limits).await;
    let mut accepted = Vec::new();
    for id in [3, 5] {
        client.open(id, &[]).await;
        accepted.push(session.accept().await.unwrap().accept());
        assert_eq!(client.seen().await, Some(Seen::Reply(id, 0)));
    }
    let ((mut reader, _w), (_r, mut second)) =
        (accepted.pop().unwrap().split(), accepted.pop().unwrap().split());
    let (_first_reader, mut first) = first.split();
    // The client reads nothing, so a write is pending for as long as this takes.
    let wait = Duration::from_millis(200);
    while tokio::time::timeout(wait, first.write_all(&[b'x'; 16 * 1024])).await.is_ok() {}
    second.write_all(b"y").await.unwrap();
    let sending = tokio::spawn(async move {
        for _ in 0..40 {
            client.data(5, &[b'z'; 10_000]).await;
        }
        client
    });
    // The stream is full, and the connection is not read.
    tokio::time::sleep(wait).await;
    assert!(!sending.is_finished());
    second.write_all(b"y").await.unwrap();
    tokio::time::sleep(wait).await;
    let mut all = vec![0; 400_000];
    let reading = tokio::time::timeout(Duration::from_secs(10), reader.read_exact(&mut all));
    reading.await.expect("the rest is taken").unwrap();
    sending.await.unwrap();
}

#[tokio::test]
async fn megabytes_go_both_ways_at_once_unharmed() {
    let (client, _session, stream) = with_stream(Limits::default()).await;
    let (mut reader, mut writer) = stream.split();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let echo = tokio::spawn(async move {
        let copied = tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
        copied
    });
    // The pipe is small: neither side may wait for the other.
    let (read, write) = tokio::io::split(client.io);
    let mut receiving = Client::new(tokio::io::join(read, tokio::io::sink()));
    let sending = tokio::spawn(async move {
        let mut sending = Client::new(tokio::io::join(tokio::io::empty(), write));
        for piece in sent.chunks(32 * 1024) {
            sending.data(1, piece).await;
        }
        sending.fin(1).await;
        sending
    });
    assert_eq!(receiving.read_all(1).await, expected);
    assert_eq!(echo.await.unwrap(), 3_000_000);
    drop(sending.await);
}
