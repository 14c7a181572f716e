//! What the daemon wrote for this shim: `shim.json` in the pod's directory.

use crate::files;
use davit_proto::disk::{SHIM_CONFIG, ShimConfig, VERSION};
use std::path::{Path, PathBuf};

/// More than any pod's sysctls take.
const LIMIT: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("parse {}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{}: version {found}, and this shim knows {VERSION}", path.display())]
    Version { path: PathBuf, found: u32 },
}

/// Only the version, to name it before the unknown fields of a newer one are stumbled upon.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}

/// Reads the configuration in `pod_dir`.
pub(crate) fn load(pod_dir: &Path) -> Result<ShimConfig, ConfigError> {
    let path = pod_dir.join(SHIM_CONFIG);
    let text = files::read_small(&path, LIMIT)
        .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    let parse = |source| ConfigError::Parse { path: path.clone(), source };
    let Versioned { version } = serde_json::from_str(&text).map_err(parse)?;
    if version != VERSION {
        return Err(ConfigError::Version { path, found: version });
    }
    serde_json::from_str(&text).map_err(parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<ShimConfig, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        files::write_new(&dir.path().join(SHIM_CONFIG), text.as_bytes()).unwrap();
        load(dir.path())
    }

    #[test]
    fn a_newer_version_is_refused_by_its_number_not_by_its_fields() {
        let error = load_text(r#"{"version":7,"what":"is this"}"#).unwrap_err();
        assert!(matches!(error, ConfigError::Version { found: 7, .. }), "{error}");
    }

    #[test]
    fn unknown_and_missing_fields_are_named() {
        let error = crate::error::chain(&load_text(r#"{"version":1,"what":1}"#).unwrap_err());
        assert!(error.contains("unknown field `what`"), "{error}");
        let error = crate::error::chain(&load_text(r#"{"version":1}"#).unwrap_err());
        assert!(error.contains("missing field `sandbox`"), "{error}");
    }
}
