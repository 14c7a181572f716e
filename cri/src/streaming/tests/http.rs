use super::*;
use crate::serve::Listener;
use crate::streaming::grant::Grant;
use crate::streaming::spdy::tests::client::{Client, Seen};
use crate::streaming::{Limits, Server, Urls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server on loopback.
struct Stage {
    urls: Urls,
    server: Server,
    address: String,
    processes: mpsc::UnboundedReceiver<Process>,
    stopping: CancellationToken,
}

async fn stage(idle: Duration) -> Stage {
    let (backend, processes) = Puppeteer::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let urls = Urls::new(&format!("http://{address}"));
    let limits = Limits { idle, creation: Duration::from_secs(5) };
    let server = Server::new(urls.clone(), backend, limits).unwrap();
    let stopping = CancellationToken::new();
    tokio::spawn(server.clone().serve(Listener::Tcp(listener), stopping.clone()));
    Stage { urls, server, address, processes, stopping }
}

const SPDY: &str =
    "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";

impl Stage {
    /// The path of a new URL.
    fn path(&self) -> String {
        let url = self.urls.give(Grant::Exec(exec(OUTPUT))).unwrap();
        url.strip_prefix(&format!("http://{}", self.address)).unwrap().to_owned()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    /// The head of the answer, and the connection.
    async fn ask(&self, line: &str, headers: &str) -> (String, TcpStream) {
        let mut stream = self.connect().await;
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        (head(&mut stream).await, stream)
    }

    async fn status(&self, line: &str, headers: &str) -> String {
        self.ask(line, headers).await.0[9..12].to_owned()
    }

    fn open(&self) -> i64 {
        self.server.gauge().with_label_values(&["exec"]).get()
    }
}

/// Up to the empty line, or to the end.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("an answer or an end") {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

#[tokio::test]
async fn a_url_is_good_once_and_streams_are_counted() {
    let mut stage = stage(PATIENCE).await;
    let path = stage.path();
    let (head, stream) = stage.ask(&format!("POST {path}"), SPDY).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.to_lowercase().contains("x-stream-protocol-version: v4.channel.k8s.io"), "{head}");
    // Clients look at the first of these headers only.
    let connection = head.lines().find(|line| line.to_lowercase().starts_with("connection:"));
    assert!(connection.unwrap().to_lowercase().contains("upgrade"), "{head}");
    let mut client = Client::new(stream);
    client.opened(1, &[("streamtype", "error")]).await;
    client.opened(3, &[("streamtype", "stdout")]).await;
    let mut process = stage.processes.recv().await.unwrap();
    assert_eq!(stage.open(), 1);
    assert_eq!(stage.status(&format!("POST {path}"), SPDY).await, "404");
    process.stdout.take().unwrap().write_all(b"out").await.unwrap();
    process.exit(0);
    assert_eq!(client.seen().await, Some(Seen::Data(3, b"out".to_vec())));
    drop(client);
    eventually("the stream is no longer counted", || stage.open() == 0).await;
}

#[tokio::test]
async fn a_token_that_is_wrong_in_whichever_way_gets_the_same_answer() {
    let stage = stage(PATIENCE).await;
    let token = |path: String| path.rsplit('/').next().unwrap().to_owned();
    let used = token(stage.path());
    stage.ask(&format!("POST /exec/{used}"), SPDY).await;
    let other_kind = token(stage.path());
    let mut answers = Vec::new();
    for path in [
        format!("/exec/{used}"),
        format!("/attach/{other_kind}"),
        // Showing it has used it up.
        format!("/exec/{other_kind}"),
        format!("/exec/{}", "0".repeat(32)),
        "/exec/".to_owned(),
        "/exec".to_owned(),
        "/".to_owned(),
        format!("/exec/{}/", token(stage.path())),
        format!("//exec/{}", token(stage.path())),
        "/exec/../../etc/passwd".to_owned(),
        "/exec/%00".to_owned(),
        format!("/portforward/{}", "z".repeat(8000)),
    ] {
        let (mut head, mut stream) = stage.ask(&format!("GET {path}"), SPDY).await;
        stream.read_to_string(&mut head).await.unwrap();
        let date = head.lines().find(|line| line.starts_with("date:")).map(str::to_owned);
        answers.push(head.replace(&date.unwrap_or_default(), ""));
    }
    assert!(answers[0].starts_with("HTTP/1.1 404 "), "{}", answers[0]);
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn what_cannot_be_spoken_is_refused_as_clients_expect() {
    let stage = stage(PATIENCE).await;
    let v9 = SPDY.replace("v4", "v9");
    let (head, _) = stage.ask(&format!("POST {}", stage.path()), &v9).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert_eq!(head.to_lowercase().matches("x-accepted-stream-protocol-versions: ").count(), 4);
    assert_eq!(stage.status(&format!("GET {}", stage.path()), "").await, "400");
    assert_eq!(stage.status(&format!("PUT {}", stage.path()), SPDY).await, "405");
}

#[tokio::test]
async fn channels_for_ports_need_ports() {
    let stage = stage(PATIENCE).await;
    let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n";
    for (ports, query, status) in [
        (vec![], "", "400"),
        (vec![], "?port=0", "400"),
        (vec![], "?port=80,443&port=8080", "101"),
        (vec![80], "", "101"),
    ] {
        let forward = Grant::Forward(Forward { pod: "p".to_owned(), ports });
        let url = stage.urls.give(forward).unwrap();
        let path = url.strip_prefix(&format!("http://{}", stage.address)).unwrap();
        assert_eq!(stage.status(&format!("GET {path}{query}"), headers).await, status, "{query}");
    }
}

#[tokio::test]
async fn a_header_bomb_is_refused() {
    let stage = stage(PATIENCE).await;
    let path = stage.path();
    let long = format!("{SPDY}X: {}\r\n", "a".repeat(300 << 10));
    assert_eq!(stage.status(&format!("POST {path}"), &long).await, "431");
    let many = (0..1000).map(|at| format!("x{at}: y\r\n")).collect::<String>();
    assert_eq!(stage.status(&format!("POST {path}"), &format!("{SPDY}{many}")).await, "431");
    // Nobody has shown the token yet.
    assert_eq!(stage.status(&format!("POST {path}"), SPDY).await, "101");
}

#[tokio::test]
async fn slow_strangers_go_and_never_keep_out_who_holds_a_token() {
    let mut stage = stage(PATIENCE).await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = stage.connect().await;
        stream.write_all(b"POST /exec/x HTTP/1.1\r\nX: ").await.unwrap();
        slow.push(stream);
    }
    // More than there are places, each for ten seconds.
    let began = tokio::time::Instant::now();
    let answer = tokio::time::timeout(Duration::from_secs(40), async {
        stage.status(&format!("POST {}", stage.path()), SPDY).await
    });
    // The one that got in has to open streams to be more than a place; what matters is that it got in.
    assert_eq!(answer.await.unwrap(), "101");
    assert!(began.elapsed() < Duration::from_secs(35));
    assert!(stage.processes.try_recv().is_err());
}

#[tokio::test]
async fn a_stream_where_nothing_happens_is_cut() {
    let mut stage = stage(Duration::from_secs(3)).await;
    let (_, stream) = stage.ask(&format!("POST {}", stage.path()), SPDY).await;
    let mut client = Client::new(stream);
    client.opened(1, &[("streamtype", "error")]).await;
    client.opened(3, &[("streamtype", "stdout")]).await;
    let mut process = stage.processes.recv().await.unwrap();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        process.stdout.as_mut().unwrap().write_all(b"x").await.unwrap();
        assert_eq!(client.seen().await, Some(Seen::Data(3, b"x".to_vec())));
    }
    process.hung_up().await;
}

