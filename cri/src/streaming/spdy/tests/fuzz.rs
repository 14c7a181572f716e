//! Arbitrary bytes, and good sessions gone wrong: never a panic, never more memory than the limits say, always an end.

use super::client::{Client, control, data};
use crate::streaming::spdy::frame::Decoder;
use crate::streaming::spdy::state::{Phase, Put, State, Taken};
use crate::streaming::spdy::{Limits, serve};
use bytes::BytesMut;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn limits() -> Limits {
    Limits {
        streams: 4,
        control: 512,
        unread: 1000,
        unread_session: 3000,
        unsent: 1000,
        unsent_session: 2000,
        unsent_crowded: 100,
        idle: Duration::from_secs(10),
        ..Limits::default()
    }
}

/// Frames as a client may send them, in an order that it may not.
#[derive(Debug, Clone)]
enum Said {
    Open(u32, u8, usize),
    Data(u32, u8, usize),
    Headers(u32),
    Control(u16, u8, Vec<u8>),
    Noise(Vec<u8>),
}

fn said() -> impl Strategy<Value = Said> {
    let id = 0_u32..12;
    prop_oneof![
        4 => (id.clone(), 0_u8..2, 0_usize..80).prop_map(|(id, flags, size)| Said::Open(2 * id + 1, flags, size)),
        1 => (id.clone(), 0_u8..4, 0_usize..600).prop_map(|(id, flags, size)| Said::Open(id, flags, size)),
        6 => (id.clone(), 0_u8..2, 0_usize..3000).prop_map(|(id, flags, size)| Said::Data(id, flags, size)),
        1 => id.prop_map(Said::Headers),
        2 => (0_u16..12, 0_u8..4, prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(kind, flags, payload)| Said::Control(kind, flags, payload)),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Said::Noise),
    ]
}

fn written(all: &[Said]) -> Vec<u8> {
    let mut client = Client::new(tokio::io::duplex(1).0);
    let mut bytes = Vec::new();
    for said in all {
        bytes.extend(match said {
            Said::Open(id, flags, size) => {
                let value = "x".repeat(*size);
                client.opening(*id, *flags, &[("streamtype", &value)])
            }
            Said::Data(id, flags, size) => data(*id, *flags, &vec![7; *size]),
            Said::Headers(id) => {
                let block = client.deflated(&[0; 4]);
                control(8, 1, &[&id.to_be_bytes(), &block[..]].concat())
            }
            Said::Control(kind, flags, payload) => control(*kind, *flags, payload),
            Said::Noise(noise) => noise.clone(),
        });
    }
    bytes
}

/// A session as bytes: arbitrary, or frames of which some bytes were changed.
fn session() -> impl Strategy<Value = Vec<u8>> {
    let frames = prop::collection::vec(said(), 0..30).prop_map(|all| written(&all));
    let changed =
        (frames, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4))
            .prop_map(|(mut bytes, changes)| {
                for (at, to) in changes {
                    if !bytes.is_empty() {
                        let at = at.index(bytes.len());
                        bytes[at] = to;
                    }
                }
                bytes
            });
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..2000),
        4 => changed,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_decoder_takes_anything_and_never_waits_for_more_than_its_limit(
        bytes in session(),
        cuts in prop::collection::vec(1_usize..700, 1..20),
    ) {
        let mut decoder = Decoder::new(512);
        let mut input = BytesMut::new();
        let mut rest = &bytes[..];
        'all: for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            rest = later;
            input.extend_from_slice(now);
            loop {
                match decoder.next(&mut input) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'all,
                }
            }
            prop_assert!(input.len() < 512 + 8);
        }
    }

    #[test]
    fn what_comes_in_pieces_says_the_same_as_what_comes_whole(
        bytes in session(),
        cut in 1_usize..50,
    ) {
        let whole = spoken(&bytes, bytes.len().max(1));
        prop_assert_eq!(spoken(&bytes, cut), whole);
    }

    /// The handles do whatever they like meanwhile; the sums stay right, and within the bounds.
    #[test]
    fn the_state_keeps_its_bounds(
        all in prop::collection::vec((said(), 0_u8..10), 0..60),
    ) {
        let mut state = State::new(limits());
        let mut decoder = Decoder::new(512);
        let mut held = VecDeque::new();
        let mut sent = VecDeque::new();
        let frames: Vec<Said> = all.iter().map(|(said, _)| said.clone()).collect();
        let mut input = BytesMut::from(&written(&frames)[..]);
        for (_, act) in &all {
            if !state.is_full() {
                match decoder.next(&mut input) {
                    Ok(Some(frame)) => if state.receive(frame).is_err() {
                        state.end();
                    },
                    Ok(None) => {}
                    Err(_) => state.end(),
                }
            }
            act_on(&mut state, *act, &mut held, &mut sent);
            state.check();
        }
        state.end();
        for id in held {
            state.drop_reader(id);
            state.drop_writer(id);
        }
        prop_assert!(state.is_empty());
    }
}

