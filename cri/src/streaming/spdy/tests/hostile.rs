//! What bad peers get: an answer at most, and never more memory than the limits say.

use super::client::{Client, Seen, control, data};
use super::sessions::{pair, with_stream};
use crate::streaming::spdy::{Limits, serve};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A session is ended for what the client writes, and says so.
async fn ends(
    name: &str,
    bytes: impl AsyncFnOnce(&mut Client<tokio::io::DuplexStream>) -> Vec<u8>,
) {
    let (mut client, mut session, stream) = with_stream(Limits::default()).await;
    let frames = bytes(&mut client).await;
    client.send(&frames).await;
    let parting = client.seen().await;
    assert!(matches!(parting, Some(Seen::GoAway(_, 1))), "{name}: {parting:?}");
    assert_eq!(client.seen().await, None, "{name}");
    assert!(session.accept().await.is_none(), "{name}");
    let (mut reader, _writer) = stream.split();
    let read = reader.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(read.kind(), ErrorKind::ConnectionAborted, "{name}");
}

#[tokio::test]
async fn what_breaks_the_rules_ends_the_session_and_every_handle_finds_out() {
    ends("a number twice", async |c| c.opening(1, 0, &[])).await;
    ends("an even number", async |c| c.opening(2, 0, &[])).await;
    ends("number zero", async |c| c.opening(0, 0, &[])).await;
    ends("a number that falls", async |c| [c.opening(5, 0, &[]), c.opening(3, 0, &[])].concat())
        .await;
}

#[tokio::test]
async fn data_for_what_never_was_ends_the_session() {
    ends("stream 0", async |_| data(0, 0, b"x")).await;
    ends("an even stream", async |_| data(2, 0, b"x")).await;
    ends("a later stream", async |_| data(3, 0, b"x")).await;
}

#[tokio::test]
async fn frames_that_lie_end_the_session() {
    ends("SETTINGS", async |_| control(4, 0, &[0x80, 0, 0, 0])).await;
    ends("RST_STREAM", async |_| control(3, 0, &[0; 4])).await;
    ends("an unknown type of 16 MiB", async |_| {
        [&control(99, 0, b"")[..4], &[0, 0xff, 0xff, 0xff]].concat()
    })
    .await;
    ends("version 4", async |_| [0x80, 4, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1].to_vec()).await;
    ends("a header bomb", async |c| {
        let bomb = c.deflated(&vec![0; 2 << 20]);
        control(8, 0, &[&[0, 0, 0, 1], &bomb[..]].concat())
    })
    .await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_one_by_one() {
    let limits = Limits { streams: 2, ..Limits::default() };
    let (mut client, mut session) = pair(limits);
    for id in [1, 3, 5] {
        client.open(id, &[]).await;
    }
    assert_eq!(client.seen().await, Some(Seen::Reset(5, 3)));
    // Reset by the peer, it still counts until it is let go of here: opening and resetting makes nothing grow.
    let first = session.accept().await.unwrap();
    client.reset(1).await;
    client.open(7, &[]).await;
    assert_eq!(client.seen().await, Some(Seen::Reset(7, 3)));
    drop(first);
    client.open(9, &[]).await;
    let second = session.accept().await.unwrap();
    assert_eq!((second.id(), session.accept().await.unwrap().id()), (3, 9));
}

#[tokio::test]
async fn one_way_streams_are_refused() {
    let (mut client, _session) = pair(Limits::default());
    let frame = client.opening(1, 2, &[]);
    client.send(&frame).await;
    assert_eq!(client.seen().await, Some(Seen::Reset(1, 3)));
}

#[tokio::test]
async fn data_after_the_end_of_its_half_resets_the_stream_alone() {
    let (mut client, _session, stream) = with_stream(Limits::default()).await;
    client.fin(1).await;
    client.data(1, b"more").await;
    assert_eq!(client.seen().await, Some(Seen::Reset(1, 9)));
    let (mut reader, _writer) = stream.split();
    let read = reader.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(read.kind(), ErrorKind::ConnectionReset);
    client.send(&control(6, 0, &[0, 0, 0, 5])).await;
    assert_eq!(client.seen().await, Some(Seen::Ping(5)));
}

#[tokio::test]
async fn a_stream_that_nobody_reads_holds_no_more_than_its_room() {
    let limits = Limits { unread: 100_000, ..Limits::default() };
    let (client, _session, stream) = with_stream(limits).await;
    let (mut reader, _writer) = stream.split();
    let mut io = client.io;
    let frame = data(1, 0, &[1; 10_000]);
    let mut taken = 0;
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(300), io.write(&frame[taken % frame.len()..]))
            .await
    {
        taken += written.unwrap();
        assert!(taken < 1_000_000);
    }
    // Its room, one read more, and the pipe itself.
    assert!((160_000..=100_000 + 3 * 65_536).contains(&taken), "{taken}");
    let mut read = [0; 50_000];
    reader.read_exact(&mut read).await.unwrap();
    let more = io.write(&frame[taken % frame.len()..]);
    assert!(tokio::time::timeout(Duration::from_secs(5), more).await.is_ok());
}

