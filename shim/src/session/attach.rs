//! A client attached to a container: its output from now on, and its input.
//!
//! Owns the copying between the container's queues and the client's pipes. The container, its log and its other clients go on whatever
//! the client does.

use super::line::Line;
use super::{OpenError, descriptors};
use crate::container::{Container, Phase};
use crate::error::{Invalid, Refusal};
use crate::pod::Pod;
use crate::stdio::log::Source;
use crate::stdio::stream::{Writer, nonblocking};
use crate::stdio::tee::{Attachment, Queue};
use davit_proto::shim::session_answer::Kind;
use davit_proto::shim::{Detached, OpenAttach, Opened, session_request};
use futures_util::future::join;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How long a client may take for what is left when the container has ended, and a container for what is left when the client has gone.
const LAST: Duration = Duration::from_secs(10);
const TOO_SLOW: &str = "the client did not read the container's output fast enough";
const GONE: &str = "the container is gone";

/// Attaches a client until the container or the client ends; answers with the last word, unless nobody is there to hear it.
pub(super) async fn serve(
    pod: &Pod,
    line: &mut Line,
    request: OpenAttach,
) -> Result<Option<Kind>, OpenError> {
    let OpenAttach { id, stdin, stdout, stderr } = request;
    let [input, output, errors] = descriptors(line, [stdin, stdout, stderr])?;
    let container = pod.container(&id)?;
    container.living()?;
    if stderr && container.has_terminal() {
        let reason = "a terminal has no standard error of its own";
        return Err(Invalid::new("stderr", "true", reason).into());
    }
    let step = |step| {
        let id = id.clone();
        move |source| OpenError::Attach { id, step, source }
    };
    let writer = |fd: Option<OwnedFd>| -> io::Result<Option<Writer>> {
        fd.map(|fd| Writer::new(nonblocking(fd)?)).transpose()
    };
    let output = writer(output).map_err(step("write its output"))?;
    let errors = writer(errors).map_err(step("write its errors"))?;
    let sources = [(stdout, Source::Stdout), (stderr, Source::Stderr)];
    let sources: Vec<Source> =
        sources.into_iter().filter(|(wanted, _)| *wanted).map(|(_, source)| source).collect();
    let mut attachment =
        container.tee.attach(&sources).ok_or_else(|| Refusal::Exited(id.clone()))?;
    line.say(Kind::Opened(Opened {})).await;
    let outputs = join(
        pump(attachment.take_queue(Source::Stdout), output),
        pump(attachment.take_queue(Source::Stderr), errors),
    );
    let client = Client { container: &container, attachment: &attachment };
    Ok(client.see_through(line, async { ((), ()) = outputs.await }, feed(&container, input)).await)
}

struct Client<'a> {
    container: &'a Container,
    attachment: &'a Attachment,
}

impl Client<'_> {
    async fn see_through(
        &self,
        line: &mut Line,
        outputs: impl Future<Output = ()>,
        feeding: impl Future<Output = ()>,
    ) -> Option<Kind> {
        tokio::pin!(outputs, feeding);
        let over = self.container.over();
        tokio::pin!(over);
        let (mut read, mut fed) = (false, false);
        let over = loop {
            tokio::select! {
                () = self.attachment.cut_off() => {
                    return Some(Kind::Detached(Detached { reason: TOO_SLOW.to_owned() }));
                }
                request = line.next() => match request {
                    Ok(Some(session_request::Kind::Resize(size))) => {
                        self.container.resize(size.width, size.height);
                    }
                    // Of a newer daemon, or out of place.
                    Ok(Some(session_request::Kind::Exec(_) | session_request::Kind::Attach(_)) | None) => {}
                    Err(_gone) => break None,
                },
                () = &mut outputs, if !read => read = true,
                () = &mut feeding, if !fed => fed = true,
                over = &mut over => break Some(over),
            }
        };
        let Some(over) = over else {
            if !fed {
                let outputs = async {
                    if !read {
                        outputs.await;
                    }
                    pending().await
                };
                outlive(feeding, outputs).await;
            }
            return None;
        };
        if !read && tokio::time::timeout(LAST, outputs).await.is_err() {
            return Some(Kind::Detached(Detached { reason: TOO_SLOW.to_owned() }));
        }
        Some(over)
    }
}

/// Passes on what a client had written when it went. Its outputs find out meanwhile that nobody reads them, so that they hold the container up no more.
async fn outlive(feeding: impl Future<Output = ()>, outputs: impl Future<Output = Infallible>) {
    tokio::select! {
        () = feeding => {}
        never = outputs => match never {},
        () = tokio::time::sleep(LAST) => {}
    }
}

/// Passes a stream on until it ends, or the client reads it no more.
async fn pump(queue: Option<Queue>, writer: Option<Writer>) {
    let (Some(mut queue), Some(writer)) = (queue, writer) else { return };
    while let Some(piece) = queue.next().await {
        if writer.write_all(&piece).await.is_err() {
            return;
        }
        queue.done(&piece);
    }
}

/// Passes the client's input on until it ends, or the container takes no more. However this ends, the client's input has.
async fn feed(container: &Container, input: Option<OwnedFd>) {
    let (Some(input), Some(mouth)) = (input, container.mouth()) else { return };
    let _fed = Fed(container);
    // That of a client whose input can't be read, or is not wanted, has ended too.
    let _ = mouth.copy_from(input).await;
}

/// Tells the container when it is dropped.
struct Fed<'a>(&'a Container);

impl Drop for Fed<'_> {
    fn drop(&mut self) {
        self.0.fed();
    }
}

impl Container {
    /// Answers how it ended, once it has and all of its output was handed out.
    async fn over(&self) -> Kind {
        self.wait_until(|phase| matches!(phase, Phase::Exited(_) | Phase::Gone)).await;
        match self.death() {
            Some(death) => Kind::Exit(death.verdict.to_proto()),
            None => Kind::Detached(Detached { reason: GONE.to_owned() }),
        }
    }
}
