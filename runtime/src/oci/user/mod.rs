//! Whom a container's command runs as: names and numbers resolved in the image's own files.
//!
//! Owns the answer: ids, groups and home. Who is asked for is read in [`asked`], the image's files in [`files`]; those are hostile, so
//! bounded in size and line length, and refused when they hold what no such file holds. Invariant: text that is all digits is a
//! number, never a name (CVE-2026-46680, CVE-2016-3697), and a number that is no uid is refused, never wrapped (CVE-2024-40635).

mod asked;
mod files;
#[cfg(test)]
mod tests;

use crate::container::{ContainerSecurity, GroupsPolicy};
use asked::{Asked, Who, asked, id};
use files::{checked, find_group, find_user, memberships};
use oci_spec::runtime::User;

/// The kernel's own limit (`NGROUPS_MAX`).
const GROUPS_LIMIT: usize = 65_536;

/// The image's identity files, as far as it has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserFiles {
    /// `/etc/passwd`.
    pub passwd: Option<Vec<u8>>,
    /// `/etc/group`.
    pub group: Option<Vec<u8>>,
}

impl UserFiles {
    /// How large a file may be, in bytes: the largest directories exported this way have some ten thousand users. Who reads one need
    /// not read more than a byte beyond; it is refused then.
    pub const LIMIT: usize = 10 << 20;
}

/// Why a user can't be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// It isn't a user as images and pods write one.
    #[error("{field} {value:?} is not a user: {problem}")]
    Invalid {
        /// Where it stands.
        field: &'static str,
        /// What it is.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The image doesn't know it.
    #[error("{field} {value:?}: the image's {file} has no such entry")]
    Unknown {
        /// Where it stands.
        field: &'static str,
        /// What it is.
        value: String,
        /// Where it was looked up.
        file: &'static str,
    },
    /// The image's file can't be trusted.
    #[error("read the image's {file}: it {problem}")]
    File {
        /// Which.
        file: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The pod has a user namespace that hasn't got it.
    #[error("{field} {id} is not in the pod's user namespace")]
    Unmapped {
        /// Where it stands.
        field: &'static str,
        /// Who.
        id: u32,
    },
    /// More groups than a process can have.
    #[error("{count} groups are more than a process can have")]
    TooManyGroups {
        /// How many.
        count: usize,
    },
}

/// A user resolved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// All groups, the primary one first: a process that changes its primary group must not shed what that group is denied
    /// (CVE-2023-25173).
    pub(super) groups: Vec<u32>,
    /// From the image's `/etc/passwd`.
    pub(super) home: Option<String>,
}

impl Identity {
    /// In the OCI spec's words.
    pub(super) fn to_oci(&self) -> User {
        let mut user = User::default();
        user.set_uid(self.uid).set_gid(self.gid);
        user.set_additional_gids(Some(self.groups.clone()));
        user
    }
}

/// Resolves `security`'s user and groups.
pub(super) fn resolve(
    security: &ContainerSecurity,
    image_user: &str,
    files: &UserFiles,
) -> Result<Identity, UserError> {
    let passwd = checked("/etc/passwd", files.passwd.as_deref())?;
    let group = checked("/etc/group", files.group.as_deref())?;
    let asked = asked(&security.run_as, image_user)?;
    identify(&asked, [passwd, group], security.groups_policy, &security.supplemental_groups)
}

fn identify(
    asked: &Asked,
    [passwd, group]: [&[u8]; 2],
    policy: GroupsPolicy,
    supplemental: &[u32],
) -> Result<Identity, UserError> {
    let entry = find_user(passwd, &asked.user);
    let uid = match (&asked.user, &entry) {
        (Who::Id(uid), _) => *uid,
        (Who::Name(_), Some(entry)) => entry.uid,
        (Who::Name(name), None) => return Err(unknown(asked.field, name, "/etc/passwd")),
    };
    let gid = match &asked.group {
        Some(Who::Id(gid)) => *gid,
        Some(Who::Name(name)) => {
            find_group(group, name).ok_or_else(|| unknown(asked.field, name, "/etc/group"))?
        }
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut groups = vec![gid];
    if let (GroupsPolicy::Merge, Some(entry)) = (policy, &entry) {
        groups.extend(memberships(group, entry.name));
    }
    groups.extend(supplemental);
    let groups = distinct(groups)?;
    Ok(Identity { uid, gid, groups, home: entry.and_then(|entry| home(entry.home)) })
}

/// Resolves a user that was written for one command: `USER[:GROUP]`.
pub(super) fn written(text: &str, files: &UserFiles) -> Result<Identity, UserError> {
    let passwd = checked("/etc/passwd", files.passwd.as_deref())?;
    let group = checked("/etc/group", files.group.as_deref())?;
    identify(&asked::text("user", text)?, [passwd, group], GroupsPolicy::Merge, &[])
}

fn unknown(field: &'static str, value: &str, file: &'static str) -> UserError {
    UserError::Unknown { field, value: value.to_owned(), file }
}

/// Each once, where it first stood.
fn distinct(groups: Vec<u32>) -> Result<Vec<u32>, UserError> {
    let mut seen = std::collections::HashSet::new();
    let groups: Vec<u32> = groups.into_iter().filter(|gid| seen.insert(*gid)).collect();
    if groups.len() > GROUPS_LIMIT {
        return Err(UserError::TooManyGroups { count: groups.len() });
    }
    for gid in &groups {
        id("supplemental_groups", *gid)?;
    }
    Ok(groups)
}

/// A home directory fit for the environment.
fn home(text: &str) -> Option<String> {
    let fit = text.starts_with('/') && !text.chars().any(char::is_control);
    fit.then(|| text.to_owned())
}
