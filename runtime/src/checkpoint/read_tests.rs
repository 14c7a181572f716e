//! Archives that are none, each by its kind, and one that is.

use super::*;
use rustix::fs::{CWD, FileType};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

/// An entry: its name, its type, its bytes.
type Member = (&'static str, tar::EntryType, Vec<u8>);

const FILE: tar::EntryType = tar::EntryType::Regular;

fn dump() -> serde_json::Value {
    let container = crate::oci::testing::container();
    serde_json::json!({
        "version": 1,
        "architecture": std::env::consts::ARCH,
        "checkpointed_at": 5,
        "image": {"id": format!("sha256:{}", "ab".repeat(32)), "name": "n", "reference": "r"},
        "pod": {"handler": "runc", "host_network": false, "privileged": false, "user_namespace": false},
        "container": container,
    })
}

fn tar(members: &[Member]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        if *kind == tar::EntryType::Symlink {
            header.set_link_name("/etc/shadow").unwrap();
        }
        // The library would refuse `..`.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, bytes.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

fn members(dump: &serde_json::Value) -> Vec<Member> {
    let diff = tar(&[("made", FILE, b"text".to_vec())]);
    vec![
        ("checkpoint/", tar::EntryType::Directory, Vec::new()),
        (INVENTORY, FILE, b"inventory".to_vec()),
        (DIFF, FILE, diff),
        (DELETED, FILE, b"[\"/etc/gone\"]".to_vec()),
        (dump::NAME, FILE, serde_json::to_vec(dump).unwrap()),
    ]
}

fn write(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap();
    file.write_all(bytes).unwrap();
}

fn refusal(bytes: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.tar");
    write(&path, bytes);
    crate::error::chain(&Archive::open(&path).unwrap_err())
}

#[test]
fn an_archive_is_unpacked_and_what_was_changed_is_applied() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.tar");
    write(&path, &tar(&members(&dump())));
    let archive = Archive::open(&path).unwrap();
    assert_eq!(archive.dump().pod.handler, "runc");
    let (into, upper) = (directory.path().join("into"), directory.path().join("upper"));
    new_dir(&into, 0o700).unwrap();
    new_dir(&upper, 0o755).unwrap();
    let unpacked = archive.unpack(&into).unwrap();
    archive.apply_diff(&unpacked, &upper).unwrap();
    assert_eq!(std::fs::read(unpacked.images.join("inventory.img")).unwrap(), b"inventory");
    assert_eq!(std::fs::read(upper.join("made")).unwrap(), b"text");
    let gone = rustix::fs::lstat(upper.join("etc/gone")).unwrap();
    assert!(crate::image::is_whiteout(&gone));
}

#[test]
fn an_archive_that_is_not_whole_is_refused_by_what_it_lacks() {
    let whole = members(&dump());
    for (lacks, name) in [(1, INVENTORY), (2, DIFF), (3, DELETED), (4, dump::NAME)] {
        let mut members = whole.clone();
        members.remove(lacks);
        let said = refusal(&tar(&members));
        assert!(said.contains(&format!("has no {name}")), "{said}");
    }
    let bytes = tar(&whole);
    for length in [100, 700, 2_000, 5_000] {
        let said = refusal(&bytes[..length.min(bytes.len() - 1_100)]);
        assert!(said.contains("ends inside") || said.contains("has no "), "{length}: {said}");
    }
    assert!(refusal(b"").contains("has no davit.dump"));
    assert!(refusal(&[7; 2048]).contains("is broken"));
}

#[test]
fn an_entry_that_davit_does_not_write_is_refused_by_its_name() {
    for (name, kind, says) in [
        ("../etc/passwd", FILE, "climbs out"),
        ("/etc/passwd", FILE, "\"etc/passwd\", which davit does not know"),
        ("other", FILE, "\"other\", which davit does not know"),
        ("checkpoint/deep/x.img", FILE, "which davit does not know"),
        ("checkpoint/pages-1.img", tar::EntryType::Symlink, "of the wrong kind"),
        ("checkpoint/pages-1.img", tar::EntryType::Fifo, "of the wrong kind"),
        ("spec.dump", tar::EntryType::Symlink, "of the wrong kind"),
        ("spec.dump", tar::EntryType::Directory, "of the wrong kind"),
        (DIFF, FILE, "is there twice"),
    ] {
        let mut members = members(&dump());
        members.push((name, kind, Vec::new()));
        let said = refusal(&tar(&members));
        assert!(said.contains(says), "{name}: {said}");
    }
}

#[test]
fn what_davit_wrote_down_must_make_sense_here() {
    type Change = fn(&mut serde_json::Value);
    let changes: [(Change, &str); 6] = [
        (|dump| dump["version"] = 2.into(), "is of version 2; this davit restores version 1"),
        (|dump| dump["architecture"] = "vax".into(), "the architecture \"vax\""),
        (|dump| dump["pod"]["user_namespace"] = true.into(), "in a user namespace"),
        (|dump| dump["more"] = 1.into(), "unknown field `more`"),
        (|dump| dump["container"] = 1.into(), "invalid type"),
        (|dump| *dump = serde_json::json!({}), "missing field `version`"),
    ];
    for (change, says) in changes {
        let mut dump = dump();
        change(&mut dump);
        let said = refusal(&tar(&members(&dump)));
        assert!(said.contains(says), "{said}");
    }
    for deleted in ["[\"etc\"]", "[\"/a/../../b\"]", "[\"/\"]"] {
        let mut members = members(&dump());
        members[3].2 = deleted.into();
        let said = refusal(&tar(&members));
        assert!(said.contains("no absolute path without"), "{said}");
    }
    let mut members = members(&dump());
    members[3].2 = b"{".to_vec();
    assert!(refusal(&tar(&members)).contains("read deleted.files"));
}

#[test]
fn only_a_file_that_nobody_but_root_can_write_is_believed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    write(&path("a.tar"), &tar(&members(&dump())));
    std::os::unix::fs::symlink(path("a.tar"), path("link.tar")).unwrap();
    rustix::fs::mknodat(CWD, path("pipe.tar"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    for (name, says) in [
        ("link.tar", "open the checkpoint"),
        ("pipe.tar", "is no regular file"),
        ("none.tar", "open the checkpoint"),
    ] {
        let said = Archive::open(&path(name)).unwrap_err().to_string();
        assert!(said.contains(says), "{said}");
    }
    let other = |mode, owner| {
        std::fs::set_permissions(path("a.tar"), std::fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(path("a.tar"), Some(owner), None).unwrap();
        Archive::open(&path("a.tar")).map(drop).map_err(|error| error.to_string())
    };
    for (mode, owner) in [(0o622, 0), (0o660, 0), (0o600, 1000)] {
        let said = other(mode, owner).unwrap_err();
        assert!(said.ends_with("could be written by others than root"), "{said}");
    }
    other(0o644, 0).unwrap();
}

#[test]
fn a_hostile_diff_gets_nowhere() {
    for (name, kind, says) in [
        ("../x", FILE, "climbs out"),
        ("a/b/../../../x", FILE, "climbs out"),
        ("made/below", FILE, "no directory"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar");
        let mut members = members(&dump());
        members[2].2 = tar(&[("made", FILE, Vec::new()), (name, kind, Vec::new())]);
        write(&path, &tar(&members));
        let (into, upper) = (directory.path().join("into"), directory.path().join("upper"));
        new_dir(&into, 0o700).unwrap();
        new_dir(&upper, 0o755).unwrap();
        let archive = Archive::open(&path).unwrap();
        let unpacked = archive.unpack(&into).unwrap();
        let error = archive.apply_diff(&unpacked, &upper).unwrap_err();
        let said = crate::error::chain(&error);
        assert!(said.contains(says) && said.contains("rootfs-diff.tar"), "{name}: {said}");
    }
}
