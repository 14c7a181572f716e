//! `davit pull`, and the pull within `davit run`: progress on standard error, the image's id as the result.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use crate::{auth_file, output};
use davit_proto::admin::pull_progress::Kind;
use davit_proto::admin::{LayerPlan, LayerProgress, PullPlan, PullRequest};
use davit_runtime::image::Images;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;

/// Pulls, and shows how it goes. The pull is the daemon's: it goes on if this program ends.
///
/// # Errors
/// [`ClientError::Call`] if it fails.
pub(crate) async fn pull(mut daemon: Daemon, image: &str) -> Result<String, ClientError> {
    let failed = || doing(format!("pull {image}"));
    let (username, password) = match Images::place(image) {
        Ok((registry, repository)) => own_credentials(&registry, &repository)?,
        // The daemon says what is wrong with it.
        Err(_) => Default::default(),
    };
    let request = PullRequest { image: image.to_owned(), username, password };
    let mut stream = daemon.davit.pull(request).await.map_err(failed())?.into_inner();
    let mut shown = Shown::new(image);
    while let Some(progress) = stream.message().await.map_err(failed())? {
        match progress.kind {
            Some(Kind::Plan(plan)) => shown.plan(plan),
            Some(Kind::Layer(layer)) => shown.layer(&layer),
            Some(Kind::ImageId(id)) => {
                shown.finish();
                return Ok(id);
            }
            // From a newer daemon; what is not understood is not shown.
            None => {}
        }
    }
    Err(ClientError::Incomplete { doing: "pull", what: "the image's id" })
}

/// The user's own name and password for a repository; empty if there are none. Tokens are not brought: the daemon's service has no word for them.
///
/// # Errors
/// The file of credentials can't be read.
pub(crate) fn own_credentials(
    registry: &str,
    repository: &str,
) -> Result<(String, String), ClientError> {
    let found = auth_file::own(registry, repository)?;
    Ok(found.and_then(|auth| auth_file::password(&auth)).unwrap_or_default())
}

/// Bars on a terminal, lines elsewhere.
enum Shown {
    Bars { all: MultiProgress, layers: BTreeMap<String, ProgressBar> },
    Lines { image: String },
}

impl Shown {
    fn new(image: &str) -> Self {
        if std::io::stderr().is_terminal() {
            // MultiProgress draws on standard error by itself.
            Self::Bars { all: MultiProgress::new(), layers: BTreeMap::new() }
        } else {
            Self::Lines { image: image.to_owned() }
        }
    }

    fn plan(&mut self, plan: PullPlan) {
        let PullPlan { digest, layers } = plan;
        match self {
            Self::Bars { all, layers: bars } => {
                for LayerPlan { digest, size, present } in layers {
                    let bar = all.add(ProgressBar::new(size).with_style(style()));
                    bar.set_message(short(&digest));
                    if present {
                        bar.finish_with_message(format!("{} is here", short(&digest)));
                    }
                    bars.insert(digest, bar);
                }
            }
            Self::Lines { image } => {
                let missing = layers.iter().filter(|layer| !layer.present);
                let bytes: u64 = missing.clone().map(|layer| layer.size).sum();
                let (missing, all) = (missing.count(), layers.len());
                output::complain(&format!(
                    "{image}: manifest {digest}: {missing} of {all} layers to pull, {bytes} bytes"
                ));
            }
        }
    }

    fn layer(&mut self, layer: &LayerProgress) {
        let LayerProgress { digest, received, done } = layer;
        match self {
            Self::Bars { layers, .. } => {
                let Some(bar) = layers.get(digest) else { return };
                bar.set_position(*received);
                if *done {
                    bar.finish_with_message(format!("{} done", short(digest)));
                }
            }
            // A line for every chunk would be noise.
            Self::Lines { image } if *done => {
                output::complain(&format!("{image}: layer {digest} done"))
            }
            Self::Lines { .. } => {}
        }
    }

    fn finish(self) {
        match self {
            Self::Bars { layers, .. } => layers.values().for_each(ProgressBar::finish),
            Self::Lines { image } => output::complain(&format!("{image}: pulled")),
        }
    }
}

fn style() -> ProgressStyle {
    let template =
        "{msg:24} {bar:30} {binary_bytes:>11} / {binary_total_bytes:11} {binary_bytes_per_sec}";
    // The template is a constant; should it not parse, the library's own style is as good.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn short(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).chars().take(12).collect()
}
