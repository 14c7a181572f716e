//! Running an OCI runtime's command line, bounded in time and output.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// How much of an answer is read: `features` of runc is 12 KiB.
const OUTPUT_LIMIT: u64 = 1 << 20;

/// How a command ended.
pub(super) struct Ended {
    pub(super) success: bool,
    pub(super) stdout: Vec<u8>,
}

/// Runs `program` to its end and reads its standard output.
pub(super) async fn ask(
    program: &Path,
    args: &[&str],
    deadline: Duration,
) -> Result<Ended, String> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child =
        command.spawn().map_err(|error| format!("run {}: {error}", program.display()))?;
    let stdout = child.stdout.take();
    let all = async {
        let stdout = read(stdout).await;
        child.wait().await.map(|status| Ended { success: status.success(), stdout })
    };
    match tokio::time::timeout(deadline, all).await {
        Ok(Ok(ended)) => Ok(ended),
        Ok(Err(error)) => Err(format!("wait for {}: {error}", program.display())),
        Err(_elapsed) => {
            Err(format!("{} {} takes longer than {deadline:?}", program.display(), args.join(" ")))
        }
    }
}

/// What a broken pipe cuts off is lost: the caller sees that it makes no sense.
async fn read(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(from) = from {
        let _cut_off = from.take(OUTPUT_LIMIT).read_to_end(&mut out).await;
    }
    out
}

/// Runs a command that leaves a process behind, which holds its output open: that goes into a file.
pub(super) async fn leave(
    mut command: Command,
    stderr: &Path,
    deadline: Duration,
) -> Result<bool, String> {
    let file = std::fs::File::create(stderr)
        .map_err(|error| format!("make {}: {error}", stderr.display()))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("run it: {error}"))?;
    match tokio::time::timeout(deadline, child.wait()).await {
        Ok(Ok(status)) => Ok(status.success()),
        Ok(Err(error)) => Err(format!("wait for it: {error}")),
        Err(_elapsed) => Err(format!("it takes longer than {deadline:?}")),
    }
}
