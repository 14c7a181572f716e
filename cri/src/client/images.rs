//! `davit images`: the images.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::filter::{Filter, Listed, Sort, Values, select};
use super::format::{Ids, Row, show};
use crate::cli::ImagesArgs;
use davit_proto::cri;
use serde::Serialize;
use std::collections::BTreeMap;

/// An image, as lists show it.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Image {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    size: u64,
    pinned: bool,
    #[serde(skip)]
    labels: BTreeMap<String, String>,
}

/// `davit images`.
pub(crate) async fn images(mut daemon: Daemon, args: &ImagesArgs) -> Result<(), ClientError> {
    let ImagesArgs { name, filters, sort, written } = args;
    let mut found = all(&mut daemon).await?;
    found.retain(|image| name.as_deref().is_none_or(|name| image.has("name", name)));
    let filters: &[Filter] = filters;
    show(&select(found, filters, None, sort), written)
}

async fn all(daemon: &mut Daemon) -> Result<Vec<Image>, ClientError> {
    let request = cri::ListImagesRequest { filter: None };
    let answer = daemon.image.list_images(request).await.map_err(doing("list images"))?;
    Ok(answer.into_inner().images.into_iter().map(Image::from).collect())
}

impl From<cri::Image> for Image {
    fn from(image: cri::Image) -> Self {
        let cri::Image { id, repo_tags, repo_digests, size, uid: _, username: _, spec: _, pinned } =
            image;
        Self { id, repo_tags, repo_digests, size, pinned, labels: BTreeMap::new() }
    }
}

impl Row for Image {
    const HEADINGS: &'static [&'static str] = &["IMAGE", "ID", "SIZE"];

    fn id(&self) -> &str {
        &self.id
    }

    /// One line for each name; one for an image without any.
    fn cells(&self, ids: Ids) -> Vec<Vec<String>> {
        let size = indicatif::BinaryBytes(self.size).to_string();
        let names = if self.repo_tags.is_empty() { &self.repo_digests } else { &self.repo_tags };
        let line = |name: &str| vec![name.to_owned(), ids.show(&self.id), size.clone()];
        if names.is_empty() {
            vec![line("<none>")]
        } else {
            names.iter().map(|name| line(name)).collect()
        }
    }
}

impl Listed for Image {
    const KEYS: &'static [(&'static str, Values)] = &[
        ("id", Values::Any),
        ("name", Values::Any),
        ("dangling", Values::OneOf(&["true", "false"])),
        ("pinned", Values::OneOf(&["true", "false"])),
    ];
    const SORTS: &'static [Sort<Self>] = &[
        ("name", |a, b| (&a.repo_tags, &a.id).cmp(&(&b.repo_tags, &b.id))),
        ("size", |a, b| b.size.cmp(&a.size)),
        ("id", |a, b| a.id.cmp(&b.id)),
    ];

    fn has(&self, key: &str, value: &str) -> bool {
        match key {
            "id" => {
                self.id.starts_with(value)
                    || Ids::Whole.show(&self.id).replacen("sha256:", "", 1).starts_with(value)
            }
            "name" => {
                self.repo_tags.iter().chain(&self.repo_digests).any(|name| name.contains(value))
            }
            "dangling" => self.repo_tags.is_empty() == (value == "true"),
            "pinned" => self.pinned == (value == "true"),
            _ => false,
        }
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_line_for_each_of_its_names() {
        let image = |tags: &[&str]| cri::Image {
            id: format!("sha256:{}", "a".repeat(64)),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            size: 1024,
            ..cri::Image::default()
        };
        assert_eq!(Image::from(image(&["a:1", "b:1"])).cells(Ids::Short).len(), 2);
        let none = Image::from(image(&[])).cells(Ids::Short);
        assert_eq!(none, [["<none>".to_owned(), "a".repeat(13), "1.00 KiB".to_owned()]]);
    }
}
