//! The Kubernetes client libraries against our sessions: what kubectl and crictl speak by.
//!
//! They are written in Go, so these tests build a program; and what they measure, only an optimised build shows. Hence on demand:
//! `cargo test -p davit peer -- --ignored --nocapture`.

use super::{Here, closed, listening, parrot};
use crate::streaming::forward::tunnel::{Tunnel, config};
use crate::streaming::forward::{TUNNEL_PROTOCOL, spdy};
use crate::streaming::spdy::{Incoming, serve};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// The program, built once for each test that asks.
async fn built(directory: &Path) -> PathBuf {
    let program = directory.join("streampeer");
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/tools");
    let status = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg("./streampeer")
        .current_dir(tools)
        .status()
        .await
        .expect("Go is installed");
    assert!(status.success());
    program
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Serves {
    Ports,
    Streams,
}

/// Serves sessions of either kind: for port forwarding, or of streams that are read or written.
async fn server(kind: &'static str, serves: Serves) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let limits = spdy::limits(Duration::from_secs(60));
            tokio::spawn(async move {
                let session = match kind {
                    "spdy" => serve(stream, limits),
                    _ => serve(Tunnel::new(upgraded(stream).await), limits),
                };
                if serves == Serves::Ports {
                    Box::pin(spdy::serve(session, "pod1", Here)).await;
                } else {
                    Box::pin(streams(session)).await;
                }
            });
        }
    });
    address
}

async fn upgraded(stream: TcpStream) -> tokio_tungstenite::WebSocketStream<TcpStream> {
    fn answer(
        _: &Request,
        mut response: Response,
    ) -> Result<Response, tokio_tungstenite::tungstenite::handshake::server::ErrorResponse> {
        let protocol = TUNNEL_PROTOCOL.parse().unwrap();
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    }
    tokio_tungstenite::accept_hdr_async_with_config(stream, answer, Some(config())).await.unwrap()
}

async fn streams(mut session: crate::streaming::spdy::Session) {
    while let Some(incoming) = session.accept().await {
        tokio::spawn(stream(incoming));
    }
}

async fn stream(incoming: Incoming) {
    let count: usize = incoming.headers.get("bytes").unwrap().parse().unwrap();
    let kind = incoming.headers.get("streamtype").unwrap().to_owned();
    let (mut reader, mut writer) = incoming.accept().split();
    if kind == "up" {
        let mut read = 0;
        loop {
            let piece = reader.fill_buf().await.unwrap().len();
            if piece == 0 {
                break;
            }
            reader.consume(piece);
            read += piece;
        }
        assert_eq!(read, count);
    } else {
        let chunk = vec![7; 64 * 1024];
        let mut left = count;
        while left > 0 {
            let piece = left.min(chunk.len());
            writer.write_all(&chunk[..piece]).await.unwrap();
            left -= piece;
        }
    }
    writer.shutdown().await.unwrap();
}

/// A port-forward by client-go: its local ports, in order.
struct Forwarder {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Forwarder {
    fn start(program: &Path, kind: &str, address: &str, ports: &[u16]) -> Self {
        let mut child = Command::new(program)
            .args([kind, address, "forward"])
            .args(ports.iter().map(ToString::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn port(&mut self) -> u16 {
        self.lines.next_line().await.unwrap().unwrap().parse().unwrap()
    }

    /// Ends its input; how it ended, and what it complained of.
    async fn stop(mut self) -> (ExitStatus, String) {
        drop(self.child.stdin.take());
        let output = self.child.wait_with_output();
        let output = tokio::time::timeout(Duration::from_secs(10), output).await.unwrap().unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap())
    }
}

async fn asked(port: u16, text: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(text).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut all));
    read.await.expect("an answer").unwrap();
    all
}

/// One that says something and goes, without a look at what it was sent.
async fn early(mut stream: TcpStream) {
    drop(stream.write_all(b"bye").await);
}

async fn silent(stream: TcpStream) {
    tokio::time::sleep(Duration::from_secs(60)).await;
    drop(stream);
}

#[tokio::test]
#[ignore = "builds a program written in Go"]
async fn client_go_forwards_ports() {
    let directory = tempfile::tempdir().unwrap();
    let program = built(directory.path()).await;
    for kind in ["spdy", "tunnel"] {
        let address = server(kind, Serves::Ports).await;
        let ports = [listening(parrot).await, listening(early).await, listening(silent).await];
        let mut forwarder = Forwarder::start(&program, kind, &address, &ports);
        let (parrot, early, silent) =
            (forwarder.port().await, forwarder.port().await, forwarder.port().await);
        // Half-close, small and large, one after the other and at once.
        assert_eq!(asked(parrot, b"hello").await, b"heard: hello", "{kind}");
        let large = vec![b'x'; 5_000_000];
        assert_eq!(asked(parrot, &large).await.len(), 5_000_007, "{kind}");
        let many: Vec<_> = (0..50)
            .map(|n| {
                let text = vec![b'a'; n * 1000];
                tokio::spawn(async move { asked(parrot, &text).await.len() })
            })
            .collect();
        for (n, one) in many.into_iter().enumerate() {
            assert_eq!(one.await.unwrap(), n * 1000 + 7, "{kind}");
        }
        // A port that closes early, with the client's half still open.
        let mut stream = TcpStream::connect(("127.0.0.1", early)).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"bye", "{kind}");
        // Ports that say nothing, left alone by clients: the others go on.
        for _ in 0..20 {
            drop(TcpStream::connect(("127.0.0.1", silent)).await.unwrap());
        }
        assert_eq!(asked(parrot, b"still").await, b"heard: still", "{kind}");
        let (status, complaints) = forwarder.stop().await;
        assert!(status.success() && complaints.is_empty(), "{kind}: {status} {complaints}");
    }
}

#[tokio::test]
#[ignore = "builds a program written in Go"]
async fn client_go_tells_why_a_port_can_not_be_reached() {
    let directory = tempfile::tempdir().unwrap();
    let program = built(directory.path()).await;
    for kind in ["spdy", "tunnel"] {
        let address = server(kind, Serves::Ports).await;
        let port = closed().await;
        let mut forwarder = Forwarder::start(&program, kind, &address, &[port]);
        let local = forwarder.port().await;
        assert_eq!(asked(local, b"anybody?").await, b"", "{kind}");
        let (_, complaints) = forwarder.stop().await;
        let words = format!("error forwarding port {port} to pod pod1, uid : failed to connect");
        assert!(complaints.contains(&words), "{kind}: {complaints}");
        assert!(complaints.contains("connection refused"), "{kind}: {complaints}");
    }
}

/// Prints the client's own figure, and what the server may keep in memory does not depend on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "builds a program written in Go, and measures"]
async fn client_go_moves_a_gigabyte() {
    let directory = tempfile::tempdir().unwrap();
    let program = built(directory.path()).await;
    for kind in ["spdy", "tunnel"] {
        let address = server(kind, Serves::Streams).await;
        for way in ["up", "down"] {
            let before = resident();
            let output = Command::new(&program)
                .args([kind, &address, way, "1000000000"])
                .output()
                .await
                .unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{kind} {way}: {output:?}", output = output.stderr);
            let grown = resident().saturating_sub(before);
            println!("{kind} {way}: {} (memory grew by {grown} KiB)", said.trim());
            // Other tests may run in this process; what is moved would show all the same.
            assert!(grown < 64 * 1024, "{kind} {way}: {grown} KiB");
        }
    }
}

/// KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
