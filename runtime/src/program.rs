//! Running somebody else's program to its end, or to the end of patience.
//!
//! Owns that nothing of a program that hangs is left: it is killed with all that it has started, before its number can mean another.

use rustix::process::Pid;
use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

/// What is kept of each of its outputs, in bytes.
const MAX_OUTPUT: u64 = 1 << 20;

/// How it ended and what it said; `None` if it took longer than `limit` and was killed.
///
/// # Errors
/// It could not be started, or talked to.
pub(crate) async fn output(mut command: Command, limit: Duration) -> io::Result<Option<Output>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let pipes = (child.stdout.take(), child.stderr.take());
    let ended = {
        let ended = async {
            tokio::try_join!(child.wait(), read(pipes.0, &mut stdout), read(pipes.1, &mut stderr))
        };
        tokio::time::timeout(limit, ended).await
    };
    if let Ok(ended) = ended {
        let (status, (), ()) = ended?;
        return Ok(Some(Output { status, stdout, stderr }));
    }
    kill(&child);
    Ok(None)
}

/// Kills it with all that it has started, unless it has been reaped: its number may mean another then.
pub(crate) fn kill(child: &Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        davit_sys::kin::kill(pid);
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(pipe) = pipe else { return Ok(()) };
    let mut rest = pipe.take(MAX_OUTPUT);
    rest.read_to_end(into).await?;
    // What is beyond is dropped, so that the program does not wait for a reader.
    tokio::io::copy(&mut rest.into_inner(), &mut tokio::io::sink()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_all_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script =
            format!("sleep 4326 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let limit = Duration::from_secs(3);
        assert!(output(sh(&script), limit).await.unwrap().is_none());
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        for _ in 0..500 {
            let gone = stat().rsplit_once(')').is_none_or(|(_, rest)| rest.trim().starts_with('Z'));
            if gone {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("its child lives: {}", stat());
    }

    #[tokio::test]
    async fn what_a_program_says_is_told() {
        let said = output(sh("echo out; echo err >&2; exit 3"), Duration::from_secs(20)).await;
        let said = said.unwrap().unwrap();
        assert_eq!((said.stdout, said.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
        assert_eq!(said.status.code(), Some(3));
    }
}
