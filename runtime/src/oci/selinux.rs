//! SELinux labels: what a container's processes and files are labelled.
//!
//! Owns the format of a label and the choice of its parts; the kernel knows whether a policy has such a type. On a host without SELinux there are none,
//! and what a pod asks for has no effect, as Kubernetes says of such nodes.
//!
//! A pod that names no level has one of its own, so that no pod reads another's files: some categories drawn from its id. They are
//! more than the usual two, because then no two pods have the same by chance, nothing has to be reserved, and a restart finds them again.

use crate::container::SelinuxOptions;
use crate::id::SandboxId;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;

const CONFIG: &str = "/etc/selinux/config";
/// How many categories there are, in every policy for containers.
const CATEGORIES: u16 = 1024;
/// How many of them a pod has: among 500 pods, two are alike with a chance of one in 10^10.
const OWN: usize = 6;
const ATTRIBUTE: &str = "security.selinux";

/// One label.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Label {
    user: String,
    role: String,
    kind: String,
}

/// What the host's policy has for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelinuxHost {
    process: Label,
    file: Label,
}

/// What a container's processes and files are labelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Its processes.
    pub process: String,
    /// Its files.
    pub file: String,
}

impl Default for SelinuxHost {
    /// What container-selinux and the reference policy have.
    fn default() -> Self {
        let label = |role: &str, kind: &str| Label {
            user: "system_u".to_owned(),
            role: role.to_owned(),
            kind: kind.to_owned(),
        };
        Self {
            process: label("system_r", "container_t"),
            file: label("object_r", "container_file_t"),
        }
    }
}

impl SelinuxHost {
    /// The host's; `None` where SELinux is not enabled.
    pub(super) fn probe() -> Option<Self> {
        if !Path::new("/sys/fs/selinux/enforce").exists() {
            return None;
        }
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let config = text(CONFIG);
        let policy = value(&config, "SELINUXTYPE").unwrap_or("targeted");
        Some(Self::parse(&text(&format!("/etc/selinux/{policy}/contexts/lxc_contexts"))))
    }

    /// From `lxc_contexts`: lines such as `process = "system_u:system_r:container_t:s0"`. What it doesn't say is as usual.
    fn parse(text: &str) -> Self {
        let usual = Self::default();
        let label = |name: &str, usual: Label| {
            let mut parts = value(text, name).unwrap_or_default().splitn(4, ':').map(str::to_owned);
            match (parts.next(), parts.next(), parts.next()) {
                (Some(user), Some(role), Some(kind)) => Label { user, role, kind },
                (_, _, _) => usual,
            }
        };
        Self { process: label("process", usual.process), file: label("file", usual.file) }
    }

    /// The labels of a container: each part is the container's, else the pod's, else the policy's.
    #[must_use]
    pub fn labels(
        &self,
        id: &SandboxId,
        pod: &SelinuxOptions,
        container: &SelinuxOptions,
    ) -> Labels {
        let part = |of: fn(&SelinuxOptions) -> &String, usual: &str| {
            let said = [of(container), of(pod)].into_iter().find(|text| !text.is_empty());
            said.map_or(usual, String::as_str).to_owned()
        };
        let user = part(|options| &options.user, &self.process.user);
        let role = part(|options| &options.role, &self.process.role);
        let kind = part(|options| &options.kind, &self.process.kind);
        let level = part(|options| &options.level, &level_of(id));
        let Label { role: file_role, kind: file_kind, .. } = &self.file;
        Labels {
            process: format!("{user}:{role}:{kind}:{level}"),
            file: format!("{user}:{file_role}:{file_kind}:{level}"),
        }
    }
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

/// A pod's own level.
fn level_of(id: &SandboxId) -> String {
    let mut categories = BTreeSet::new();
    let mut round = 0_u32;
    while categories.len() < OWN {
        let digest = Sha256::new().chain_update(id.as_str()).chain_update(round.to_le_bytes());
        for pair in digest.finalize().chunks_exact(2) {
            let number = pair.iter().fold(0_u16, |sum, byte| sum << 8 | u16::from(*byte));
            if categories.len() < OWN {
                categories.insert(number % CATEGORIES);
            }
        }
        round = round.wrapping_add(1);
    }
    let names: Vec<String> = categories.iter().map(|number| format!("c{number}")).collect();
    format!("s0:{}", names.join(","))
}

/// Why a text is no part of a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct InvalidLabel {
    /// Which part.
    pub part: &'static str,
    /// What it says.
    pub value: String,
}

