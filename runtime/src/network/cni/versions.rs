//! VERSION: which versions of the spec a plugin speaks. Asked by whoever examines the machine only: a pod's ADD tells it soon enough.

use super::plugin::{self, PluginFailure};
use crate::network::child;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;

/// A plugin that takes longer to say this will not make a pod in time either.
const DEADLINE: Duration = Duration::from_secs(10);

/// What it answers.
#[derive(Deserialize)]
struct Answer {
    #[serde(default, rename = "supportedVersions")]
    supported: Vec<String>,
}

/// The versions of the plugin of this type; none if its answer makes no sense.
///
/// # Errors
/// [`PluginFailure`].
pub(in crate::network) async fn versions(
    kind: &str,
    bin_dirs: &[PathBuf],
    cni_version: &str,
) -> Result<Vec<String>, PluginFailure> {
    let program =
        plugin::find(kind, bin_dirs).ok_or_else(|| PluginFailure::NotFound(bin_dirs.to_vec()))?;
    let mut command = Command::new(program);
    // The spec wants them, whatever is in them.
    command.current_dir("/").env("CNI_COMMAND", "VERSION").env("CNI_PATH", "/");
    command
        .env("CNI_CONTAINERID", "")
        .env("CNI_NETNS", "")
        .env("CNI_IFNAME", "")
        .env("CNI_ARGS", "");
    let input = serde_json::json!({ "cniVersion": cni_version }).to_string();
    let done = child::run(command, input.as_bytes(), DEADLINE).await?;
    if !done.status.success() {
        let (code, message) = super::result::plugin_error(&done.stdout, &done.stderr);
        let message = if message.is_empty() { done.status.to_string() } else { message };
        return Err(PluginFailure::Said { code, message });
    }
    let answer: Option<Answer> = serde_json::from_slice(&done.stdout).ok();
    Ok(answer.map(|answer| answer.supported).unwrap_or_default())
}
