//! CNI configurations: which file counts, and what it says.
//!
//! Owns the reading of the configuration folder. Of the files `*.conf`, `*.conflist` and `*.json`, in the order of their names, the
//! first that is valid counts; the ones before it are told as problems. The folder is not watched but compared: whenever somebody asks,
//! names, sizes, inodes and times are looked at (some 20 µs) and the files are read again if anything differs. No event can be missed
//! that way, a folder that appears later is found, and an idle daemon does nothing.

use crate::network::files;
use crate::shortage::is_shortage;
use serde_json::{Map, Value};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The spec versions spoken, oldest first.
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// More files or plugins than this are a mistake.
const MAX_FILES: usize = 1000;
const MAX_PLUGINS: usize = 64;

/// One valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetworkConf {
    pub(crate) source: PathBuf,
    pub(crate) name: String,
    pub(crate) cni_version: String,
    pub(crate) disable_gc: bool,
    pub(crate) plugins: Vec<Map<String, Value>>,
}

/// What the folder holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Loaded {
    /// There is at least one file: CNI decides, even if none is valid.
    pub(crate) any_file: bool,
    pub(crate) conf: Option<NetworkConf>,
    /// Files that were passed over, and why.
    pub(crate) problems: Vec<String>,
}

/// Why a file is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfError {
    #[error("read it")]
    Read(#[source] io::Error),
    #[error("parse it")]
    Parse(#[source] serde_json::Error),
    #[error("field {field} is missing or not {want}")]
    Field { field: String, want: &'static str },
    #[error(
        "name {0:?} has other characters than letters, digits, `.`, `_` and `-`, or starts with none of the first two"
    )]
    Name(String),
    #[error("cniVersion {0:?} is not spoken here")]
    Version(String),
    #[error("plugin type {0:?} is not the plain name of a file")]
    Type(String),
    #[error("plugins: {0} of them")]
    Count(usize),
}

/// What tells one state of the folder from another.
pub(crate) type Fingerprint = Vec<(PathBuf, u64, u64, i64, i64)>;

/// # Errors
/// The folder can't be listed; that it is not there is no error.
pub(crate) fn fingerprint(dir: &Path) -> io::Result<Fingerprint> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries.take(MAX_FILES) {
        let path = entry?.path();
        let counts = path.extension().is_some_and(|extension| {
            extension == "conf" || extension == "conflist" || extension == "json"
        });
        // Through links: a configuration may be one. A file that goes away meanwhile is not there.
        let Some(meta) = std::fs::metadata(&path).ok().filter(|meta| counts && meta.is_file())
        else {
            continue;
        };
        found.push((path, meta.size(), meta.ino(), meta.mtime(), meta.mtime_nsec()));
    }
    found.sort();
    Ok(found)
}

/// Reads the files of a fingerprint.
///
/// # Errors
/// A want of descriptors or memory: the file after one that can't be read for it is not the one that is meant.
pub(crate) fn load(files: &Fingerprint) -> io::Result<Loaded> {
    let mut loaded = Loaded { any_file: !files.is_empty(), ..Loaded::default() };
    for (path, ..) in files {
        match read(path) {
            Ok(conf) => {
                loaded.conf = Some(conf);
                break;
            }
            Err(ConfError::Read(error)) if is_shortage(&error) => return Err(error),
            Err(error) => {
                loaded.problems.push(format!("{}: {}", path.display(), crate::error::chain(&error)))
            }
        }
    }
    Ok(loaded)
}

fn read(path: &Path) -> Result<NetworkConf, ConfError> {
    parse(path, &files::read(path).map_err(ConfError::Read)?)
}

/// A list, or a single plugin as a list of one; told apart by content, because `.json` may be either.
pub(crate) fn parse(source: &Path, bytes: &[u8]) -> Result<NetworkConf, ConfError> {
    let mut object: Map<String, Value> = serde_json::from_slice(bytes).map_err(ConfError::Parse)?;
    let name = text(&object, "name")?;
    if !is_name(&name) {
        return Err(ConfError::Name(name));
    }
    let cni_version = version(&object)?;
    let disable_gc = object.get("disableGC").is_some_and(truthy);
    let plugins = match object.remove("plugins") {
        Some(Value::Array(plugins)) => {
            plugins.into_iter().map(plugin).collect::<Result<Vec<_>, _>>()?
        }
        Some(_) => return Err(ConfError::Field { field: "plugins".to_owned(), want: "a list" }),
        None => vec![plugin(Value::Object(object))?],
    };
    if plugins.is_empty() || plugins.len() > MAX_PLUGINS {
        return Err(ConfError::Count(plugins.len()));
    }
    Ok(NetworkConf { source: source.to_owned(), name, cni_version, disable_gc, plugins })
}

fn plugin(value: Value) -> Result<Map<String, Value>, ConfError> {
    let Value::Object(mut plugin) = value else {
        return Err(ConfError::Field { field: "plugins".to_owned(), want: "a list of objects" });
    };
    let kind = text(&plugin, "type")?;
    // CVE-2021-20206: a path here would run any program of the host.
    let plain = !kind.is_empty() && !kind.contains(['/', '\0']) && kind != "." && kind != "..";
    if !plain {
        return Err(ConfError::Type(kind));
    }
    // The list's, set anew for each call.
    for key in ["name", "cniVersion", "cniVersions", "prevResult", "runtimeConfig"] {
        plugin.remove(key);
    }
    Ok(plugin)
}