#[tokio::test]
async fn a_stream_that_is_let_go_of_holds_nothing_up() {
    let limits = Limits { unread: 100_000, ..Limits::default() };
    let (mut client, mut session, stream) = with_stream(limits).await;
    let (reader, _writer) = stream.split();
    drop(reader);
    for _ in 0..100 {
        client.data(1, &[0; 30_000]).await;
    }
    client.open(3, &[]).await;
    assert_eq!(session.accept().await.unwrap().id(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_stream_is_given_up_when_others_wait_behind_it() {
    let limits =
        Limits { unread: 10_000, stall: Some(Duration::from_secs(30)), ..Limits::default() };
    let (mut client, mut session, stuck) = with_stream(limits).await;
    client.data(1, &[0; 20_000]).await;
    // Alone, it is waited for.
    tokio::time::sleep(Duration::from_secs(100)).await;
    let (mut reader, _writer) = stuck.split();
    reader.read_exact(&mut [0; 20_000]).await.unwrap();
    client.open(3, &[]).await;
    let (mut other, _w) = session.accept().await.unwrap().accept().split();
    client.data(1, &[0; 20_000]).await;
    client.data(3, b"behind it").await;
    let start = tokio::time::Instant::now();
    let mut text = [0; 9];
    other.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"behind it");
    assert!((30..40).contains(&start.elapsed().as_secs()));
    let read = reader.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(read.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_peer_that_reads_nothing_makes_writers_wait() {
    let (client, _session, stream) = with_stream(Limits::default()).await;
    let (_reader, mut writer) = stream.split();
    let mut written = 0;
    let chunk = [0; 32 * 1024];
    while let Ok(result) =
        tokio::time::timeout(Duration::from_millis(300), writer.write(&chunk)).await
    {
        written += result.unwrap();
        assert!(written < 1 << 20);
    }
    let room = Limits::default().unsent;
    assert!((room..=2 * room + 65_536).contains(&written), "{written}");
    drop(client);
    assert!(writer.write_all(&chunk).await.is_err());
}

#[tokio::test]
async fn answers_that_nobody_reads_stop_the_reading_of_what_asks_for_them() {
    let (ours, mut theirs) = tokio::io::duplex(1024);
    let _session = serve(ours, Limits::default());
    let pings = control(6, 0, &[0, 0, 0, 1]).repeat(1000);
    let mut taken = 0;
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(300), theirs.write(&pings[taken % 12..])).await
    {
        taken += written.unwrap();
        assert!(taken < 1 << 20);
    }
    // Twice the bound of answers, one read, the pipe's two directions.
    assert!(taken <= 2 * (16 * 1024 + 64 * 1024), "{taken}");
    // Read, they come on.
    theirs.read_exact(&mut [0; 12 * 1000]).await.unwrap();
}

#[tokio::test]
async fn what_ended_streams_left_unsent_is_bounded_too() {
    let (mut client, mut session) = pair(Limits::default());
    let mut id = 1;
    // A client that opens streams, takes nothing of what is written to them, and goes on.
    let opening = async {
        loop {
            let frame = client.opening(id, 0, &[]);
            client.io.write_all(&frame).await.unwrap();
            id += 2;
            let (_reader, mut writer) = session.accept().await.unwrap().accept().split();
            writer.write_all(&[0; 100_000]).await.unwrap();
            writer.shutdown().await.unwrap();
        }
    };
    let stuck = tokio::time::timeout(Duration::from_secs(2), opening).await;
    assert!(stuck.is_err());
    assert!((20..100).contains(&id), "{id}");
}
