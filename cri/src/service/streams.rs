//! Exec, Attach and PortForward: from a call to a URL.
//!
//! Owns what is refused at the call, so that its caller hears of it and not the client that comes with the URL: what makes no sense, and a
//! container or pod that is not there or does not run. Whether it still runs is asked again when the client comes.

use super::status::plain_status;
use crate::convert;
use crate::streaming::Urls;
use crate::streaming::grant::{Attach, Exec, Forward, Grant, OnEof, Wanted};
use crate::streaming::token::TokenError;
use davit_proto::admin;
use davit_proto::cri::{AttachRequest, ExecRequest, PortForwardRequest};
use davit_runtime::Runtime;
use davit_runtime::stream::Attachable;
use tonic::Status;

/// The URL for a command.
pub(super) fn exec(runtime: &Runtime, urls: &Urls, request: ExecRequest) -> Result<String, Status> {
    command(runtime, urls, convert::exec(request)?)
}

/// The same, for davit's own client.
pub(super) fn exec_as(
    runtime: &Runtime,
    urls: &Urls,
    request: admin::ExecRequest,
) -> Result<String, Status> {
    command(runtime, urls, convert::exec_as(request)?)
}

fn command(runtime: &Runtime, urls: &Urls, exec: Exec) -> Result<String, Status> {
    let id = runtime.may_exec(&exec.container).map_err(|error| plain_status(&error))?;
    give(urls, Grant::Exec(Exec { container: id.to_string(), ..exec }))
}

/// The URL for a container's own process, whose streams the client need not know.
pub(super) fn attach_early(
    runtime: &Runtime,
    urls: &Urls,
    request: admin::AttachRequest,
) -> Result<admin::AttachResponse, Status> {
    let admin::AttachRequest { container_id, stdin } = request;
    let found = runtime.may_attach_early(&container_id).map_err(|error| plain_status(&error))?;
    let (tty, stdin) = (found.terminal, stdin && found.stdin);
    let wanted = Wanted { stdin, stdout: true, stderr: !tty, terminal: tty };
    // Without a terminal, davit's own client stays to the container's end whatever becomes of its input: it exits as the container does.
    let on_eof = if tty { OnEof::Detach } else { OnEof::Stay };
    let url =
        give(urls, Grant::Attach(Attach { container: found.id.to_string(), wanted, on_eof }))?;
    Ok(admin::AttachResponse { url, tty, stdin })
}

/// The URL for a container's own process.
pub(super) fn attach(
    runtime: &Runtime,
    urls: &Urls,
    request: AttachRequest,
) -> Result<String, Status> {
    let (container, wanted) = convert::attach(request)?;
    let found = runtime.may_attach(&container).map_err(|error| plain_status(&error))?;
    let on_eof = on_eof(&found);
    give(urls, Grant::Attach(Attach { container: found.id.to_string(), wanted, on_eof }))
}

/// Input that outlives its clients does not end with one's, so a client that has no more, or has read the keys for leaving, has no other way to say that it wants to go.
fn on_eof(found: &Attachable) -> OnEof {
    let Attachable { id: _, terminal, stdin, stdin_once } = *found;
    if terminal || (stdin && !stdin_once) { OnEof::Detach } else { OnEof::Stay }
}

/// The URL for a pod's ports.
pub(super) fn port_forward(
    runtime: &Runtime,
    urls: &Urls,
    request: PortForwardRequest,
) -> Result<String, Status> {
    let Forward { pod, ports } = convert::port_forward(request)?;
    let id = runtime.may_forward(&pod).map_err(|error| plain_status(&error))?;
    give(urls, Grant::Forward(Forward { pod: id.to_string(), ports }))
}

fn give(urls: &Urls, grant: Grant) -> Result<String, Status> {
    urls.give(grant).map_err(|error| match error {
        TokenError::TooMany | TokenError::TooLong => Status::resource_exhausted(error.to_string()),
        TokenError::Random(_) => Status::internal(error.to_string()),
    })
}
