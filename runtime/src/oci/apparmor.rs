//! AppArmor: which profile confines a container.
//!
//! Owns davit's own profile, which is loaded when davit starts and stays, and the check that one of the host's is there.

use super::host::Host;
use crate::container::{AppArmor, ContainerSecurity};
use std::io;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The profile of containers that ask for no other.
const DEFAULT: &str = "davit-default";
const TEXT: &str = include_str!("davit-default.apparmor");
/// AppArmor's own program for that, which compiles it: some tenths of a second.
const PARSER: &str = "apparmor_parser";
const DEADLINE: Duration = Duration::from_secs(30);

const REMOVED: &str = "somebody has removed it; a restart of davit loads it";

/// Where the kernel lists what is loaded, one `name (mode)` per line.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// Why a container can't be confined as asked.
#[derive(Debug, thiserror::Error)]
pub enum AppArmorError {
    /// The host has no AppArmor.
    #[error("AppArmor profile {profile:?} can't be applied: this host has no AppArmor")]
    Disabled {
        /// Which.
        profile: String,
    },
    /// The host hasn't loaded it.
    #[error("AppArmor profile {profile:?} is not loaded")]
    NotLoaded {
        /// Which.
        profile: String,
    },
    /// The runtime's default is asked for, and could not be loaded.
    #[error("AppArmor profile {DEFAULT:?} (RuntimeDefault) is not loaded: {why}")]
    NoDefault {
        /// Why not.
        why: String,
    },
    /// The kernel doesn't tell what is loaded.
    #[error("read {LOADED}")]
    List(#[source] std::io::Error),
}

/// Loads davit's own profile, or says why that can't be. One that is there may be an older davit's: it is replaced beside all else.
pub(crate) async fn load_default() -> Result<(), String> {
    let loaded = std::fs::read_to_string(LOADED).unwrap_or_default();
    if !is_loaded(&loaded, DEFAULT) {
        return load_with(PARSER.as_ref()).await;
    }
    tokio::spawn(async {
        if let Err(why) = load_with(PARSER.as_ref()).await {
            tracing::warn!("AppArmor profile {DEFAULT} stays as it was: {why}");
        }
    });
    Ok(())
}

async fn load_with(parser: &Path) -> Result<(), String> {
    let loading = tokio::time::timeout(DEADLINE, feed(parser));
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", parser.display());
    let output = loading.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    if output.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
    Err(failed(&format!("{}: {said}", output.status)))
}

async fn feed(parser: &Path) -> io::Result<Output> {
    let mut command = Command::new(parser);
    command.args(["--replace", "--skip-cache"]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends before it has read all says why.
        let _ = input.write_all(TEXT.as_bytes()).await;
    }
    child.wait_with_output().await
}

/// The profile to name in the spec.
pub(super) fn build(
    security: &ContainerSecurity,
    host: &Host,
) -> Result<Option<String>, AppArmorError> {
    let profile = match &security.apparmor {
        AppArmor::Unconfined => return Ok(None),
        AppArmor::RuntimeDefault => return default(security, host),
        AppArmor::Localhost(profile) => profile,
    };
    if !host.apparmor {
        return Err(AppArmorError::Disabled { profile: profile.clone() });
    }
    let list = std::fs::read_to_string(Path::new(LOADED)).map_err(AppArmorError::List)?;
    if is_loaded(&list, profile) {
        Ok(Some(profile.clone()))
    } else {
        Err(AppArmorError::NotLoaded { profile: profile.clone() })
    }
}

/// On a host without AppArmor there is nothing that the default could be.
fn default(security: &ContainerSecurity, host: &Host) -> Result<Option<String>, AppArmorError> {
    match &host.apparmor_default {
        _ if !host.apparmor => Ok(None),
        Ok(()) if is_there(DEFAULT) => Ok(Some(DEFAULT.to_owned())),
        // Programs that tidy up AppArmor's profiles remove those that no file tells of.
        Ok(()) if security.apparmor_required => {
            Err(AppArmorError::NoDefault { why: REMOVED.to_owned() })
        }
        Ok(()) => {
            tracing::warn!("a container runs without AppArmor profile {DEFAULT}: {REMOVED}");
            Ok(None)
        }
        Err(why) if security.apparmor_required => {
            Err(AppArmorError::NoDefault { why: why.clone() })
        }
        Err(_) => Ok(None),
    }
}

/// Where the kernel doesn't tell, what was loaded is taken for there.
fn is_there(profile: &str) -> bool {
    std::fs::read_to_string(LOADED).map_or(true, |list| is_loaded(&list, profile))
}

/// A name may hold spaces; the mode does not.
fn is_loaded(list: &str, profile: &str) -> bool {
    list.lines().any(|line| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_known_by_its_whole_name() {
        let list = "docker-default (enforce)\nwith a space (complain)\nnameless\n";
        for name in ["docker-default", "with a space"] {
            assert!(is_loaded(list, name), "{name}");
        }
        for name in ["", "docker", "docker-default (enforce)", "nameless", "enforce"] {
            assert!(!is_loaded(list, name), "{name}");
        }
    }

    #[tokio::test]
    async fn a_parser_that_fails_or_is_missing_says_why() {
        let missing = load_with(Path::new("/nowhere/parser")).await.unwrap_err();
        assert!(missing.starts_with("/nowhere/parser: No such file"), "{missing}");
        // One that knows no such option.
        let failed = load_with(Path::new("ls")).await.unwrap_err();
        assert!(failed.contains("exit status: 2: ") && failed.contains("--replace"), "{failed}");
        assert_eq!(load_with(Path::new("true")).await, Ok(()));
    }
}
