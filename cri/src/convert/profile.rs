//! Seccomp and AppArmor profiles, in the interface's new words and in its old ones.
//!
//! The new field is heard if it is there. The old strings are `""`, `unconfined`, `runtime/default` (and `docker/default`, which Kubernetes
//! still writes in places), `localhost/…`.

use super::error::{InvalidField, refuse, variant};
use super::text;
use davit_proto::cri::SecurityProfile;
use davit_proto::cri::security_profile::ProfileType;
use davit_runtime::container::{AppArmor, Seccomp};

/// A profile in either form.
enum Profile {
    RuntimeDefault,
    Unconfined,
    Localhost(String),
}

/// `None` if neither form says anything.
fn profile(
    field: &str,
    new: Option<SecurityProfile>,
    old_field: &str,
    old: String,
) -> Result<Option<Profile>, InvalidField> {
    match new {
        Some(new) => new_form(field, new).map(Some),
        None => old_form(old_field, old),
    }
}

fn new_form(field: &str, profile: SecurityProfile) -> Result<Profile, InvalidField> {
    let SecurityProfile { profile_type, localhost_ref } = profile;
    let kind = variant(&format!("{field}.profile_type"), profile_type)?;
    let ref_field = format!("{field}.localhost_ref");
    match kind {
        ProfileType::Localhost if localhost_ref.is_empty() => {
            Err(refuse(ref_field, &localhost_ref, "is required with the type Localhost"))
        }
        ProfileType::Localhost => Ok(Profile::Localhost(without_prefix(localhost_ref))),
        ProfileType::RuntimeDefault | ProfileType::Unconfined if !localhost_ref.is_empty() => {
            Err(refuse(ref_field, &localhost_ref, "is given without the type Localhost"))
        }
        ProfileType::RuntimeDefault => Ok(Profile::RuntimeDefault),
        ProfileType::Unconfined => Ok(Profile::Unconfined),
    }
}

fn old_form(field: &str, text: String) -> Result<Option<Profile>, InvalidField> {
    match text.as_str() {
        "" => Ok(None),
        "unconfined" => Ok(Some(Profile::Unconfined)),
        "runtime/default" | "docker/default" => Ok(Some(Profile::RuntimeDefault)),
        named if named.starts_with("localhost/") && named.len() > "localhost/".len() => {
            Ok(Some(Profile::Localhost(without_prefix(text))))
        }
        _ => Err(refuse(field, &text, "is none of unconfined, runtime/default and localhost/…")),
    }
}

/// The kubelet writes a localhost profile with and without this prefix.
fn without_prefix(text: String) -> String {
    match text.strip_prefix("localhost/") {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// A seccomp profile. Nothing said is unconfined: so the interface has it, and the validation suite checks it.
pub(crate) fn seccomp(
    field: &str,
    new: Option<SecurityProfile>,
    old: String,
) -> Result<Seccomp, InvalidField> {
    let new_field = format!("{field}.seccomp");
    let old_field = format!("{field}.seccomp_profile_path");
    Ok(match profile(&new_field, new, &old_field, old)? {
        None | Some(Profile::Unconfined) => Seccomp::Unconfined,
        Some(Profile::RuntimeDefault) => Seccomp::RuntimeDefault,
        Some(Profile::Localhost(path)) => {
            Seccomp::Localhost(text::absolute(&format!("{new_field}.localhost_ref"), path)?)
        }
    })
}

/// An AppArmor profile, and whether that is the default by name.
pub(crate) fn apparmor(
    field: &str,
    new: Option<SecurityProfile>,
    old: String,
) -> Result<(AppArmor, bool), InvalidField> {
    let new_field = format!("{field}.apparmor");
    let old_field = format!("{field}.apparmor_profile");
    Ok(match profile(&new_field, new, &old_field, old)? {
        None => (AppArmor::RuntimeDefault, false),
        Some(Profile::RuntimeDefault) => (AppArmor::RuntimeDefault, true),
        Some(Profile::Unconfined) => (AppArmor::Unconfined, false),
        Some(Profile::Localhost(name)) => {
            let name = text::word(&format!("{new_field}.localhost_ref"), name)?;
            (AppArmor::Localhost(name), false)
        }
    })
}
