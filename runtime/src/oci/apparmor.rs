//! AppArmor: which of the host's profiles confines a container.
//!
//! Owns the check that the profile is there; davit loads none of its own.

use super::host::Host;
use crate::container::AppArmor;
use std::path::Path;

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
    /// The kernel doesn't tell what is loaded.
    #[error("read {LOADED}")]
    List(#[source] std::io::Error),
}

/// The profile to name in the spec.
pub(super) fn build(asked: &AppArmor, host: &Host) -> Result<Option<String>, AppArmorError> {
    let AppArmor::Localhost(profile) = asked else { return Ok(None) };
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
}
