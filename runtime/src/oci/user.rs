//! Whom a container's command runs as: names and numbers resolved in the image's own files.
//!
//! Owns the reading of `/etc/passwd` and `/etc/group` as bytes. Both are the image's, so hostile: bounded in size and line length, and
//! refused when they hold what no such file holds. Invariant: text that is all digits is a number, never a name (CVE-2026-46680,
//! CVE-2016-3697), and a number that is no uid is refused, never wrapped (CVE-2024-40635).

use crate::container::{ContainerSecurity, GroupsPolicy, RunAs};

/// How long a line may be: a group's holds all of its members.
const LINE_LIMIT: usize = 1 << 20;
/// The kernel's own limit (`NGROUPS_MAX`).
const GROUPS_LIMIT: usize = 65_536;
/// The highest id that everything takes: the kernel's -1 means "no change", and much software keeps ids in an `int`.
const ID_MAX: u32 = i32::MAX.cast_unsigned();

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

/// A user or group as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Id(u32),
    Name(String),
}

/// What was asked for: a user and maybe a group.
struct Asked {
    field: &'static str,
    user: Who,
    group: Option<Who>,
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
    if let (GroupsPolicy::Merge, Some(entry)) = (security.groups_policy, &entry) {
        groups.extend(memberships(group, entry.name));
    }
    groups.extend(&security.supplemental_groups);
    let groups = distinct(groups)?;
    Ok(Identity { uid, gid, groups, home: entry.and_then(|entry| home(entry.home)) })
}

fn unknown(field: &'static str, value: &str, file: &'static str) -> UserError {
    UserError::Unknown { field, value: value.to_owned(), file }
}

