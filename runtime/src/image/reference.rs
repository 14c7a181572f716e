//! The name of an image as people write it, made whole.
//!
//! Owns the grammar, which is Docker's: a bare name is one of `docker.io/library`, no tag means `latest`, and where both a tag
//! and a digest stand, the digest wins. Owns no lookup: which image has a name is [`super::Images::find`]'s answer.
//! Invariant: no text that parses can name a path outside its directory or break a URL or a log line.

use super::Digest;
use std::fmt;
use std::str::FromStr;

/// The registry of names that name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// What that registry was called once; names that still say so mean the same images.
const OLD_DEFAULT_REGISTRY: &str = "index.docker.io";
/// Registry and repository together, as the registry's own specification has it.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;
/// A name, a tag and a digest cannot be longer; the rest is not even looked at.
const TEXT_MAX: usize = NAME_MAX + TAG_MAX + 128;

/// An image's name, normalised: `registry/repository`, and a tag or a digest or both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image name {value:?} {reason}")]
pub struct InvalidReference {
    /// The text, cut to 200 characters.
    pub value: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl ImageRef {
    /// Why a text names no registry though an image's name could begin with it.
    pub(super) fn no_registry(text: &str) -> InvalidReference {
        let reason = "is no registry: that has a dot or a port in its name, or is localhost";
        InvalidReference { value: text.chars().take(200).collect(), reason }
    }

    /// Host and, if it has one, port: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path below the registry: `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; never absent when there is no digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of a manifest or of an index.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `registry/repository:tag` if that is what this asks for; `None` if it asks for a digest.
    #[must_use]
    pub fn repo_tag(&self) -> Option<String> {
        match (&self.digest, &self.tag) {
            (None, Some(tag)) => Some(format!("{}:{tag}", self.name())),
            (Some(_), _) | (None, None) => None,
        }
    }

    /// `registry/repository@digest` for the digest that the tag turned out to mean.
    #[must_use]
    pub fn repo_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl FromStr for ImageRef {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse(text)
            .map_err(|reason| InvalidReference { value: text.chars().take(200).collect(), reason })
    }
}

fn parse(text: &str) -> Result<ImageRef, &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > TEXT_MAX {
        return Err("is too long");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest.parse().map_err(
                |_invalid| "has a digest that is not `sha256:` and 64 lower-case hex digits",
            )?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    let (name, tag) = split_tag(rest);
    let (registry, repository) = split_registry(name);
    let reference = ImageRef {
        registry: check_registry(registry)?,
        repository: check_repository(registry, repository)?,
        tag: match (tag, &digest) {
            (Some(tag), _) => Some(check_tag(tag)?),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        },
        digest,
    };
    if reference.registry.len() + 1 + reference.repository.len() > NAME_MAX {
        return Err("is longer than 255 bytes");
    }
    Ok(reference)
}

/// The last colon starts a tag unless a slash follows it: then it starts a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        Some(_) | None => (text, None),
    }
}

/// The first component is a registry if it can be no repository: it has a dot, a colon or a capital, or is `localhost`.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (Some(first), rest)
        }
        Some(_) | None => (None, name),
    }
}

fn check_registry(registry: Option<&str>) -> Result<String, &'static str> {
    let Some(registry) = registry else { return Ok(DEFAULT_REGISTRY.to_owned()) };
    if registry == OLD_DEFAULT_REGISTRY {
        return Ok(DEFAULT_REGISTRY.to_owned());
    }
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (host, port) =
                rest.split_once(']').ok_or("has an IPv6 address that is not closed")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("has an IPv6 address that is none");
            }
            (
                None,
                if port.is_empty() {
                    None
                } else {
                    Some(port.strip_prefix(':').ok_or("has text behind its IPv6 address")?)
                },
            )
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if let Some(port) = port
        && (port.is_empty()
            || port.len() > 5
            || port.parse::<u16>().is_err()
            || port.starts_with('+'))
    {
        return Err("has a registry port that is no number from 0 to 65535");
    }
    if let Some(host) = host
        && !host.split('.').all(is_host_label)
    {
        return Err("has a registry that is no host name");
    }
    Ok(registry.to_ascii_lowercase())
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn check_repository(registry: Option<&str>, repository: &str) -> Result<String, &'static str> {
    if !repository.split('/').all(is_path_component) {
        return Err(
            "has a repository that is not made of lower-case letters, digits and single separators",
        );
    }
    let docker = matches!(registry, None | Some(DEFAULT_REGISTRY | OLD_DEFAULT_REGISTRY));
    if registry.is_none() && is_bare_id(repository) {
        return Err("is 64 hex digits: an id, not a name");
    }
    if docker && !repository.contains('/') {
        return Ok(format!("library/{repository}"));
    }
    Ok(repository.to_owned())
}

