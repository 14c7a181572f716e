//! Bytes and what they say.

use super::client::{self, block, control};
use crate::streaming::spdy::dictionary::{CHECKSUM, DICTIONARY};
use crate::streaming::spdy::frame::{Decoder, Frame, Half, Violation};
use crate::streaming::spdy::headers::Headers;
use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression};

const LIMIT: usize = 4096;

fn decode(decoder: &mut Decoder, bytes: &[u8]) -> Result<Option<Frame>, Violation> {
    decoder.next(&mut BytesMut::from(bytes))
}

fn one(bytes: &[u8]) -> Result<Option<Frame>, Violation> {
    decode(&mut Decoder::new(LIMIT), bytes)
}

fn client() -> client::Client<tokio::io::DuplexStream> {
    client::Client::new(tokio::io::duplex(1).0)
}

#[test]
fn the_dictionary_is_the_one_that_clients_announce() {
    assert_eq!(DICTIONARY.len(), 1423);
    let mut deflate = Compress::new(Compression::fast(), true);
    assert_eq!(deflate.set_dictionary(&DICTIONARY).unwrap(), CHECKSUM);
}

#[test]
fn headers_of_many_streams_go_through_one_zlib_stream() {
    let mut client = client();
    let mut decoder = Decoder::new(LIMIT);
    for id in [1_u32, 3, 5, 7] {
        let request = id.to_string();
        let pairs = [("streamtype", "data"), ("port", "8080"), ("requestid", &request)];
        let frame = client.opening(id, 0, &pairs);
        let headers = Headers::from(pairs);
        let then = Half::Open;
        assert_eq!(decode(&mut decoder, &frame), Ok(Some(Frame::Open { id, headers, then })));
    }
}

#[test]
fn the_first_of_a_headers_values_is_the_one_that_counts() {
    let frame = client().opening(1, 1, &[("port", "80\u{0}81")]);
    let Ok(Some(Frame::Open { headers, then, .. })) = one(&frame) else {
        panic!("no stream");
    };
    assert_eq!(headers.get("port"), Some("80"));
    assert_eq!(headers.get("streamtype"), None);
    assert_eq!(then, Half::Finished);
}

#[test]
fn a_data_frame_is_handed_on_as_it_arrives() {
    let mut decoder = Decoder::new(LIMIT);
    let mut input = BytesMut::new();
    input.extend_from_slice(&client::data(5, 1, &[7; 100_000])[..10]);
    let piece = |bytes: Vec<u8>, then| {
        let bytes = Bytes::from(bytes);
        Ok(Some(Frame::Data { id: 5, bytes, then }))
    };
    assert_eq!(decoder.next(&mut input), piece(vec![7; 2], Half::Open));
    assert_eq!(decoder.next(&mut input), Ok(None));
    input.extend_from_slice(&[7; 50_000]);
    assert_eq!(decoder.next(&mut input), piece(vec![7; 50_000], Half::Open));
    input.extend_from_slice(&[7; 49_998]);
    assert_eq!(decoder.next(&mut input), piece(vec![7; 49_998], Half::Finished));
    assert_eq!(decoder.next(&mut input), Ok(None));
}

#[test]
fn what_is_not_yet_whole_is_waited_for() {
    let frame = client().opening(1, 0, &[("port", "80")]);
    for cut in 0..frame.len() {
        assert_eq!(one(&frame[..cut]), Ok(None), "{cut}");
    }
}

#[test]
fn frames_that_lie_about_their_length_are_refused() {
    for (kind, length) in
        [(1, 9), (3, 7), (3, 12), (4, 3), (6, 0), (6, 8), (7, 4), (8, 3), (9, 4), (9, 12)]
    {
        let frame = control(kind, 0, &vec![0; length]);
        assert_eq!(one(&frame), Err(Violation::Length(kind, length)));
    }
    // By its head alone: what it promises is not waited for.
    let mut head = control(1, 0, b"");
    head[4..].copy_from_slice(&client::flagged(0, 0xff_ffff));
    assert_eq!(one(&head), Err(Violation::Length(1, 0xff_ffff)));
}

#[test]
fn settings_that_promise_two_thousand_million_values_are_refused() {
    let frame = control(4, 0, &[0x80, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(one(&frame), Err(Violation::Length(4, 12)));
    let frame = control(4, 0, &[0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(one(&frame), Ok(Some(Frame::Nothing)));
}

#[test]
fn other_versions_are_refused_and_other_types_passed_over() {
    let mut frame = control(6, 0, &[0, 0, 0, 1]);
    frame[1] = 2;
    assert_eq!(one(&frame), Err(Violation::Version(2)));
    for kind in [0, 5, 10, 11, 0xffff] {
        assert_eq!(one(&control(kind, 0xff, b"what")), Ok(Some(Frame::Nothing)));
    }
    assert_eq!(one(&control(2, 0, &[0; 8])), Err(Violation::Reply));
}

/// Blocks that must be refused, before compression.
fn bad_blocks() -> Vec<(Vec<u8>, Violation)> {
    let name = |name: &str| block(&[(name, "x")]);
    let more = [block(&[("a", "b")]), vec![0]].concat();
    let latin = [&[0, 0, 0, 1][..], &[0, 0, 0, 1, 0xff, 0, 0, 0, 0]].concat();
    vec![
        (vec![0x80, 0, 0, 0], Violation::HeaderCount(1 << 31)),
        (vec![0, 0, 0, 65], Violation::HeaderCount(65)),
        (vec![0, 0], Violation::HeaderBlock("ends within a number")),
        (vec![0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], Violation::HeaderLength(u32::MAX)),
        (name("Port"), Violation::HeaderName("Port".to_owned())),
        (name(""), Violation::HeaderName(String::new())),
        (block(&[("a", "b"), ("a", "c")]), Violation::HeaderTwice("a".to_owned())),
        (more, Violation::HeaderBlock("has more than it counts")),
        (latin, Violation::HeaderBlock("is not UTF-8")),
        (name(&"x".repeat(LIMIT)), Violation::HeaderSize),
        (vec![0; 8 << 20], Violation::HeaderSize),
    ]
}

#[test]
fn header_blocks_that_lie_or_explode_are_refused() {
    for (bytes, violation) in bad_blocks() {
        let payload = [vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0], client().deflated(&bytes)].concat();
        let limit = payload.len().max(LIMIT);
        let frame = control(1, 0, &payload);
        // The bomb has to get past the frame's own bound to show its own.
        let mut decoder =
            Decoder::new(if violation == Violation::HeaderSize { limit } else { LIMIT });
        let got = decode(&mut decoder, &frame);
        assert_eq!(got, Err(violation), "{} bytes", bytes.len());
    }
    let noise = [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"no zlib stream"].concat();
    let refused = Err(Violation::HeaderBlock("is not zlib's"));
    assert_eq!(one(&control(1, 0, &noise)), refused);
}