fn asked(run_as: &RunAs, image_user: &str) -> Result<Asked, UserError> {
    match run_as {
        RunAs::Image => {
            let field = "the image's USER";
            let Some((user, group)) = image_user.split_once(':') else {
                // No user at all is root.
                let user = if image_user.is_empty() { Who::Id(0) } else { who(field, image_user)? };
                return Ok(Asked { field, user, group: None });
            };
            Ok(Asked { field, user: who(field, user)?, group: Some(who(field, group)?) })
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

fn id(field: &'static str, id: u32) -> Result<u32, UserError> {
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

/// The file's bytes, found fit to be read.
fn checked<'a>(file: &'static str, bytes: Option<&'a [u8]>) -> Result<&'a [u8], UserError> {
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
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// The first line for this user. Lines that make no sense are passed over, as the C library does.
fn find_user<'a>(passwd: &'a [u8], who: &Who) -> Option<Entry<'a>> {
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

fn find_group(group: &[u8], name: &str) -> Option<u32> {
    lines(group).find_map(
        |mut fields| {
            if fields.next() == Some(name) { number(fields.nth(1)?) } else { None }
        },
    )
}

/// The groups that list the user as a member.
fn memberships<'a>(group: &'a [u8], user: &'a str) -> impl Iterator<Item = u32> + 'a {
    lines(group).filter_map(move |mut fields| {
        let gid = number(fields.nth(2)?)?;
        fields.next()?.split(',').any(|member| member == user).then_some(gid)
    })
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

#[cfg(test)]
mod tests {
    use super::super::testing::security;
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\
        broken:x:one:1\n\
        short\n\
        :x:5:5::/:\n\
        1000:x:0:0:digits as a name:/evil:/bin/sh\n\
        4294967297:x:0:0::/evil:\n\
        +:x:0:0::/evil:\n\
        app:x:1000:1001:App:/home/app:/bin/sh\n\
        app:x:0:0:the second of this name:/root:/bin/sh\n\
        www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
        huge:x:4294967296:0::/:\n";
    const GROUP: &str = "root:x:0:\n\
        broken:x:y:app\n\
        app:x:1001:\n\
        audio:x:29:app,www-data\n\
        wide:x:50000:app\n\
        wide:x:50001:other\n\
        prefix:x:70:application\n";

    fn files() -> UserFiles {
        UserFiles { passwd: Some(PASSWD.into()), group: Some(GROUP.into()) }
    }

    fn image(user: &str) -> Result<Identity, UserError> {
        resolve(&security(), user, &files())
    }

    #[test]
    fn an_images_user_is_resolved_in_every_form_it_can_have() {
        for (user, uid, gid, groups) in [
            ("", 0, 0, &[0][..]),
            ("0", 0, 0, &[0]),
            ("root", 0, 0, &[0]),
            ("app", 1000, 1001, &[1001, 29, 50000]),
            ("1000", 1000, 1001, &[1001, 29, 50000]),
            ("01000", 1000, 1001, &[1001, 29, 50000]),
            ("app:audio", 1000, 29, &[29, 50000]),
            ("app:77", 1000, 77, &[77, 29, 50000]),
            ("1000:wide", 1000, 50000, &[50000, 29]),
            ("4711", 4711, 0, &[0]),
            ("4711:4712", 4711, 4712, &[4712]),
            ("www-data", 33, 33, &[33, 29]),
            ("2147483647", 2_147_483_647, 0, &[0]),
        ] {
            let identity = image(user).unwrap();
            assert_eq!(
                (identity.uid, identity.gid, identity.groups.as_slice()),
                (uid, gid, groups),
                "{user:?}"
            );
        }
    }

    #[test]
    fn an_images_user_that_is_none_is_refused_by_name() {
        for user in [
            "4294967295",
            "4294967296",
            "4294967297",
            "2147483648",
            "99999999999999999999",
            "-1",
            "+1",
            "+",
            "1:",
            ":1",
            ":",
            "1:2:3",
            " 1",
            "1 ",
            "1a",
            "nobody",
            "app:nogroup",
            "app:4294967296",
            "a\nb",
            "a\0",
            "huge",
            "broken",
            "short",
            "ｒｏｏｔ",
        ] {
            let error = image(user).unwrap_err();
            assert!(
                matches!(error, UserError::Invalid { .. } | UserError::Unknown { .. }),
                "{user:?}: {error}"
            );
            assert!(error.to_string().contains("the image's USER"), "{error}");
        }
        let unknown = image("nobody").unwrap_err().to_string();
        assert_eq!(
            unknown,
            "the image's USER \"nobody\": the image's /etc/passwd has no such entry"
        );
    }

    #[test]
    fn what_the_pod_says_wins_over_the_image() {
        let run = |run_as| {
            let security = ContainerSecurity { run_as, ..security() };
            resolve(&security, "root", &files()).map(|one| (one.uid, one.gid))
        };
        assert_eq!(run(RunAs::Uid { uid: 1000, gid: None }), Ok((1000, 1001)));
        assert_eq!(run(RunAs::Uid { uid: 1000, gid: Some(5) }), Ok((1000, 5)));
        assert_eq!(run(RunAs::Uid { uid: 4711, gid: None }), Ok((4711, 0)));
        assert_eq!(run(RunAs::Name { name: "www-data".into(), gid: None }), Ok((33, 33)));
        assert_eq!(run(RunAs::Name { name: "1000".into(), gid: Some(7) }), Ok((1000, 7)));
        assert!(run(RunAs::Uid { uid: u32::MAX, gid: None }).is_err());
        assert!(run(RunAs::Uid { uid: 1, gid: Some(1 << 31) }).is_err());
        assert!(
            run(RunAs::Name { name: "ghost".into(), gid: None })
                .unwrap_err()
                .to_string()
                .contains("run_as_username \"ghost\"")
        );
        assert!(run(RunAs::Name { name: String::new(), gid: None }).is_err());
    }

    #[test]
    fn groups_are_the_primary_one_then_the_images_then_the_pods() {
        let run = |groups_policy| {
            let supplemental_groups = vec![1234, 29, 1234];
            let run_as = RunAs::Uid { uid: 1000, gid: None };
            let security =
                ContainerSecurity { run_as, supplemental_groups, groups_policy, ..security() };
            resolve(&security, "", &files()).unwrap().groups
        };
        assert_eq!(run(GroupsPolicy::Merge), [1001, 29, 50000, 1234]);
        assert_eq!(run(GroupsPolicy::Strict), [1001, 1234, 29]);
    }

    #[test]
    fn without_the_files_numbers_are_enough_and_names_are_not() {
        let none = UserFiles::default();
        assert_eq!(resolve(&security(), "12:13", &none).unwrap().groups, [13]);
        assert!(resolve(&security(), "root", &none).is_err());
        assert!(resolve(&security(), "0:root", &none).is_err());
    }

    #[test]
    fn a_home_directory_comes_from_the_image_if_it_is_one() {
        assert_eq!(image("app").unwrap().home.as_deref(), Some("/home/app"));
        assert_eq!(image("4711").unwrap().home, None);
        for line in ["a:x:5:5::relative:", "a:x:5:5::/a\tb:", "a:x:5:5"] {
            let files = UserFiles { passwd: Some(line.into()), group: None };
            assert_eq!(resolve(&security(), "a", &files).unwrap().home, None, "{line}");
        }
    }

    #[test]
    fn a_real_name_in_an_old_encoding_hides_no_user() {
        let passwd = Some(b"jos:x:7:8:Jos\xe9:/home/jos:/bin/sh\n".to_vec());
        let found = resolve(&security(), "jos", &UserFiles { passwd, group: None }).unwrap();
        assert_eq!((found.uid, found.gid, found.home.as_deref()), (7, 8, Some("/home/jos")));
    }

    #[test]
    fn a_file_that_is_no_such_file_is_refused_at_once() {
        let mut large = PASSWD.as_bytes().to_vec();
        large.resize(UserFiles::LIMIT + 1, b'\n');
        let mut wide = vec![b'a'; LINE_LIMIT + 1];
        wide.extend(b"\nroot:x:0:0::/:\n");
        for bytes in [large, wide, b"root:x:0:0::/:\r\n".to_vec(), b"root\0:x:0:0::/:\n".to_vec()] {
            let began = std::time::Instant::now();
            for files in [
                UserFiles { passwd: Some(bytes.clone()), group: None },
                UserFiles { passwd: None, group: Some(bytes.clone()) },
            ] {
                let error = resolve(&security(), "0", &files).unwrap_err();
                assert!(matches!(error, UserError::File { .. }), "{error}");
            }
            assert!(began.elapsed().as_secs() < 2);
        }
    }

    #[test]
    fn more_groups_than_a_process_can_have_are_refused() {
        let mut group = String::new();
        for gid in 1..=65_536 {
            group.push_str(&format!("g{gid}:x:{gid}:root\n"));
        }
        let files = UserFiles { passwd: Some(PASSWD.into()), group: Some(group.into()) };
        assert_eq!(
            resolve(&security(), "0", &files),
            Err(UserError::TooManyGroups { count: 65_537 })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_and_no_text_make_it_fail(
            user in ".{0,20}",
            passwd in proptest::collection::vec(any::<u8>(), 0..300),
            group in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let files = UserFiles { passwd: Some(passwd), group: Some(group) };
            let _ = resolve(&security(), &user, &files);
        }

        #[test]
        fn text_that_is_all_digits_is_that_number_or_refused_whatever_the_image_says(
            user in "[0-9]{1,24}",
            name_of_root in "[0-9]{1,24}",
        ) {
            let passwd = format!("{user}:x:0:0::/:\n{name_of_root}:x:0:0::/:\n");
            let files = UserFiles { passwd: Some(passwd.into()), group: None };
            match (user.parse::<u32>(), resolve(&security(), &user, &files)) {
                (Ok(number), Ok(identity)) => prop_assert_eq!(identity.uid, number),
                (Ok(number), Err(_)) => prop_assert!(number > ID_MAX),
                (Err(_), result) => prop_assert!(result.is_err()),
            }
        }

        #[test]
        fn every_id_of_a_well_formed_line_is_found_again(
            name in "[a-z][a-z0-9_-]{0,10}", uid in 0..=ID_MAX, gid in 0..=ID_MAX,
        ) {
            let files = UserFiles { passwd: Some(format!("x:x\n{name}:x:{uid}:{gid}:,,,:/h:/s\n").into()), group: None };
            let found = resolve(&security(), &name, &files).unwrap();
            prop_assert_eq!((found.uid, found.gid), (uid, gid));
        }
    }
}
