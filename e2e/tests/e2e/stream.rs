//! What the tests of streams share: crictl as a child, on pipes or on a terminal; URLs; requests and frames by hand.

use davit_e2e::prelude::*;
use davit_e2e::tools;
use k8s_cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use rustix::pty::OpenptFlags;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::Instant;
use tonic::Status;

/// Both ways in which crictl reaches a stream.
pub(crate) const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];
/// How long a terminal may be silent before something expected.
const PATIENCE: Duration = Duration::from_secs(20);

/// A command line that begins with crictl's own flags.
#[derive(Debug)]
pub(crate) struct Crictl {
    program: PathBuf,
    endpoint: String,
    dir: PathBuf,
}

impl Crictl {
    pub(crate) fn new(t: &Test) -> Result<Self> {
        let endpoint = format!("unix://{}", t.settings().socket().display());
        Ok(Self { program: tools::crictl()?, endpoint, dir: t.dir.clone() })
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--config", "/dev/null", "--runtime-endpoint", &self.endpoint]);
        command.args(["--timeout", "30s"]).args(arguments).current_dir(&self.dir);
        command
    }

    pub(crate) fn exec(&self, transport: &str, id: &str, words: &[&str]) -> Command {
        self.exec_with(&[], transport, id, words)
    }

    pub(crate) fn exec_with(
        &self,
        flags: &[&str],
        transport: &str,
        id: &str,
        words: &[&str],
    ) -> Command {
        let own = ["exec", "--transport", transport];
        self.command(&[&own[..], flags, &[id], words].concat())
    }

    /// Runs it on a terminal of this width and height.
    pub(crate) fn on_terminal(&self, arguments: &[&str], size: (u16, u16)) -> Result<Terminal> {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        set_size(&master, size)?;
        let name = rustix::pty::ptsname(&master, Vec::new())?;
        let slave = || {
            File::options().read(true).write(true).open(name.to_str()?).map_err(anyhow::Error::from)
        };
        let mut command = self.command(arguments);
        command.stdin(slave()?).stdout(slave()?).stderr(slave()?);
        let child = command.spawn().context("start crictl on a terminal")?;
        Ok(Terminal { master: File::from(master), child, said: String::new() })
    }
}

fn set_size(master: &impl std::os::fd::AsFd, (width, height): (u16, u16)) -> Result<()> {
    let size =
        rustix::termios::Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(master, size)?)
}

/// crictl on a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: File,
    child: Child,
    said: String,
}

impl Terminal {
    pub(crate) fn say(&mut self, text: &str) -> Result<()> {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// All that it has said.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// Hears what is said within this time.
    pub(crate) fn listen(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while self.hear(end.saturating_duration_since(Instant::now()))? {}
        Ok(())
    }

    pub(crate) fn expect(&mut self, text: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.said.contains(text) {
            if !self.hear(end.saturating_duration_since(Instant::now()))? {
                bail!("the terminal never says {text:?}: {:?}", self.said);
            }
        }
        Ok(())
    }

    pub(crate) fn resize(&mut self, size: (u16, u16)) -> Result<()> {
        set_size(&self.master, size)?;
        // It is nobody's controlling terminal, so nobody is told but by us.
        let pid = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::WINCH)?)
    }

    /// The exit code, and everything said.
    pub(crate) fn end(mut self) -> Result<(i32, String)> {
        let status = eventually(PATIENCE, "crictl ends", || Ok(self.child.try_wait()?));
        if status.is_err() {
            self.child.kill()?;
            self.child.wait()?;
        }
        self.listen(Duration::from_millis(200))?;
        let status = status.with_context(|| format!("it said {:?}", self.said))?;
        Ok((status.code().unwrap_or(-1), self.said))
    }

    /// Whether it said something in time, and has not ended.
    fn hear(&mut self, time: Duration) -> Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut ready = [PollFd::new(&self.master, PollFlags::IN)];
        let time = Timespec::try_from(time)?;
        if poll(&mut ready, Some(&time))? == 0 {
            return Ok(false);
        }
        let mut buffer = [0; 4096];
        match self.master.read(&mut buffer) {
            Ok(count) if count > 0 => {
                self.said.push_str(&String::from_utf8_lossy(&buffer[..count]));
                Ok(true)
            }
            // EIO: the other side is closed.
            Ok(_) | Err(_) => Ok(false),
        }
    }
}

/// URLs, and what the daemon holds.
#[derive(Debug)]
pub(crate) struct Stage<'a>(&'a Test);

