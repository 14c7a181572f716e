//! The protocols and the server, against a process that does what the test says.

mod http;
mod spdy;
mod websocket;

use super::activity::Activity;
use super::backend::{Backend, Ended, Ports, Session, Size};
use super::command::{Command, Terms};
use super::grant::{Attach, Exec, Forward, Kind, OnEof, Wanted};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// What a pipe between the test and the server holds.
const PIPE: usize = 4096;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The process's side of a session.
pub(super) struct Process {
    pub(super) stdin: Option<DuplexStream>,
    pub(super) stdout: Option<DuplexStream>,
    pub(super) stderr: Option<DuplexStream>,
    pub(super) sizes: mpsc::UnboundedReceiver<Size>,
    pub(super) end: oneshot::Sender<Result<Ended, String>>,
}

impl Process {
    pub(super) fn exit(self, code: i32) {
        self.end.send(Ok(Ended::Exited { code })).unwrap();
    }

    /// Waits until the session was dropped.
    pub(super) async fn hung_up(mut self) {
        tokio::time::timeout(PATIENCE, self.end.closed()).await.expect("it was hung up on");
    }
}

/// Makes processes, or refuses to.
pub(super) struct Puppeteer {
    made: mpsc::UnboundedSender<Process>,
    refusal: Option<&'static str>,
}

impl Puppeteer {
    pub(super) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Process>) {
        let (made, processes) = mpsc::unbounded_channel();
        (Arc::new(Self { made, refusal: None }), processes)
    }

    pub(super) fn refusing(refusal: &'static str) -> Arc<Self> {
        Arc::new(Self { made: mpsc::unbounded_channel().0, refusal: Some(refusal) })
    }

    fn begin(&self, wanted: Wanted) -> Result<Session, String> {
        if let Some(refusal) = self.refusal {
            return Err(refusal.to_owned());
        }
        let pipe = |wanted: bool| wanted.then(|| tokio::io::duplex(PIPE)).unzip();
        let (stdin, near_stdin) = pipe(wanted.stdin);
        let (stdout, near_stdout) = pipe(wanted.stdout);
        let (stderr, near_stderr) = pipe(wanted.stderr);
        let (size_sender, sizes) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        self.made.send(Process { stdin, stdout, stderr, sizes, end }).ok();
        Ok(Session {
            stdin: near_stdin.map(|pipe| Box::new(pipe) as _),
            stdout: near_stdout.map(|pipe| Box::new(pipe) as _),
            stderr: near_stderr.map(|pipe| Box::new(pipe) as _),
            resize: Box::new(move |size| {
                size_sender.send(size).ok();
            }),
            ended: Box::pin(async move { ended.await.expect("the process says how it ended") }),
        })
    }
}

#[tonic::async_trait]
impl Backend for Puppeteer {
    async fn exec(&self, exec: &Exec) -> Result<Session, String> {
        self.begin(exec.wanted)
    }

    async fn attach(&self, attach: &Attach) -> Result<Session, String> {
        self.begin(attach.wanted)
    }

    async fn forward(&self, _: &Forward) -> Result<Ports, String> {
        Err("there is no pod".to_owned())
    }
}

pub(super) const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, terminal: false };
pub(super) const TERMINAL: Wanted =
    Wanted { stdin: true, stdout: true, stderr: false, terminal: true };
pub(super) const OUTPUT: Wanted =
    Wanted { stdin: false, stdout: true, stderr: false, terminal: false };

pub(super) fn exec(wanted: Wanted) -> Exec {
    Exec {
        container: "c".to_owned(),
        command: vec!["x".to_owned()],
        wanted,
        whom: crate::streaming::grant::ExecAs::default(),
    }
}

pub(super) fn command(kind: Kind, backend: Arc<Puppeteer>, wanted: Wanted) -> Command {
    match kind {
        Kind::Exec => Command::exec(backend, exec(wanted)),
        Kind::Attach | Kind::Forward => attach(backend, wanted, OnEof::Stay),
    }
}

pub(super) fn attach(backend: Arc<Puppeteer>, wanted: Wanted, on_eof: OnEof) -> Command {
    Command::attach(backend, Attach { container: "c".to_owned(), wanted, on_eof })
}

pub(super) fn terms() -> Terms {
    Terms {
        creation: Duration::from_secs(5),
        idle: Duration::from_secs(60),
        activity: Activity::new(),
        end: CancellationToken::new(),
    }
}
