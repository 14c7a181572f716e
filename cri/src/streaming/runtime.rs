//! The runtime as what stands behind the streams.

use super::backend::{Backend, Ended, Ports, Session};
use super::grant::{Attach, Exec, Forward};
use davit_runtime::Runtime;
use davit_runtime::error::chain;
use davit_runtime::stream;

#[tonic::async_trait]
impl Backend for Runtime {
    async fn exec(&self, exec: &Exec) -> Result<Session, String> {
        let Exec { container, command, wanted, whom } = exec;
        let session = Self::exec(self, container, command, *wanted, whom).await;
        session.map(seam).map_err(|error| chain(&*error))
    }

    async fn attach(&self, attach: &Attach) -> Result<Session, String> {
        let Attach { container, wanted, on_eof: _ } = attach;
        let session = Self::attach(self, container, *wanted).await;
        session.map(seam).map_err(|error| chain(&*error))
    }

    async fn forward(&self, forward: &Forward) -> Result<Ports, String> {
        let network = self.port_forward(&forward.pod).await.map_err(|error| chain(&error))?;
        Ok(Ports::new(move |port| {
            let network = network.clone();
            async move { network.dial(port).await }
        }))
    }
}

fn seam(session: stream::Session) -> Session {
    let stream::Session { stdin, stdout, stderr, mut control } = session;
    let resizer = control.resizer();
    Session {
        stdin: stdin.map(|input| Box::new(input) as _),
        stdout: stdout.map(|output| Box::new(output) as _),
        stderr: stderr.map(|output| Box::new(output) as _),
        resize: Box::new(move |size| resizer.resize(size)),
        ended: Box::pin(async move {
            match control.ended().await {
                Ok(stream::Ended::Exited { code, signal: _ }) => Ok(Ended::Exited { code }),
                Ok(stream::Ended::Detached { reason }) => {
                    Ok(Ended::Detached { reason: Some(reason) })
                }
                Err(error) => Err(error.to_string()),
            }
        }),
    }
}