fn is_bare_id(text: &str) -> bool {
    text.len() == 64
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_path_component(component: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separators_are_fine = component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'));
    separators_are_fine
        && component.bytes().next().is_some_and(word)
        && component.bytes().last().is_some_and(word)
}

fn check_tag(tag: &str) -> Result<String, &'static str> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fine = tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    if fine {
        Ok(tag.to_owned())
    } else {
        Err("has a tag that is not 1 to 128 of letters, digits, `_`, `.` and `-`")
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_made_whole_as_docker_does() {
        let with_digest = format!("busybox@sha256:{HEX}");
        let with_both = format!("quay.io/a/b:v1@sha256:{HEX}");
        for (text, whole) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("index.docker.io/user/app:x", "docker.io/user/app:x".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/app", "localhost:5000/app:latest".to_owned()),
            ("[::1]:5000/app:x", "[::1]:5000/app:x".to_owned()),
            ("gcr.io/a/b/c:T_1.2-3", "gcr.io/a/b/c:T_1.2-3".to_owned()),
            ("Host/app", "host/app:latest".to_owned()),
            ("a--b/c__d.e_f", "docker.io/a--b/c__d.e_f:latest".to_owned()),
            (&with_digest, format!("docker.io/library/busybox@sha256:{HEX}")),
            (&with_both, with_both.clone()),
        ] {
            assert_eq!(text.parse::<ImageRef>().unwrap().to_string(), whole, "{text}");
        }
    }

    #[test]
    fn with_a_tag_and_a_digest_the_digest_wins() {
        let image: ImageRef = format!("a:v1@sha256:{HEX}").parse().unwrap();
        assert_eq!(image.repo_tag(), None);
        assert!(image.digest().is_some());
    }

    #[test]
    fn what_is_no_name_is_refused_and_quoted() {
        let long = "a".repeat(300);
        for text in [
            "",
            "..",
            "a/../b",
            "../a",
            "/a",
            "a/",
            "a//b",
            "A",
            "a/B",
            "a b",
            "a\n",
            "a\0",
            "a:",
            "a:tag:x/",
            "a:-x",
            "a:t/../../x",
            "a@",
            "a@sha256:",
            "a@sha256:12",
            "a@sha512:12",
            "a@b@c",
            "-a",
            "a-",
            "a._b",
            "a___b",
            "a..b",
            "ä",
            "xn--/ä",
            "https://host/a",
            "host:99999/a",
            "host:+80/a",
            "ho_st.x/a",
            "[::1/a",
            "[zz]/a",
            "[::1]x/a",
            ".host/a",
            HEX,
            &long,
            &format!("a:{}", "t".repeat(129)),
            &"a/".repeat(20_000),
        ] {
            let error = text.parse::<ImageRef>().expect_err(text);
            assert!(
                error.value.chars().count() <= 200 && text.starts_with(&error.value),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_is_stable_and_safe(text in ".{0,80}|[a-zA-Z0-9./:@_\\[\\]-]{0,80}") {
            if let Ok(image) = text.parse::<ImageRef>() {
                let whole = image.to_string();
                prop_assert_eq!(whole.parse::<ImageRef>().unwrap(), image);
                prop_assert!(whole.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert!(!whole.split('/').any(|part| part == ".." || part == "." || part.is_empty()));
            }
        }
    }
}
