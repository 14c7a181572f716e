//! Over WebSockets: the tunnel, and a channel per port.

use super::{Here, closed, listening, parrot};
use crate::streaming::forward::tunnel::{Tunnel, config};
use crate::streaming::forward::websocket::{Codec, Request};
use crate::streaming::forward::{spdy, websocket};
use crate::streaming::spdy::serve;
use crate::streaming::spdy::tests::client::{Client, Seen};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

type Socket = WebSocketStream<DuplexStream>;

/// The server's and the client's end of a WebSocket.
async fn sockets() -> (Socket, Socket) {
    let (ours, theirs) = tokio::io::duplex(32 * 1024);
    (
        WebSocketStream::from_raw_socket(ours, Role::Server, Some(config())).await,
        WebSocketStream::from_raw_socket(theirs, Role::Client, None).await,
    )
}

#[tokio::test]
async fn a_session_goes_through_a_tunnel() {
    let port = listening(parrot).await.to_string();
    let (ours, theirs) = sockets().await;
    let session = serve(Tunnel::new(ours), spdy::limits(Duration::from_secs(60)));
    tokio::spawn(async move { Box::pin(spdy::serve(session, "pod1", Here)).await });
    let mut client = Client::new(Tunnel::new(theirs));
    let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "1")];
    client.open(1, &headers("error")).await;
    client.io.flush().await.unwrap();
    assert_eq!(client.seen().await, Some(Seen::Reply(1, 0)));
    client.opened(3, &headers("data")).await;
    for _ in 0..100 {
        client.data(3, &[9; 10_000]).await;
    }
    client.fin(3).await;
    assert_eq!(client.read_all(3).await.len(), 1_000_007);
    assert_eq!(client.seen().await, Some(Seen::Fin(1)));
}

#[tokio::test]
async fn a_tunnels_end_is_a_normal_close_and_so_is_its_clients() {
    let (ours, mut theirs) = sockets().await;
    let session = serve(Tunnel::new(ours), spdy::limits(Duration::from_secs(60)));
    let closer = session.closer();
    let closing = tokio::spawn(async move { closer.close().await });
    // GOAWAY, then the Close frame.
    let Some(Ok(Message::Binary(goaway))) = theirs.next().await else {
        panic!("no GOAWAY");
    };
    assert_eq!(goaway[..4], [0x80, 3, 0, 7]);
    let Some(Ok(Message::Close(Some(frame)))) = theirs.next().await else {
        panic!("no Close");
    };
    assert_eq!(frame.code, CloseCode::Normal);
    // The client's library answers it by itself, and then the session is over.
    assert!(theirs.next().await.is_none());
    closing.await.unwrap();
    drop(session);
}

#[tokio::test]
async fn text_and_messages_beyond_the_bound_end_a_tunnel() {
    let long = Message::binary(vec![0; 2 << 20]);
    for message in [Message::text("hello"), long] {
        let (ours, mut theirs) = sockets().await;
        let mut tunnel = Tunnel::new(ours);
        let sending = tokio::spawn(async move {
            drop(theirs.send(message).await);
            theirs
        });
        assert!(tunnel.read(&mut [0; 8]).await.is_err());
        drop(tunnel);
        drop(sending.await);
    }
}

fn request(codec: Codec, ports: &[u16]) -> Request {
    Request { codec, ports: ports.to_vec(), pod: "pod1".to_owned(), idle: Duration::from_secs(60) }
}

fn message(codec: Codec, channel: u8, bytes: &[u8]) -> Message {
    match codec {
        Codec::Binary => Message::binary([&[channel], bytes].concat()),
        Codec::Base64 => {
            Message::text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(bytes)))
        }
    }
}

/// What each channel said until the server closed the socket.
async fn until_closed(codec: Codec, socket: &mut Socket) -> BTreeMap<u8, Vec<u8>> {
    let mut said: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Close(frame) => {
                assert_eq!(frame.unwrap().code, CloseCode::Normal);
                return said;
            }
            other => {
                assert_eq!(other.is_text(), codec == Codec::Base64);
                let (channel, bytes) = codec.decode(other).unwrap();
                said.entry(channel).or_default().extend(bytes);
            }
        }
    }
}

