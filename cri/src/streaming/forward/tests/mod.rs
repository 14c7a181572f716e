//! Ports on loopback, forwarded to clients of our own.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever a test did not ask for fails it")]

mod peer;
mod sessions;
mod sockets;

use super::Dial;
use super::port::{from_header, from_query};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A pod whose loopback is the machine's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here;

impl Dial for Here {
    async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        TcpStream::connect(("127.0.0.1", port)).await
    }
}

/// A port whose connections are answered by `answer`.
pub(super) async fn listening<F>(answer: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    port
}

/// Reads to the end, then says all of it again: what only works when each half has its own end.
pub(super) async fn parrot(mut stream: TcpStream) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    stream.write_all(b"heard: ").await.unwrap();
    stream.write_all(&all).await.unwrap();
}

/// A port that nobody listens on.
pub(super) async fn closed() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn ports_are_numbers_from_1_to_65535_and_errors_name_where_they_stood() {
    assert_eq!(from_header(Some("1")), Ok(1));
    assert_eq!(from_header(Some("65535")), Ok(65535));
    for bad in ["0", "65536", "-1", "+80", "http", " 80", "8 0", "0x50", "99999999999999999999"] {
        let words = from_header(Some(bad)).unwrap_err().to_string();
        assert!(words.starts_with("\"port\" header: ") && words.contains(bad), "{words}");
        let words = from_query([bad]).unwrap_err().to_string();
        assert!(words.starts_with("query parameter \"port\": ") && words.contains(bad), "{words}");
    }
    for none in [None, Some("")] {
        let words = from_header(none).unwrap_err().to_string();
        assert_eq!(words, "\"port\" header is required");
    }
}

#[test]
fn a_query_may_name_several_ports_in_either_way() {
    assert_eq!(from_query(["80,443", "8080"]), Ok(vec![80, 443, 8080]));
    for (bad, words) in [
        (&[][..], "query parameter \"port\" is required"),
        (&["80,"], "unable to parse \"\" as a port"),
        (&["80"; 41], "41 ports"),
    ] {
        let error = from_query(bad.iter().copied()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
