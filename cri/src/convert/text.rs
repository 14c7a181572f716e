//! Texts and paths that end up in file names, resolv.conf, /proc/sys and command lines.

use super::error::{InvalidField, refuse};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// What a label's key and value may have together, in bytes.
const LABEL_MAX: usize = 4096;
/// What all labels, or all annotations, may have together, in bytes: twice what Kubernetes lets an object's annotations have. They are kept in memory and told in
/// every list.
const TOTAL_MAX: usize = 512 << 10;
/// The kernel's `HOST_NAME_MAX`.
const HOSTNAME_MAX: usize = 64;
/// No name of a pod, namespace or container is longer, in bytes: it must fit a file name.
const NAME_MAX: usize = 255;

/// The first of these messages whose condition holds.
fn first_problem(problems: &[(bool, &'static str)]) -> Option<&'static str> {
    problems.iter().find(|(wrong, _)| *wrong).map(|(_, problem)| *problem)
}

fn checked<'a>(
    field: &str,
    text: &'a str,
    problems: &[(bool, &'static str)],
) -> Result<&'a str, InvalidField> {
    match first_problem(problems) {
        Some(problem) => Err(refuse(field, text, problem)),
        None => Ok(text),
    }
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// A name that must be there.
pub(crate) fn name(field: &str, text: String) -> Result<String, InvalidField> {
    checked(field, &text, &[(text.is_empty(), "is required")])?;
    optional_name(field, text)
}

/// A name that may be empty.
pub(crate) fn optional_name(field: &str, text: String) -> Result<String, InvalidField> {
    checked(
        field,
        &text,
        &[
            (has_control(&text), "has a control character in it"),
            (text.contains('/'), "has a `/` in it"),
            (text == "." || text == "..", "is no name"),
            (text.len() > NAME_MAX, "is longer than 255 bytes"),
        ],
    )?;
    Ok(text)
}

/// A host name as the kernel and resolvers take it; empty: none asked for.
pub(crate) fn hostname(field: &str, text: String) -> Result<String, InvalidField> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let at_end = |byte: Option<u8>| matches!(byte, Some(b'-' | b'.'));
    checked(
        field,
        &text,
        &[
            (text.len() > HOSTNAME_MAX, "is longer than 64 bytes"),
            (!text.bytes().all(fits), "has characters that no host name has"),
            (at_end(text.bytes().next()), "begins with `-` or `.`"),
            (at_end(text.bytes().next_back()), "ends with `-` or `.`"),
            (text.contains(".."), "has an empty part"),
        ],
    )?;
    Ok(text)
}

/// Labels, whose keys and values are short enough to be kept and told.
pub(crate) fn labels(
    field: &str,
    labels: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, InvalidField> {
    let long = labels.iter().find(|(key, value)| key.len().saturating_add(value.len()) > LABEL_MAX);
    match long {
        Some((key, _)) => Err(refuse(
            format!("{field}[{key:?}]"),
            key,
            "is longer than 4096 bytes with its value",
        )),
        None => few(field, labels),
    }
}

/// Annotations, which are kept as they are, whatever is in them, as long as there are not too many.
pub(crate) fn annotations(
    field: &str,
    annotations: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, InvalidField> {
    few(field, annotations)
}

fn few(
    field: &str,
    all: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, InvalidField> {
    let lengths = all.iter().map(|(key, value)| key.len().saturating_add(value.len()));
    let total = lengths.fold(0_usize, usize::saturating_add);
    if total > TOTAL_MAX {
        return Err(refuse(
            field,
            &total,
            "bytes are more than the 524288 that all may have together",
        ));
    }
    Ok(all)
}

/// One word of resolv.conf: a line end in it would be another line.
pub(crate) fn word(field: &str, text: String) -> Result<String, InvalidField> {
    let odd = |letter: char| letter.is_whitespace() || letter.is_control();
    checked(
        field,
        &text,
        &[
            (text.is_empty(), "is empty"),
            (text.contains(odd), "has white space or control characters in it"),
            (text.len() > 1024, "is longer than 1024 bytes"),
        ],
    )?;
    Ok(text)
}

/// What may be an argument or an environment variable's value: the kernel's strings end at a NUL.
pub(crate) fn argument(field: &str, text: String) -> Result<String, InvalidField> {
    checked(field, &text, &[(text.contains('\0'), "has a NUL in it")])?;
    Ok(text)
}

/// An absolute path without `..` and control characters.
pub(crate) fn absolute(field: &str, text: String) -> Result<PathBuf, InvalidField> {
    checked(
        field,
        &text,
        &[
            (text.is_empty(), "is required"),
            (!text.starts_with('/'), "is not an absolute path"),
            (has_control(&text), "has a control character in it"),
            (has_parent(&text), "has a `..` in it"),
            (text.len() > 4095, "is longer than a path may be"),
        ],
    )?;
    Ok(PathBuf::from(text))
}

/// The same, or nothing.
pub(crate) fn optional_absolute(
    field: &str,
    text: String,
) -> Result<Option<PathBuf>, InvalidField> {
    if text.is_empty() { Ok(None) } else { absolute(field, text).map(Some) }
}

/// A path of a file below some directory, from which it can't lead out; or nothing.
pub(crate) fn relative_file(field: &str, text: String) -> Result<Option<PathBuf>, InvalidField> {
    if text.is_empty() {
        return Ok(None);
    }
    let named = Path::new(&text).components().any(|part| matches!(part, Component::Normal(_)));
    checked(
        field,
        &text,
        &[
            (text.starts_with('/'), "is not relative to the pod's log directory"),
            (has_parent(&text), "has a `..` in it and could lead out of the pod's log directory"),
            (has_control(&text), "has a control character in it"),
            (!named || text.ends_with('/') || text.ends_with("/."), "names no file"),
            (text.len() > 4095, "is longer than a path may be"),
        ],
    )?;
    Ok(Some(PathBuf::from(text)))
}

/// A path of a directory below some root, or nothing for the root itself.
pub(crate) fn relative_directory(field: &str, text: String) -> Result<PathBuf, InvalidField> {
    checked(
        field,
        &text,
        &[
            (text.starts_with('/'), "is not relative to the image's root"),
            (has_parent(&text), "has a `..` in it"),
            (has_control(&text), "has a control character in it"),
            (text.len() > 4095, "is longer than a path may be"),
        ],
    )?;
    Ok(PathBuf::from(text))
}

fn has_parent(path: &str) -> bool {
    Path::new(path).components().any(|part| part == Component::ParentDir)
}