#[tokio::test]
async fn each_port_has_two_channels_that_begin_with_its_number() {
    let greeter = listening(|mut stream: TcpStream| async move {
        let mut name = [0; 5];
        stream.read_exact(&mut name).await.unwrap();
        stream.write_all(b"hello ").await.unwrap();
        stream.write_all(&name).await.unwrap();
    })
    .await;
    let closed = closed().await;
    for codec in [Codec::Binary, Codec::Base64] {
        let (ours, mut theirs) = sockets().await;
        let serving =
            tokio::spawn(websocket::serve(ours, request(codec, &[greeter, closed]), Here));
        // To its error channel, to none, and to what is refused: passed over.
        for (channel, bytes) in [(1, "no"), (9, "no"), (2, "no"), (0, "da"), (0, "vit")] {
            theirs.send(message(codec, channel, bytes.as_bytes())).await.unwrap();
        }
        theirs.send(Message::binary(Vec::new())).await.unwrap();
        let said = until_closed(codec, &mut theirs).await;
        assert_eq!(said[&0], [&greeter.to_le_bytes()[..], b"hello davit"].concat());
        assert_eq!(said[&1], greeter.to_le_bytes());
        assert_eq!(said[&2], closed.to_le_bytes());
        let words = String::from_utf8_lossy(&said[&3][2..]).into_owned();
        assert!(
            words.starts_with(&format!("error forwarding port {closed} to pod pod1")),
            "{words}"
        );
        assert!(words.ends_with("connection refused"), "{words}");
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn the_ports_are_told_before_anything_else_and_in_the_order_of_the_channels() {
    let hasty = listening(|mut stream: TcpStream| async move {
        stream.write_all(b"at once").await.unwrap();
    })
    .await;
    let ports = [hasty, closed().await, hasty];
    for codec in [Codec::Binary, Codec::Base64] {
        for _ in 0..20 {
            let (ours, mut theirs) = sockets().await;
            tokio::spawn(websocket::serve(ours, request(codec, &ports), Here));
            for (channel, port) in (0..).zip(ports.iter().flat_map(|port| [port, port])) {
                let told = codec.decode(theirs.next().await.unwrap().unwrap()).unwrap();
                assert_eq!((told.0, &told.1[..]), (channel, &port.to_le_bytes()[..]));
            }
        }
    }
}

#[tokio::test]
async fn megabytes_go_through_a_channel() {
    let echo = listening(|mut stream: TcpStream| async move {
        let mut all = vec![0; 2_000_000];
        stream.read_exact(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    })
    .await;
    let (ours, mut theirs) = sockets().await;
    tokio::spawn(websocket::serve(ours, request(Codec::Binary, &[echo]), Here));
    for piece in 0..20 {
        theirs.send(message(Codec::Binary, 0, &[piece; 100_000])).await.unwrap();
    }
    let said = until_closed(Codec::Binary, &mut theirs).await;
    assert_eq!(said[&0].len(), 2_000_002);
    assert!(said[&0][2..].chunks(100_000).zip(0..).all(|(chunk, piece)| chunk == [piece; 100_000]));
}

#[tokio::test]
async fn a_client_that_goes_ends_its_connections() {
    let (tell, mut hear) = tokio::sync::mpsc::channel(1);
    let port = listening(move |mut stream: TcpStream| {
        let tell = tell.clone();
        async move {
            let end = stream.read_to_end(&mut Vec::new()).await;
            tell.send(end.is_ok()).await.unwrap();
        }
    })
    .await;
    let (ours, mut theirs) = sockets().await;
    let serving = tokio::spawn(websocket::serve(ours, request(Codec::Binary, &[port]), Here));
    theirs.send(message(Codec::Binary, 0, b"x")).await.unwrap();
    // Both channels' first messages: the connection is being made.
    theirs.next().await.unwrap().unwrap();
    theirs.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(theirs);
    assert_eq!(hear.recv().await, Some(true));
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_socket_where_nothing_goes_either_way_is_ended() {
    let (ours, _theirs) = sockets().await;
    let start = tokio::time::Instant::now();
    #[derive(Clone)]
    struct Never;
    impl crate::streaming::forward::Dial for Never {
        async fn dial(&self, _: u16) -> std::io::Result<TcpStream> {
            std::future::pending().await
        }
    }
    let mut request = request(Codec::Binary, &[80]);
    request.idle = Duration::from_secs(10);
    websocket::serve(ours, request, Never).await;
    assert!((10..=20).contains(&start.elapsed().as_secs()));
}
