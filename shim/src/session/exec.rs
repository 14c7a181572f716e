//! A command whose streams are its client's: none of their bytes are seen here.
//!
//! ```text
//! OCI runtime's exec ─► Opened ─► ended ───────────────────────────► Exit
//!                         │  ▲ │                                       (what it left in the background stays)
//!                  Resize └──┘ └ hung up ─► grace ─► killed with its session
//! ```
//!
//! With the client its pipes and its terminal are gone, so a command that reads, writes or minds its terminal notices; the others
//! are killed.

use super::line::Line;
use super::{OpenError, descriptors};
use crate::container::Verdict;
use crate::exec::command::{Begun, Command, Streams};
use crate::pod::Pod;
use crate::stdio::console;
use davit_proto::shim::session_answer::Kind;
use davit_proto::shim::{OpenExec, Opened, session_request};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

/// How long a command whose client has gone may take to end by itself: enough to clean up after a SIGHUP or a closed pipe, and short
/// beside the grace that containers are given.
const GRACE: Duration = Duration::from_secs(2);

/// Runs a command to its end; answers with the last word, unless nobody is there to hear it.
pub(super) async fn serve(
    pod: &Pod,
    line: &mut Line,
    request: OpenExec,
) -> Result<Option<Kind>, OpenError> {
    let OpenExec { id, exec_id, process, terminal, stdin, stdout, stderr } = request;
    let given = descriptors(line, [stdin, stdout, stderr])?;
    let command = Command::claim(pod, &id, exec_id, process)?;
    let streams = if terminal {
        Streams::Terminal
    } else {
        Streams::Given(all_three(given).map_err(command.step("open /dev/null"))?)
    };
    let begun = command.begin(pod, streams).await?;
    let master: Vec<_> = begun.terminal.iter().map(OwnedFd::as_fd).collect();
    line.hand_over(Kind::Opened(Opened {}), &master).await;
    Ok(see_through(begun, line).await)
}

fn all_three(given: [Option<OwnedFd>; 3]) -> std::io::Result<[OwnedFd; 3]> {
    let [stdin, stdout, stderr] = given.map(|fd| fd.map_or_else(crate::process::null, Ok));
    Ok([stdin?, stdout?, stderr?])
}

async fn see_through(begun: Begun, line: &mut Line) -> Option<Kind> {
    let Begun { mut ended, target, terminal } = begun;
    loop {
        tokio::select! {
            biased;
            reaped = &mut ended => {
                // The reaper keeps the sender until it sends.
                let verdict = Verdict { ended: reaped.ok()?, oom_killed: false };
                return Some(Kind::Exit(verdict.to_proto()));
            }
            request = line.next() => match request {
                Ok(Some(session_request::Kind::Resize(size))) => if let Some(master) = &terminal {
                    console::resize(master, size.width, size.height);
                },
                // Of a newer daemon, or out of place.
                Ok(Some(session_request::Kind::Exec(_) | session_request::Kind::Attach(_)) | None) => {}
                Err(_gone) => break,
            },
        }
    }
    // The last of its masters: the kernel sends SIGHUP.
    drop(terminal);
    if tokio::time::timeout(GRACE, &mut ended).await.is_err() {
        target.kill().await;
        let _ = ended.await;
    }
    None
}