fn version(object: &Map<String, Value>) -> Result<String, ConfError> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut offered: Vec<Value> = object.get("cniVersions").map(list).unwrap_or_default();
    match object.get("cniVersion") {
        Some(Value::String(version)) => offered.push(Value::String(version.clone())),
        Some(_) => return Err(ConfError::Field { field: "cniVersion".to_owned(), want: "a text" }),
        // The spec's word for a configuration from before versions.
        None if offered.is_empty() => offered.push(Value::String("0.1.0".to_owned())),
        None => {}
    }
    let best = VERSIONS
        .iter()
        .rev()
        .find(|ours| offered.iter().any(|theirs| theirs.as_str() == Some(**ours)));
    let told = || offered.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
    best.map(|version| (*version).to_owned()).ok_or_else(|| ConfError::Version(told()))
}

/// Whether `version` is at least `least`; both are of [`VERSIONS`].
pub(crate) fn at_least(version: &str, least: &str) -> bool {
    let place = |wanted: &str| VERSIONS.iter().position(|known| *known == wanted);
    place(version) >= place(least)
}

fn text(object: &Map<String, Value>, field: &str) -> Result<String, ConfError> {
    let missing = || ConfError::Field { field: field.to_owned(), want: "a text" };
    object.get(field).and_then(Value::as_str).map(str::to_owned).ok_or_else(missing)
}

/// Lists in the wild say `"true"` too.
fn truthy(value: &Value) -> bool {
    value.as_bool() == Some(true) || value.as_str() == Some("true")
}

fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    name.len() <= 255
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Result<NetworkConf, ConfError> {
        parse(Path::new("x"), text.as_bytes())
    }

    #[test]
    fn a_plugin_type_that_is_a_path_is_refused() {
        for kind in ["../../bin/sh", "/bin/sh", "a/b", "..", ".", ""] {
            let text =
                serde_json::json!({"cniVersion": "1.0.0", "name": "n", "type": kind}).to_string();
            assert!(matches!(parsed(&text), Err(ConfError::Type(_))), "{kind:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_named() {
        for (text, want) in [
            ("", "parse"),
            ("[]", "parse"),
            (r#"{"name": "n", "cniVersion": "1.0.0"}"#, "type"),
            (r#"{"cniVersion": "1.0.0", "type": "t"}"#, "name"),
            (r#"{"name": "a b", "cniVersion": "1.0.0", "type": "t"}"#, "a b"),
            (r#"{"name": "../n", "cniVersion": "1.0.0", "type": "t"}"#, "../n"),
            (r#"{"name": "n", "cniVersion": "9.0.0", "type": "t"}"#, "9.0.0"),
            (r#"{"name": "n", "cniVersion": 1, "type": "t"}"#, "cniVersion"),
            (r#"{"name": "n", "cniVersion": "1.0.0", "plugins": []}"#, "plugins"),
            (r#"{"name": "n", "cniVersion": "1.0.0", "plugins": {}}"#, "plugins"),
            (r#"{"name": "n", "cniVersion": "1.0.0", "plugins": [1]}"#, "plugins"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(crate::error::chain(&error).contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn the_newest_version_that_both_speak_is_spoken() {
        for (text, want) in [
            (r#"{"name":"n","type":"t"}"#, "0.1.0"),
            (r#"{"name":"n","type":"t","cniVersion":"0.3.1"}"#, "0.3.1"),
            (
                r#"{"name":"n","type":"t","cniVersion":"0.3.1","cniVersions":["1.1.0","9.9.9","0.4.0"]}"#,
                "1.1.0",
            ),
        ] {
            assert_eq!(parsed(text).unwrap().cni_version, want);
        }
        assert!(
            at_least("1.1.0", "0.4.0") && !at_least("0.3.1", "0.4.0") && at_least("0.4.0", "0.4.0")
        );
    }

    #[test]
    fn the_first_valid_file_by_name_counts_and_others_before_it_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let put =
            |name: &str, text: &str| files::replace(dir.path(), name, text.as_bytes()).unwrap();
        put("00-broken.conf", "{");
        put("05-ignored.txt", r#"{"name":"txt","type":"t"}"#);
        put(
            "10-good.json",
            r#"{"name":"good","cniVersion":"0.4.0","plugins":[{"type":"a"},{"type":"b"}]}"#,
        );
        put(
            "20-later.conflist",
            r#"{"name":"later","cniVersion":"0.4.0","plugins":[{"type":"a"}]}"#,
        );
        let loaded = load(&fingerprint(dir.path()).unwrap()).unwrap();
        let conf = loaded.conf.unwrap();
        assert_eq!((conf.name.as_str(), conf.plugins.len()), ("good", 2));
        assert_eq!(loaded.problems.len(), 1);
        assert!(loaded.problems[0].contains("00-broken.conf"), "{:?}", loaded.problems);
    }

    #[test]
    fn no_folder_is_no_file() {
        let found = fingerprint(Path::new("/nonexistent/net.d")).unwrap();
        assert_eq!(load(&found).unwrap(), Loaded::default());
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(parse(Path::new("x"), &bytes));
        }

        #[test]
        fn foreign_json_never_panics(name in ".*", kind in ".*", version in ".*") {
            let text = serde_json::json!({"name": name, "plugins": [{"type": kind}], "cniVersion": version}).to_string();
            if let Ok(conf) = parsed(&text) {
                prop_assert!(conf.plugins.iter().all(|p| !p["type"].as_str().unwrap().contains('/')));
            }
        }
    }
}