pub(crate) fn stage(t: &Test) -> Stage<'_> {
    Stage(t)
}

impl Stage<'_> {
    /// The URL for a command of which only the output is wanted.
    pub(crate) fn exec(&self, id: &str, command: &[&str]) -> Result<String, Status> {
        let request = ExecRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            stdout: true,
            ..ExecRequest::default()
        };
        self.exec_as(request)
    }

    pub(crate) fn exec_as(&self, request: ExecRequest) -> Result<String, Status> {
        Ok(self.0.cri.wait(self.0.cri.runtime().exec(request))?.url)
    }

    pub(crate) fn attach(&self, request: AttachRequest) -> Result<String, Status> {
        Ok(self.0.cri.wait(self.0.cri.runtime().attach(request))?.url)
    }

    pub(crate) fn forward(&self, pod: &str, port: &[i32]) -> Result<String, Status> {
        let request = PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: port.to_vec() };
        Ok(self.0.cri.wait(self.0.cri.runtime().port_forward(request))?.url)
    }

    /// The daemon's memory of its own, in KiB.
    pub(crate) fn own_memory(&self) -> Result<u64> {
        davit_e2e::footprint::own_memory(self.pid()?)
    }

    /// How many descriptors the daemon has open, with those of what it keeps ready.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        crate::ahead::as_many(self.0, 2)?;
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()?))?.count())
    }

    /// How much CPU time the daemon has taken, in ticks.
    pub(crate) fn ticks(&self) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        let (_, rest) = text.rsplit_once(')').context("stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    }

    fn pid(&self) -> Result<u32> {
        self.0.daemon().pid().context("the daemon runs")
    }
}

/// A connection to the address of a URL, and the URL's path.
pub(crate) fn connect(url: &str) -> Result<(TcpStream, String)> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not http"))?;
    let (address, path) = rest.split_once('/').context("the URL has a path")?;
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok((stream, format!("/{path}")))
}

/// Sends a request's head and reads the answer's.
pub(crate) fn ask(stream: &mut TcpStream, line: &str, headers: &str) -> Result<String> {
    write!(stream, "{line} HTTP/1.1\r\nHost: davit\r\n{headers}\r\n")?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            break;
        }
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}

pub(crate) const SPDY: &str =
    "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";

/// The headers that ask for a WebSocket with this sub-protocol.
pub(crate) fn websocket(protocol: &str) -> String {
    format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n"
    )
}

/// A WebSocket, frame by frame.
#[derive(Debug)]
pub(crate) struct Frames(pub(crate) TcpStream);

impl Frames {
    /// Goes to a URL.
    pub(crate) fn open(url: &str, protocol: &str) -> Result<Self> {
        let (mut stream, path) = connect(url)?;
        let head = ask(&mut stream, &format!("GET {path}"), &websocket(protocol))?;
        ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Ok(Self(stream))
    }

    /// Sends a binary message: a channel and what it holds, masked with zeros.
    pub(crate) fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<()> {
        let length = u64::try_from(bytes.len() + 1)?;
        let mut frame = vec![0x82, 0x80 | 127];
        frame.extend(length.to_be_bytes());
        frame.extend([0; 4]);
        frame.push(channel);
        frame.extend(bytes);
        Ok(self.0.write_all(&frame)?)
    }

    /// The next frame's kind and what it holds.
    pub(crate) fn next(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head)?;
        let length = match head[1] & 0x7f {
            126 => {
                let mut length = [0; 2];
                self.0.read_exact(&mut length)?;
                u64::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                self.0.read_exact(&mut length)?;
                u64::from_be_bytes(length)
            }
            short => u64::from(short),
        };
        let mut bytes = vec![0; usize::try_from(length)?];
        self.0.read_exact(&mut bytes)?;
        Ok((head[0] & 0x0f, bytes))
    }

    /// What each of the channels 0 to 3 says until the server closes.
    pub(crate) fn rest(mut self) -> Result<[String; 4]> {
        let mut said: [String; 4] = Default::default();
        loop {
            match self.next()? {
                (2, bytes) => {
                    let (channel, bytes) = bytes.split_first().context("a channel")?;
                    said[usize::from(*channel)].push_str(&String::from_utf8_lossy(bytes));
                }
                (8, _) => return Ok(said),
                (9 | 10, _) => {}
                (kind, bytes) => bail!("a frame of kind {kind}: {bytes:?}"),
            }
        }
    }
}
