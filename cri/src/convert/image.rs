//! Images: what a container is to be made from, and what there is.

use super::error::{InvalidField, refuse};
use super::text;
use davit_proto::cri;
use davit_runtime::container::ImageRequest;
use davit_runtime::sandbox::SandboxSpec;

/// An image that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImageParts {
    /// Its config's digest.
    pub(crate) id: String,
    /// Names with tags.
    pub(crate) repo_tags: Vec<String>,
    /// Names with digests.
    pub(crate) repo_digests: Vec<String>,
    /// Bytes.
    pub(crate) size: u64,
    /// `User` of its config, as it is there.
    pub(crate) user: String,
    /// Never collected.
    pub(crate) pinned: bool,
}

/// The image that a container of this pod is made from.
pub(crate) fn image_request(
    field: &str,
    spec: Option<cri::ImageSpec>,
    pod: &SandboxSpec,
) -> Result<ImageRequest, InvalidField> {
    let Some(spec) = spec else {
        return Err(refuse(field, &spec, "is required"));
    };
    let cri::ImageSpec { image, annotations, user_specified_image, runtime_handler, image_ref } =
        spec;
    // Images are the same for every handler here, so the field has nothing to choose; one that contradicts the pod is a mistake.
    if !runtime_handler.is_empty() && runtime_handler != pod.handler {
        let problem = format!("is not the pod's, which is {:?}", pod.handler);
        return Err(refuse(format!("{field}.runtime_handler"), &runtime_handler, problem));
    }
    // Other runtimes take the path of a checkpoint's archive for an image.
    if image.starts_with('/') {
        let problem = "is a path and no image; a container is restored from a checkpoint by `davit checkpoint restore` only";
        return Err(refuse(format!("{field}.image"), &image, problem));
    }
    Ok(ImageRequest {
        image: text::word(&format!("{field}.image"), image)?,
        user_specified: user_specified_image,
        annotations: text::annotations(&format!("{field}.annotations"), annotations)?,
        image_ref,
    })
}

/// The request back in CRI's words, under the name that is to be told.
pub(crate) fn image_spec(request: &ImageRequest, name: &str) -> cri::ImageSpec {
    let ImageRequest { image: _, user_specified, annotations, image_ref } = request;
    cri::ImageSpec {
        image: name.to_owned(),
        annotations: annotations.clone(),
        user_specified_image: user_specified.clone(),
        runtime_handler: String::new(),
        image_ref: image_ref.clone(),
    }
}

/// An image as lists and ImageStatus tell it.
pub(crate) fn image(parts: ImageParts) -> cri::Image {
    let ImageParts { id, repo_tags, repo_digests, size, user, pinned } = parts;
    let (uid, username) = user_of(&user);
    let spec = cri::ImageSpec { image: id.clone(), ..cri::ImageSpec::default() };
    cri::Image { id, repo_tags, repo_digests, size, uid, username, spec: Some(spec), pinned }
}

/// `User` without its group: a number is a uid, anything else a name, and nothing is root. The kubelet checks `runAsNonRoot` with it, so
/// what is no number must not become one.
fn user_of(user: &str) -> (Option<cri::Int64Value>, String) {
    let user = user.split(':').next().unwrap_or_default();
    if user.is_empty() {
        return (Some(cri::Int64Value { value: 0 }), String::new());
    }
    match user.parse::<u32>() {
        Ok(uid) => (Some(cri::Int64Value { value: i64::from(uid) }), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_user_is_a_number_or_a_name() {
        let of = |user: &str| {
            let wire = image(ImageParts { user: user.to_owned(), ..ImageParts::default() });
            (wire.uid.map(|uid| uid.value), wire.username)
        };
        assert_eq!(of(""), (Some(0), String::new()));
        assert_eq!(of("1002"), (Some(1002), String::new()));
        assert_eq!(of("1003:1004"), (Some(1003), String::new()));
        assert_eq!(of("www-data"), (None, "www-data".to_owned()));
        assert_eq!(of("www-data:1004"), (None, "www-data".to_owned()));
        assert_eq!(of(":5"), (Some(0), String::new()));
        assert_eq!(of("-1"), (None, "-1".to_owned()));
    }
}
