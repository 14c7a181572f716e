//! Paths inside a container, as text that is safe to hand on.
//!
//! Owns the lexical rules only. What a path leads to once the image's symlinks are followed is decided by whoever opens it, beneath the
//! container's root.

use std::path::{Component, Path, PathBuf};

/// What is wrong with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// It has no characters.
    #[error("is empty")]
    Empty,
    /// It does not begin with a slash.
    #[error("is not absolute")]
    Relative,
    /// It steps upwards.
    #[error("has a `..` in it")]
    Parent,
    /// It holds a byte that no path can.
    #[error("has a NUL in it")]
    Nul,
    /// It or a part of it is longer than the kernel takes.
    #[error("is longer than a path may be")]
    Long,
    /// It is `/`.
    #[error("is the root")]
    Root,
    /// It leads back to the caller's own descriptors.
    #[error("is below a directory of the kernel's")]
    Kernel,
}

/// `path` without `.`, doubled and trailing slashes.
pub(super) fn normal(path: &Path) -> Result<PathBuf, PathProblem> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() {
        return Err(PathProblem::Empty);
    }
    if bytes.contains(&0) {
        return Err(PathProblem::Nul);
    }
    if bytes.len() > 4095 || bytes.split(|byte| *byte == b'/').any(|part| part.len() > 255) {
        return Err(PathProblem::Long);
    }
    if !path.is_absolute() {
        return Err(PathProblem::Relative);
    }
    if path.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(PathProblem::Parent);
    }
    Ok(path.components().collect())
}

/// The same for a place below the root.
pub(super) fn below_root(path: &Path) -> Result<PathBuf, PathProblem> {
    let path = normal(path)?;
    if path == Path::new("/") { Err(PathProblem::Root) } else { Ok(path) }
}

/// The same for a working directory: none below `/proc` or `/dev/fd`, where a descriptor that a runtime leaks is a way out (CVE-2024-21626).
pub(super) fn working_dir(path: &Path) -> Result<PathBuf, PathProblem> {
    let path = normal(path)?;
    let below = |top: &str| path.starts_with(top) && path != Path::new(top);
    if below("/proc") || path.starts_with("/dev/fd") {
        return Err(PathProblem::Kernel);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_made_plain_or_refused_with_the_reason() {
        let long = format!("/{}", "a".repeat(256));
        let longer = "/a".repeat(2048);
        for (path, expected) in [
            ("/", Ok("/")),
            ("//a/./b//", Ok("/a/b")),
            ("/a/..b/c..", Ok("/a/..b/c..")),
            ("", Err(PathProblem::Empty)),
            ("a", Err(PathProblem::Relative)),
            ("./a", Err(PathProblem::Relative)),
            ("/a/../b", Err(PathProblem::Parent)),
            ("/..", Err(PathProblem::Parent)),
            ("/a\0b", Err(PathProblem::Nul)),
            (&long, Err(PathProblem::Long)),
            (&longer, Err(PathProblem::Long)),
        ] {
            assert_eq!(normal(Path::new(path)), expected.map(PathBuf::from), "{path:?}");
        }
        assert_eq!(below_root(Path::new("//.")), Err(PathProblem::Root));
    }

    #[test]
    fn a_working_directory_is_no_way_to_a_descriptor() {
        for fd in 3..64 {
            for path in [
                format!("/proc/self/fd/{fd}"),
                format!("//proc/./self/fd/{fd}/x"),
                format!("/dev/fd/{fd}"),
            ] {
                assert_eq!(working_dir(Path::new(&path)), Err(PathProblem::Kernel), "{path}");
            }
        }
        for path in ["/proc", "/process", "/srv/proc/self", "/dev/fdx"] {
            assert!(working_dir(Path::new(path)).is_ok(), "{path}");
        }
    }
}
