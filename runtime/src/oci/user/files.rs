//! The image's `/etc/passwd` and `/etc/group`, read as bytes.
//!
//! Owns what such a file may be (its size, its lines' length, its characters) and what its lines say. Both are the image's, so hostile.

use super::asked::{ID_MAX, Who};
use super::{UserError, UserFiles};

/// How long a line may be: a group's holds all of its members.
pub(super) const LINE_LIMIT: usize = 1 << 20;
/// The file's bytes, found fit to be read.
pub(super) fn checked<'a>(
    file: &'static str,
    bytes: Option<&'a [u8]>,
) -> Result<&'a [u8], UserError> {
    let bytes = bytes.unwrap_or_default();
    let problem = if bytes.len() > UserFiles::LIMIT {
        "is larger than 10 MiB"
    } else if bytes.iter().any(|byte| matches!(byte, 0 | b'\r')) {
        "has a NUL or a carriage return in it"
    } else if bytes.split(|byte| *byte == b'\n').any(|line| line.len() > LINE_LIMIT) {
        "has a line that is longer than 1 MiB"
    } else {
        return Ok(bytes);
    };
    Err(UserError::File { file, problem })
}

/// One line of passwd(5), as far as it counts.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: &'a str,
}

/// The first line for this user. Lines that make no sense are passed over, as the C library does.
pub(super) fn find_user<'a>(passwd: &'a [u8], who: &Who) -> Option<Entry<'a>> {
    lines(passwd).filter_map(entry).find(|entry| match who {
        Who::Id(uid) => entry.uid == *uid,
        Who::Name(name) => entry.name == name,
    })
}

/// The lines, each as its fields. A field that is no text is as good as empty: a real name in an old encoding hides no user.
fn lines(bytes: &[u8]) -> impl Iterator<Item = impl Iterator<Item = &str>> {
    let field = |field| std::str::from_utf8(field).unwrap_or_default();
    bytes.split(|byte| *byte == b'\n').map(move |line| line.split(|byte| *byte == b':').map(field))
}

fn entry<'a>(mut fields: impl Iterator<Item = &'a str>) -> Option<Entry<'a>> {
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = number(fields.nth(1)?)?;
    let gid = number(fields.next()?)?;
    let home = fields.nth(1).unwrap_or_default();
    Some(Entry { name, uid, gid, home })
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok().filter(|number| *number <= ID_MAX) } else { None }
}

/// The number of the first group of this name.
pub(super) fn find_group(group: &[u8], name: &str) -> Option<u32> {
    lines(group).find_map(
        |mut fields| {
            if fields.next() == Some(name) { number(fields.nth(1)?) } else { None }
        },
    )
}

/// The groups that list the user as a member.
pub(super) fn memberships<'a>(group: &'a [u8], user: &'a str) -> impl Iterator<Item = u32> + 'a {
    lines(group).filter_map(move |mut fields| {
        let gid = number(fields.nth(2)?)?;
        fields.next()?.split(',').any(|member| member == user).then_some(gid)
    })
}
