//! Whether CRIU can be had here: asked each time, since it costs milliseconds beside a dump, and a kernel or a package may change.

use super::CheckpointError;
use crate::oci::Handler;
use crate::oci::handlers::Kind;
use crate::program;
use std::io;
use std::time::Duration;

/// `criu check` dumps nothing.
const LIMIT: Duration = Duration::from_secs(15);

/// Tries CRIU with this kernel, for as long as `limit`.
pub(super) async fn check(limit: Duration) -> Result<(), CheckpointError> {
    check_program("criu", limit.min(LIMIT)).await
}

/// Whether the OCI runtime can use it. crun says so only where it tells its version; what says nothing is believed to.
pub(super) async fn check_runtime(
    handler: &Handler,
    limit: Duration,
) -> Result<(), CheckpointError> {
    if handler.kind != Kind::Crun {
        return Ok(());
    }
    let mut command = tokio::process::Command::new(&handler.path);
    command.arg("--version");
    let said = match program::output(command, limit.min(LIMIT)).await {
        Ok(Some(output)) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(None) | Err(_) => return Ok(()),
    };
    if said.split_ascii_whitespace().any(|word| word == "+CRIU") {
        return Ok(());
    }
    let (handler, path) = (handler.name.clone(), handler.path.clone());
    Err(CheckpointError::Without { handler, path })
}

async fn check_program(program: &str, limit: Duration) -> Result<(), CheckpointError> {
    let mut command = tokio::process::Command::new(program);
    command.arg("check");
    let output = match program::output(command, limit).await {
        Ok(Some(output)) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CheckpointError::Missing);
        }
        Err(error) => return Err(CheckpointError::Broken(error.to_string())),
        Ok(None) => return Err(CheckpointError::Hung { after: limit }),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = last_line(&output.stderr).or_else(|| last_line(&output.stdout));
    Err(CheckpointError::Broken(said.unwrap_or_else(|| format!("it ended with {}", output.status))))
}

/// The last line that says something, no longer than a message may be.
fn last_line(bytes: &[u8]) -> Option<String> {
    let tail = bytes.get(bytes.len().saturating_sub(4096)..).unwrap_or_default();
    let text = String::from_utf8_lossy(tail);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|letter| !letter.is_control()).take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn a_criu_that_is_missing_or_does_not_work_is_told_as_that() {
        let error = check_program("/davit-none/criu", LIMIT).await.unwrap_err();
        assert_eq!(error.to_string(), "criu is missing: there is none in PATH");
        let directory = tempfile::tempdir().unwrap();
        let write = |script: &str| {
            let path = directory.path().join("criu");
            // Renamed into place: a file that is open for writing can't be run.
            let new = directory.path().join("new");
            let mut file = std::fs::File::create(&new).unwrap();
            io::Write::write_all(&mut file, format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
            file.set_permissions(std::fs::Permissions::from_mode(0o755)).unwrap();
            drop(file);
            std::fs::rename(new, &path).unwrap();
            path.to_str().unwrap().to_owned()
        };
        for (script, expected) in [
            (
                "echo first >&2; echo 'Error: no such call' >&2; echo >&2; exit 1",
                "Error: no such call",
            ),
            ("echo only here; exit 3", "only here"),
            ("exit 7", "it ended with exit status: 7"),
        ] {
            let error = check_program(&write(script), LIMIT).await.unwrap_err().to_string();
            assert_eq!(error, format!("criu does not work here: {expected}"));
        }
        check_program(&write("test \"$1\" = check"), LIMIT).await.unwrap();
    }
}
