//! Exec, Attach and PortForward: from a call to a URL.
//!
//! Owns what is refused at the call, so that its caller hears of it and not the client that comes with the URL: what makes no sense, and a
//! container or pod that is not there or does not run. Whether it still runs is asked again when the client comes.

use super::status::plain_status;
use crate::convert;
use crate::streaming::Urls;
use crate::streaming::grant::{Attach, Exec, Forward, Grant};
use crate::streaming::token::TokenError;
use davit_proto::cri::{AttachRequest, ExecRequest, PortForwardRequest};
use davit_runtime::Runtime;
use tonic::Status;

/// The URL for a command.
pub(super) fn exec(runtime: &Runtime, urls: &Urls, request: ExecRequest) -> Result<String, Status> {
    let Exec { container, command, wanted } = convert::exec(request)?;
    let id = runtime.may_exec(&container).map_err(|error| plain_status(&error))?;
    give(urls, Grant::Exec(Exec { container: id.to_string(), command, wanted }))
}

/// The URL for a container's own process.
pub(super) fn attach(
    runtime: &Runtime,
    urls: &Urls,
    request: AttachRequest,
) -> Result<String, Status> {
    let Attach { container, wanted } = convert::attach(request)?;
    let attachable = runtime.may_attach(&container).map_err(|error| plain_status(&error))?;
    give(urls, Grant::Attach(Attach { container: attachable.id.to_string(), wanted }))
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