#[tokio::test]
async fn a_server_that_stops_ends_its_streams_and_closes_its_port() {
    let mut stage = stage(PATIENCE).await;
    let (_, stream) = stage.ask(&format!("POST {}", stage.path()), SPDY).await;
    let mut client = Client::new(stream);
    client.opened(1, &[("streamtype", "error")]).await;
    client.opened(3, &[("streamtype", "stdout")]).await;
    let process = stage.processes.recv().await.unwrap();
    stage.stopping.cancel();
    let address = stage.address.clone();
    for _ in 0..500 {
        if TcpStream::connect(&address).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(TcpStream::connect(&address).await.is_err(), "the port is closed");
    let server = stage.server.clone();
    let stopped = tokio::spawn(async move { server.stop().await });
    let mut told = String::new();
    loop {
        match client.seen().await.expect("a word at the end") {
            Seen::Data(1, bytes) => told.push_str(&String::from_utf8(bytes).unwrap()),
            Seen::GoAway(..) => break,
            Seen::Reply(..)
            | Seen::Data(..)
            | Seen::Fin(_)
            | Seen::Reset(..)
            | Seen::Ping(_)
            | Seen::NoSettings => {}
        }
    }
    assert!(told.contains("davit stops"), "{told}");
    drop(client);
    process.hung_up().await;
    tokio::time::timeout(PATIENCE, stopped).await.unwrap().unwrap();
}
