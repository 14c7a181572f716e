//! Who is asked for: the pod's words or the image's, as a number or a name.
//!
//! Owns what a user can look like. Text that is all digits is a number; one that is no id is refused, never wrapped.

use super::UserError;
use crate::container::RunAs;

/// The highest id that everything takes: the kernel's -1 means "no change", and much software keeps ids in an `int`.
pub(super) const ID_MAX: u32 = i32::MAX.cast_unsigned();

/// A user or group as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    Id(u32),
    Name(String),
}

/// What was asked for: a user and maybe a group.
pub(super) struct Asked {
    pub(super) field: &'static str,
    pub(super) user: Who,
    pub(super) group: Option<Who>,
}

/// The pod's word first, the image's without it.
pub(super) fn asked(run_as: &RunAs, image_user: &str) -> Result<Asked, UserError> {
    match run_as {
        RunAs::Image => {
            let field = "the image's USER";
            if image_user.is_empty() {
                // No user at all is root.
                return Ok(Asked { field, user: Who::Id(0), group: None });
            }
            text(field, image_user)
        }
        RunAs::Uid { uid, gid } => {
            let user = Who::Id(id("run_as_user", *uid)?);
            let group = gid.map(|gid| id("run_as_group", gid).map(Who::Id)).transpose()?;
            Ok(Asked { field: "run_as_user", user, group })
        }
        RunAs::Name { name, gid } => {
            let user = who("run_as_username", name)?;
            let group = gid.map(|gid| id("run_as_group", gid).map(Who::Id)).transpose()?;
            Ok(Asked { field: "run_as_username", user, group })
        }
    }
}

/// `USER[:GROUP]`, as images and people write it.
pub(super) fn text(field: &'static str, text: &str) -> Result<Asked, UserError> {
    match text.split_once(':') {
        Some((user, group)) => {
            Ok(Asked { field, user: who(field, user)?, group: Some(who(field, group)?) })
        }
        None => Ok(Asked { field, user: who(field, text)?, group: None }),
    }
}

/// A number that is a user or group.
pub(super) fn id(field: &'static str, id: u32) -> Result<u32, UserError> {
    let problem = "it is above 2147483647";
    if id <= ID_MAX {
        Ok(id)
    } else {
        Err(UserError::Invalid { field, value: id.to_string(), problem })
    }
}

/// One user or group: a number, or a name as useradd(8) allows it.
fn who(field: &'static str, text: &str) -> Result<Who, UserError> {
    let invalid = |problem| {
        let value = text.chars().take(100).collect();
        Err(UserError::Invalid { field, value, problem })
    };
    if text.is_empty() {
        return invalid("a part of it is empty");
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse::<u32>() {
            Ok(number) if number <= ID_MAX => Ok(Who::Id(number)),
            Ok(_) | Err(_) => invalid("it is above 2147483647"),
        };
    }
    if text.len() > 256 {
        return invalid("it is longer than a name may be");
    }
    // A sign makes a number of another program's parser, and `+` and `-` lines of NIS are no users.
    if text.starts_with(['-', '+']) {
        return invalid("it begins with a sign");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || ":,/".contains(c)) {
        return invalid("it has a character that no name can have");
    }
    Ok(Who::Name(text.to_owned()))
}