fn act_on(state: &mut State, act: u8, held: &mut VecDeque<u32>, sent: &mut VecDeque<Vec<u8>>) {
    let waker = Waker::noop();
    let id = held.front().copied();
    match (act, id) {
        (0 | 1, _) => {
            if let Ok(Some((id, _))) = state.next_arrival(waker) {
                state.accept(id);
                held.push_back(id);
            }
        }
        (2 | 3, Some(id)) => match state.read(id, waker) {
            Taken::Bytes(bytes) => assert!(!bytes.is_empty()),
            Taken::End | Taken::Failed(_) | Taken::Later => {}
        },
        (4 | 5, Some(id)) => match state.write(id, &[1; 700], waker) {
            Put::Bytes(count) => assert!((1..=700).contains(&count)),
            Put::Failed(_) | Put::Finished | Put::Later => {}
        },
        (6, Some(id)) => drop(state.finish(id)),
        (7, Some(id)) => {
            held.pop_front();
            state.drop_writer(id);
            state.drop_reader(id);
        }
        (8, _) => {
            state.take(sent);
            sent.clear();
        }
        _ => held.rotate_left(usize::from(held.len() > 1)),
    }
    assert!(matches!(state.phase(), Phase::Open | Phase::Ended));
}

/// What the decoder makes of bytes, with a stream's data put together.
fn spoken(bytes: &[u8], cut: usize) -> Vec<String> {
    let mut decoder = Decoder::new(512);
    let mut input = BytesMut::new();
    let mut all: Vec<String> = Vec::new();
    let mut body = (0, 0);
    for piece in bytes.chunks(cut) {
        input.extend_from_slice(piece);
        loop {
            use crate::streaming::spdy::frame::Frame::Data;
            match decoder.next(&mut input) {
                Ok(Some(Data { id, bytes, then })) => {
                    body =
                        if body.0 == id { (id, body.1 + bytes.len()) } else { (id, bytes.len()) };
                    all.retain(|said| !said.starts_with("so far"));
                    all.push(format!("so far {body:?} {then:?}"));
                }
                Ok(Some(other)) => {
                    body = (0, 0);
                    let last = all.pop().map(|said| said.replace("so far", "data"));
                    all.extend(last);
                    all.push(format!("{other:?}"));
                }
                Ok(None) => break,
                Err(error) => {
                    all.push(format!("{error}"));
                    return all;
                }
            }
        }
    }
    all
}

#[test]
fn a_session_ends_whatever_is_said_to_it() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let mut config = ProptestConfig::with_cases(150);
    config.failure_persistence = None;
    proptest!(config, |(bytes in session(), silent in any::<bool>())| {
        runtime.block_on(async {
            let (ours, theirs) = tokio::io::duplex(500);
            let mut session = serve(ours, limits());
            let (mut read, mut write) = tokio::io::split(theirs);
            let sending = tokio::spawn(async move {
                // Cut short when the session ends first.
                drop(write.write_all(&bytes).await);
                if !silent {
                    drop(write.shutdown().await);
                }
                std::future::pending::<()>().await;
            });
            let reading = tokio::spawn(async move {
                let mut all = Vec::new();
                drop(read.read_to_end(&mut all).await);
            });
            let serving = async {
                while let Some(incoming) = session.accept().await {
                    let (mut reader, mut writer) = incoming.accept().split();
                    tokio::spawn(async move {
                        drop(tokio::io::copy(&mut reader, &mut writer).await);
                    });
                }
            };
            tokio::time::timeout(Duration::from_secs(60), serving).await.expect("an end");
            sending.abort();
            drop(session);
            reading.await.unwrap();
        });
    });
}
