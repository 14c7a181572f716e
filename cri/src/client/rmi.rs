//! `davit rmi`: images let go.
//!
//! CRI's RemoveImage takes all of an image's names, so what would lose more than the name that was typed, or the image that a container was made from, is
//! refused unless it is forced. Containers keep their layers in any case.

use super::act::complain;
use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::find;
use crate::cli::RmiArgs;
use crate::output;
use davit_proto::cri;
use std::collections::BTreeSet;
use std::process::ExitCode;

/// Tries each.
///
/// # Errors
/// What keeps the outcome from being printed, or the daemon from being asked.
pub(crate) async fn rmi(mut daemon: Daemon, args: &RmiArgs) -> Result<ExitCode, ClientError> {
    let RmiArgs { force, prune, names } = args;
    let used = used(&mut daemon).await?;
    let names = if *prune { unused(&mut daemon, &used).await? } else { names.clone() };
    let mut code = ExitCode::SUCCESS;
    for name in &names {
        let keep = if *force || *prune { None } else { Some(&used) };
        match one(&mut daemon, name, keep).await {
            Ok(()) => output::print(&format!("{name}\n"))?,
            Err(error) => {
                complain(error);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// The ids of the images that containers were made from.
async fn used(daemon: &mut Daemon) -> Result<BTreeSet<String>, ClientError> {
    let all = find::list_containers(daemon, cri::ContainerFilter::default()).await?;
    Ok(all.into_iter().map(|container| container.image_id).collect())
}

async fn unused(daemon: &mut Daemon, used: &BTreeSet<String>) -> Result<Vec<String>, ClientError> {
    let request = cri::ListImagesRequest { filter: None };
    let answer = daemon.image.list_images(request).await.map_err(doing("list images"))?;
    let images = answer.into_inner().images.into_iter();
    Ok(images
        .filter(|image| !image.pinned && !used.contains(&image.id))
        .map(|one| one.id)
        .collect())
}

/// `keep` are the images that must stay.
async fn one(
    daemon: &mut Daemon,
    name: &str,
    keep: Option<&BTreeSet<String>>,
) -> Result<(), ClientError> {
    let spec = cri::ImageSpec { image: name.to_owned(), ..cri::ImageSpec::default() };
    let request = cri::ImageStatusRequest { image: Some(spec.clone()), verbose: false };
    let answer = daemon.image.image_status(request).await;
    let failed = || doing(format!("remove image {name}"));
    let image = answer.map_err(failed())?.into_inner().image;
    let image = image.ok_or_else(|| ClientError::NoImage(name.to_owned()))?;
    if let Some(used) = keep {
        if used.contains(&image.id) {
            return Err(ClientError::ImageUsed(name.to_owned()));
        }
        let by_id = image.id.contains(name);
        if image.repo_tags.len() > 1 && !by_id {
            let (name, names) = (name.to_owned(), image.repo_tags.join(", "));
            return Err(ClientError::OtherNames { name, names });
        }
    }
    let spec = cri::ImageSpec { image: image.id, ..cri::ImageSpec::default() };
    let remove = cri::RemoveImageRequest { image: Some(spec) };
    daemon.image.remove_image(remove).await.map(drop).map_err(failed())
}
