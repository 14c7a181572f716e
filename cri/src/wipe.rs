//! `davit wipe`: the end of everything that davit has on this node.
//!
//! Owns the asking and the order: the locks first, so that no daemon works on it; pods next, as a daemon would remove them, with their networks; then
//! the bridge and the firewall's table; then the files and the state directory's own mount. What davit did not make stays, even inside of its directories. If a pod can't be removed,
//! nothing after it is touched: the records are what a second try needs.

use crate::config::{self, Config, Listen, ServeFlags};
use crate::open::runtime_config;
use crate::output;
use crate::serve::lock;
use anyhow::{Context, bail};
use davit_runtime::Runtime;
use davit_runtime::store::{Layout, remove_tree, stop_keeping_mounts_private};
use futures_util::stream::{self, StreamExt};
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Pods that are removed side by side.
const SIDE_BY_SIDE: usize = 8;

/// Whether a person has to say yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// Ask on the terminal.
    Ask,
    /// It was given with the command.
    Given,
}

/// Wipes what a daemon with these flags would work on.
///
/// # Errors
/// In one line: a daemon runs, nobody said yes, or what could not be removed.
pub(crate) fn main(flags: &ServeFlags, consent: Consent) -> anyhow::Result<()> {
    let config = Arc::new(config::load(flags)?);
    if !config.root().exists() && !config.state().exists() {
        output::print("there is nothing to wipe\n")?;
        return Ok(());
    }
    let stop_first = "stop the daemon first";
    let _locks = [
        lock::take("root", config.root()).context(stop_first)?,
        lock::take("state", config.state()).context(stop_first)?,
    ];
    if consent == Consent::Ask && !agreed(&config)? {
        bail!("nothing was done");
    }
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the executor")?;
    let pods = executor.block_on(Box::pin(end_pods(&config)))?;
    // Images that are being brought to disk need not be.
    executor.shutdown_background();
    remove_files(&config)?;
    output::print(&format!(
        "removed {pods} pods and all images, containers and records below {} and {}\n",
        config.root().display(),
        config.state().display()
    ))?;
    Ok(())
}

fn agreed(config: &Config) -> anyhow::Result<bool> {
    output::complain(&format!(
        "This ends all pods of {} and removes all images, containers, checkpoints and logs below {}. Type yes to go on:",
        config.state().display(),
        config.root().display()
    ));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    Ok(answer.trim() == "yes")
}

/// Answers how many there were.
async fn end_pods(config: &Arc<Config>) -> anyhow::Result<usize> {
    let runtime = Runtime::open(runtime_config(config)?).await?;
    let ids: Vec<String> = runtime.sandboxes().iter().map(|pod| pod.id.to_string()).collect();
    let count = ids.len();
    let failed: Vec<String> = stream::iter(ids)
        .map(|id| end_pod(&runtime, id))
        .buffer_unordered(SIDE_BY_SIDE)
        .filter_map(async |ended| ended.err().map(|error| output::one_line(&error)))
        .collect()
        .await;
    if !failed.is_empty() {
        bail!("{} of {count} pods are left: {}", failed.len(), failed.join("; "));
    }
    runtime.sweep().await;
    // What is still to be written would come after the removal.
    runtime.flush_events().await;
    runtime.network().purge().await.context("remove the bridge")?;
    Ok(count)
}

async fn end_pod(runtime: &Runtime, id: String) -> anyhow::Result<()> {
    runtime.stop_sandbox(&id).await.with_context(|| format!("stop pod {id}"))?;
    runtime.remove_sandbox(&id).await.with_context(|| format!("remove pod {id}"))
}

/// Takes away the mounts that held pods' mounts, once nothing is in them. What somebody else has mounted there stays, and is an error.
fn remove_places(config: &Config, layout: &Layout) -> anyhow::Result<()> {
    let names = |directory: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    for left in names(&layout.shms()).iter().filter(|left| left.is_dir()) {
        remove_tree(left).with_context(|| format!("remove {}", left.display()))?;
    }
    stop_keeping_mounts_private(&layout.shms())?;
    if names(config.netns_dir()).is_empty() {
        stop_keeping_mounts_private(config.netns_dir())?;
    }
    Ok(())
}

fn remove_files(config: &Config) -> anyhow::Result<()> {
    let layout = Layout::new(config.root().to_owned(), config.state().to_owned());
    let sockets = config.listen().iter().filter_map(|listen| match listen {
        Listen::Unix(path) if path.starts_with(config.state()) => Some(path.clone()),
        Listen::Unix(_) | Listen::Tcp(_) => None,
    });
    remove_places(config, &layout)?;
    for path in layout.everything().into_iter().chain(sockets) {
        let removed = match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => remove_tree(&path).map_err(anyhow::Error::from),
            Ok(_) => std::fs::remove_file(&path).map_err(anyhow::Error::from),
            Err(_) => Ok(()),
        };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    stop_keeping_mounts_private(config.state())?;
    for directory in [config.state(), config.root()] {
        // Only if nothing of anybody else's is in it.
        drop(std::fs::remove_dir(directory));
    }
    Ok(())
}