impl fmt::Display for InvalidLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} is no part of an SELinux label", self.part, self.value)
    }
}

/// Whether these can be parts of a label; empty ones are not asked for.
///
/// # Errors
/// [`InvalidLabel`] for the first that can't.
pub fn check(options: &SelinuxOptions) -> Result<(), InvalidLabel> {
    let SelinuxOptions { user, role, kind, level } = options;
    for (part, text) in [("user", user), ("role", role), ("type", kind)] {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if text.len() > 255 || !text.bytes().all(fits) {
            return Err(InvalidLabel { part, value: text.clone() });
        }
    }
    if level.is_empty() || is_level(level) {
        return Ok(());
    }
    Err(InvalidLabel { part: "level", value: level.clone() })
}

/// `s0`, `s0:c1,c5.c9`, `s0-s15:c0.c1023`.
fn is_level(text: &str) -> bool {
    let number = |text: &str, letter: char| {
        text.strip_prefix(letter).is_some_and(|digits| {
            (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let category =
        |text: &str| text.split('.').count() <= 2 && text.split('.').all(|one| number(one, 'c'));
    let one = |text: &str| match text.split_once(':') {
        None => number(text, 's'),
        Some((sensitivity, rest)) => number(sensitivity, 's') && rest.split(',').all(category),
    };
    text.split('-').count() <= 2 && text.split('-').all(one)
}

/// Gives a file, or a directory and all below it, a label. The directory itself comes last, so that one that has the label is done, and a volume with
/// millions of files costs that only once. Links are labelled, never followed; a file system without labels is left alone. Blocks.
///
/// # Errors
/// The kernel's.
pub(crate) fn relabel(path: &Path, label: &str) -> io::Result<()> {
    let mut current = [0_u8; 4096];
    match rustix::fs::lgetxattr(path, ATTRIBUTE, &mut current) {
        Ok(length) => {
            let known = current.get(..length).unwrap_or_default();
            if known.strip_suffix(b"\0").unwrap_or(known) == label.as_bytes() {
                return Ok(());
            }
        }
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(rustix::io::Errno::NODATA) => {}
        Err(errno) => return Err(errno.into()),
    }
    if std::fs::symlink_metadata(path)?.is_dir() {
        below(path, label)?;
    }
    set(path, label)
}

/// Without recursion: a volume may be as deep as it likes.
fn below(top: &Path, label: &str) -> io::Result<()> {
    let mut left = vec![top.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            }
            set(&entry.path(), label)?;
        }
    }
    Ok(())
}

fn set(path: &Path, label: &str) -> io::Result<()> {
    match rustix::fs::lsetxattr(path, ATTRIBUTE, label.as_bytes(), rustix::fs::XattrFlags::empty())
    {
        // Gone since, or on a file system without labels.
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTSUP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> SelinuxOptions {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        SelinuxOptions { user: part(), role: part(), kind: part(), level: part() }
    }

    fn id(letter: &str) -> SandboxId {
        SandboxId::try_from(letter.repeat(64)).unwrap()
    }

    #[test]
    fn each_part_is_the_containers_else_the_pods_else_the_policys() {
        let host = SelinuxHost::default();
        for (pod, container, process, file) in [
            (
                ":::s0:c1,c2",
                "",
                "system_u:system_r:container_t:s0:c1,c2",
                "system_u:object_r:container_file_t:s0:c1,c2",
            ),
            ("u:r:t:s0", "::spc_t:", "u:r:spc_t:s0", "u:object_r:container_file_t:s0"),
            (
                "u:r:t:s0",
                "a:b:c:s1-s2:c0.c9",
                "a:b:c:s1-s2:c0.c9",
                "a:object_r:container_file_t:s1-s2:c0.c9",
            ),
        ] {
            let labels = host.labels(&id("a"), &options(pod), &options(container));
            assert_eq!(labels, Labels { process: process.into(), file: file.into() });
        }
    }

    #[test]
    fn a_pod_without_a_level_has_its_own_always_the_same() {
        let host = SelinuxHost::default();
        let label = |letter: &str| {
            let none = SelinuxOptions::default();
            host.labels(&id(letter), &none, &none).process
        };
        let level = label("a").strip_prefix("system_u:system_r:container_t:").unwrap().to_owned();
        assert!(is_level(&level) && level.matches('c').count() == OWN, "{level}");
        assert_eq!(label("a"), label("a"));
        let mut all: Vec<String> = ('a'..='f').map(|letter| label(&letter.to_string())).collect();
        all.dedup();
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn the_policys_own_names_count() {
        let text = "# x\nprocess = \"system_u:system_r:svirt_lxc_net_t:s0\"\ncontent = \"y\"\nfile = \"system_u:object_r:svirt_sandbox_file_t:s0\"\n";
        let host = SelinuxHost::parse(text);
        assert_eq!(
            (host.process.kind.as_str(), host.file.kind.as_str()),
            ("svirt_lxc_net_t", "svirt_sandbox_file_t")
        );
        assert_eq!(SelinuxHost::parse("process = \"odd\""), SelinuxHost::default());
    }

    #[test]
    fn what_is_no_part_of_a_label_is_refused_by_its_part() {
        for text in [
            "",
            ":::s0",
            ":::s0:c1",
            ":::s0:c1,c2",
            ":::s0-s15:c0.c1023",
            "a_u:b_r:c_t:s0:c1.c3,c7",
        ] {
            assert_eq!(check(&options(text)), Ok(()), "{text}");
        }
        for (text, part) in [
            ("a b", "user"),
            (":r\n", "role"),
            ("::t,x", "type"),
            (":::x", "level"),
            (":::s", "level"),
            (":::s0:", "level"),
            (":::s0:c", "level"),
            (":::s0:c1,", "level"),
            (":::s0:c1.c2.c3", "level"),
            (":::s0-s1-s2", "level"),
            (":::s0:c12345", "level"),
            (":::s0,context=x", "level"),
        ] {
            assert_eq!(check(&options(text)).unwrap_err().part, part, "{text}");
        }
    }

    #[test]
    fn a_tree_is_labelled_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("a/b")).unwrap();
        std::fs::File::create(tree.path().join("a/b/file")).unwrap();
        std::os::unix::fs::symlink(outside.path(), tree.path().join("link")).unwrap();
        let read = |path: &Path| {
            let mut value = [0_u8; 100];
            let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value).ok()?;
            String::from_utf8(value[..length].to_vec()).ok()
        };
        // Without SELinux the kernel keeps the attribute as any other.
        relabel(tree.path(), "u:r:t:s0").unwrap();
        for path in ["", "a", "a/b", "a/b/file"] {
            assert_eq!(read(&tree.path().join(path)).as_deref(), Some("u:r:t:s0"), "{path}");
        }
        assert_eq!(read(outside.path()), None);
        // Whoever has it has had all of it.
        std::fs::File::create(tree.path().join("a/new")).unwrap();
        relabel(tree.path(), "u:r:t:s0").unwrap();
        assert_eq!(read(&tree.path().join("a/new")), None);
        relabel(tree.path(), "u:r:t:s1").unwrap();
        assert_eq!(read(&tree.path().join("a/new")).as_deref(), Some("u:r:t:s1"));
    }
}
