use super::*;
use crate::image::testing::{Tar, pax_records};
use proptest::prelude::*;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

struct Layer {
    directory: tempfile::TempDir,
    result: Result<Applied, ApplyError>,
}

impl Layer {
    fn of(bytes: &[u8]) -> Self {
        Self::bounded(bytes, &Limits::default())
    }

    fn bounded(bytes: &[u8], limits: &Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["fs", "junk"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let root = std::fs::File::open(directory.path().join("fs")).unwrap();
        let result = apply(bytes, root.into(), directory.path().join("junk"), limits);
        Self { directory, result }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("fs").join(name)
    }

    fn stat(&self, name: &str) -> std::fs::Metadata {
        assert!(self.result.is_ok(), "{:?}", self.result);
        std::fs::symlink_metadata(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn text(&self, name: &str) -> String {
        assert!(self.result.is_ok(), "{:?}", self.result);
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn is_whiteout(&self, name: &str) -> bool {
        let stat = self.stat(name);
        stat.file_type().is_char_device() && stat.rdev() == 0
    }

    fn xattr(&self, name: &str, key: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 1000];
        let length = rustix::fs::lgetxattr(self.path(name), key, &mut value).ok()?;
        value.truncate(length);
        Some(value)
    }

    fn is_opaque(&self, name: &str) -> bool {
        self.xattr(name, OPAQUE).as_deref() == Some(b"y")
    }

    fn error(self) -> ApplyError {
        self.result.expect_err("it should have been refused")
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn every_kind_of_entry_becomes_what_it_says() {
    let mut long = "d/".repeat(90);
    long.push_str("file");
    let layer = Layer::of(
        &Tar::default()
            .raw(b'5', b"./", b"", |header| header.set_mode(0o711))
            .raw(b'5', b"./bin/", b"", |header| {
                header.set_mode(0o1777);
                header.set_mtime(7);
                header.set_gid(9);
            })
            .raw(b'0', b"bin/su", b"hello", |header| {
                header.set_mode(0o4755);
                header.set_uid(1234);
                header.set_gid(70_000);
                header.set_mtime(5);
            })
            .hard_link("bin/su2", "./bin/su")
            .symlink("bin/sh", "/somewhere/else")
            .raw(b'6', b"fifo", b"", |header| header.set_mode(0o620))
            .raw(b'3', b"null", b"", |header| {
                header.set_device_major(1).unwrap();
                header.set_device_minor(3).unwrap();
                header.set_mode(0o666);
            })
            .raw(b'4', b"disk", b"", |header| {
                header.set_device_major(7).unwrap();
                header.set_device_minor(300).unwrap();
            })
            .raw(b'L', b"././@LongLink", format!("{long}\0").as_bytes(), |_| {})
            .file("cut", b"long")
            .pax(&[
                ("path", b"pax/\xc3\xa4"),
                ("mtime", b"-3.5"),
                ("uid", b"3000000000"),
                ("size", b"3"),
            ])
            .raw(b'0', b"x", b"pax", |header| header.set_size(3))
            .raw(b'0', b"empty", b"", |_| {})
            .raw(0, b"old/", b"", |_| {})
            .end(),
    );
    assert_eq!(layer.stat("").mode() & 0o7777, 0o711);
    let bin = layer.stat("bin");
    assert_eq!((bin.mode() & 0o7777, bin.mtime(), bin.gid()), (0o1777, 7, 9));
    let su = layer.stat("bin/su");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.mtime()), (0o4755, 1234, 70_000, 5));
    assert_eq!((su.ino(), su.nlink()), (layer.stat("bin/su2").ino(), 2));
    assert_eq!(std::fs::read_link(layer.path("bin/sh")).unwrap(), Path::new("/somewhere/else"));
    assert_eq!(layer.stat("bin/sh").mtime(), 1_000_000_000);
    let fifo = layer.stat("fifo");
    assert!(fifo.file_type().is_fifo() && fifo.mode() & 0o7777 == 0o620);
    let null = layer.stat("null");
    assert!(null.file_type().is_char_device() && null.permissions().mode() & 0o7777 == 0o666);
    assert_eq!(
        (null.rdev(), layer.stat("disk").rdev()),
        (rustix::fs::makedev(1, 3), rustix::fs::makedev(7, 300))
    );
    assert_eq!(layer.text(&long), "long");
    let pax = layer.stat("pax/ä");
    assert_eq!(
        (pax.mtime(), pax.mtime_nsec(), pax.uid(), pax.len()),
        (-4, 500_000_000, 3_000_000_000, 3)
    );
    assert!(layer.stat("old").is_dir() && layer.stat("empty").len() == 0);
    let implied = layer.stat("pax");
    assert_eq!((implied.mode() & 0o7777, implied.uid(), implied.mtime()), (0o755, 0, 0));
    let applied = layer.result.unwrap();
    assert!(
        applied.implied.contains(&b"pax".to_vec()) && applied.implied.contains(&b"d/d".to_vec())
    );
    assert!(!applied.implied.iter().any(|path| path == b"bin" || path.is_empty()));
}

#[test]
fn the_count_of_inodes_and_bytes_is_what_the_disk_says() {
    let layer = Layer::of(
        &Tar::default()
            .directory("a", 0o755)
            .file("a/one", &[1; 5000])
            .file("b/two", b"x")
            .symlink("c", "d")
            .end(),
    );
    let mut found = (0, 0);
    for path in ["", "a", "a/one", "b", "b/two", "c"] {
        let stat = layer.stat(path);
        found = (found.0 + stat.blocks() * 512, found.1 + 1);
    }
    let applied = layer.result.unwrap();
    assert_eq!((applied.bytes, applied.inodes), found);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn names_that_leave_the_layer_are_refused_each_with_its_own_error() {
    type Check = fn(&ApplyError) -> bool;
    let outside = tempfile::tempdir().unwrap();
    let outside_path = outside.path().to_str().unwrap();
    let cases: [(Tar, Check, &str); 13] = [
        (
            Tar::default().file("../evil", b""),
            |e| matches!(e, ApplyError::DotDot { .. }),
            "../evil",
        ),
        (
            Tar::default().file("a/../../evil", b""),
            |e| matches!(e, ApplyError::DotDot { .. }),
            "a/../../evil",
        ),
        (Tar::default().directory("..", 0o777), |e| matches!(e, ApplyError::DotDot { .. }), ".."),
        (
            Tar::default().file("/../evil", b""),
            |e| matches!(e, ApplyError::DotDot { .. }),
            "/../evil",
        ),
        (
            Tar::default().symlink("link", outside_path).file("link/evil", b""),
            |e| matches!(e, ApplyError::SymlinkEscape { .. }),
            "link/evil",
        ),
        (
            Tar::default().symlink("link", "../..").file("link/evil", b""),
            |e| matches!(e, ApplyError::SymlinkEscape { .. }),
            "link/evil",
        ),
        (
            Tar::default()
                .directory("a", 0o755)
                .symlink("a/up", "../..")
                .directory("a/up/evil", 0o777),
            |e| matches!(e, ApplyError::SymlinkEscape { .. }),
            "a/up/evil",
        ),
        (
            Tar::default().symlink("one", "two").symlink("two", "one").file("one/evil", b""),
            |e| matches!(e, ApplyError::SymlinkEscape { .. }),
            "one/evil",
        ),
        (
            Tar::default().symlink("link", outside_path).hard_link("evil", "link/precious"),
            |e| matches!(e, ApplyError::SymlinkEscape { .. }),
            "evil",
        ),
        (
            Tar::default().hard_link("evil", "../precious"),
            |e| matches!(e, ApplyError::DotDot { .. }),
            "../precious",
        ),
        (
            Tar::default().hard_link("evil", "/../precious"),
            |e| matches!(e, ApplyError::DotDot { .. }),
            "/../precious",
        ),
        (
            Tar::default().symlink("link", outside_path).file("/link/evil", b""),
            |e| matches!(e, ApplyError::SymlinkEscape { .. }),
            "link/evil",
        ),
        (
            Tar::default().symlink("link", outside_path).file("link/.wh.precious", b""),
            |e| matches!(e, ApplyError::SymlinkEscape { .. }),
            "link/.wh.precious",
        ),
    ];
    std::fs::create_dir(outside.path().join("precious")).unwrap();
    for (tar, is_right, path) in cases {
        let error = Layer::of(&tar.end()).error();
        assert!(is_right(&error), "{error:?}");
        assert!(error.to_string().contains(&format!("{path:?}")), "{error} should name {path}");
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn an_absolute_name_begins_at_the_layers_root() {
    let outside = tempfile::tempdir().unwrap();
    let name = outside.path().join("new").to_str().unwrap().to_owned();
    let layer = Layer::of(
        &Tar::default()
            .directory("/", 0o711)
            .file("/nix/store/a", b"1")
            .file("bin/perl", b"2")
            .hard_link("//bin/perl5", "/bin/perl")
            .file("/nix/.wh.gone", b"")
            .file(&name, b"3")
            .end(),
    );
    assert_eq!((layer.text("nix/store/a"), layer.text("bin/perl5")), ("1".into(), "2".into()));
    assert_eq!(layer.stat("bin/perl").ino(), layer.stat("bin/perl5").ino());
    assert!(layer.is_whiteout("nix/gone") && layer.stat("").mode() & 0o7777 == 0o711);
    assert_eq!(layer.text(name.trim_start_matches('/')), "3");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_link_is_followed_as_a_parent_only_inside_the_layer() {
    let layer = Layer::of(
        &Tar::default()
            .directory("usr/lib", 0o755)
            .symlink("lib", "usr/lib")
            .file("lib/x", b"1")
            .file("lib/a/y", b"2")
            .end(),
    );
    assert_eq!((layer.text("usr/lib/x"), layer.text("usr/lib/a/y")), ("1".into(), "2".into()));
    let dangling = Layer::of(&Tar::default().symlink("lib", "usr/lib").file("lib/x", b"").end());
    assert!(matches!(dangling.error(), ApplyError::NotDirectory { .. }));
    let file = Layer::of(&Tar::default().file("a", b"").file("a/b", b"").end());
    assert!(matches!(file.error(), ApplyError::NotDirectory { .. }));
}

#[test]
fn a_name_that_comes_twice_counts_as_the_last() {
    let layer = Layer::of(
        &Tar::default()
            .directory("dir", 0o700)
            .file("dir/kept", b"1")
            .directory("dir", 0o750)
            .file("file", b"one")
            .hard_link("other", "file")
            .file("file", b"two")
            .directory("gone", 0o755)
            .file("gone/below/it", b"")
            .file("gone", b"now a file")
            .symlink("link", "/etc/passwd")
            .file("link", b"now a file")
            .file("back", b"")
            .directory("back", 0o755)
            .hard_link("same", "file")
            .hard_link("same", "same")
            .end(),
    );
    assert_eq!(layer.stat("dir").mode() & 0o7777, 0o750);
    assert_eq!(
        (layer.text("dir/kept"), layer.text("file"), layer.text("other")),
        ("1".into(), "two".into(), "one".into())
    );
    assert_eq!(
        (layer.text("gone"), layer.text("link")),
        ("now a file".into(), "now a file".into())
    );
    assert!(layer.stat("back").is_dir() && layer.stat("same").nlink() == 2);
    assert!(!layer.result.unwrap().implied.contains(&b"gone/below".to_vec()));
}

#[test]
fn a_directory_that_gives_way_takes_its_open_descriptor_along() {
    let layer = Layer::of(
        &Tar::default()
            .file("a/one", b"")
            .symlink("a", "b")
            .directory("b", 0o755)
            .file("a/two", b"")
            .end(),
    );
    assert!(layer.stat("b/two").is_file() && !layer.path("b/one").exists());
}

#[test]
fn whiteouts_hide_lower_layers_and_never_their_own() {
    let layer = Layer::of(
        &Tar::default()
            .file(".wh.top", b"")
            .file("etc/.wh.passwd", b"")
            .file("both", b"mine")
            .file(".wh.both", b"")
            .file(".wh.early", b"")
            .file("early", b"mine")
            .file(".wh.replaced", b"")
            .directory("replaced", 0o755)
            .directory("again", 0o755)
            .file("again/kept", b"")
            .file(".wh.again", b"")
            .file(".wh.implied", b"")
            .file("implied/file", b"")
            .file("opaque/before", b"")
            .file("opaque/.wh..wh..opq", b"")
            .file("opaque/after", b"")
            .hard_link("aufs/.wh.style", ".wh..wh.aufs")
            .end(),
    );
    for name in ["top", "etc/passwd", "aufs/style"] {
        assert!(layer.is_whiteout(name), "{name}");
    }
    assert_eq!((layer.text("both"), layer.text("early")), ("mine".into(), "mine".into()));
    for name in ["replaced", "again", "implied", "opaque"] {
        assert!(layer.is_opaque(name), "{name}");
    }
    for name in ["again/kept", "implied/file", "opaque/before", "opaque/after"] {
        assert!(layer.stat(name).is_file(), "{name}");
    }
    assert!(!layer.path(".wh.top").exists() && !layer.is_opaque("etc"));
}

#[test]
fn names_that_look_like_whiteouts_and_are_none_are_refused() {
    for name in [
        ".wh.",
        ".wh..",
        ".wh...",
        ".wh..wh.",
        ".wh..wh.plnk",
        ".wh..wh..opq2",
        "a/.wh..wh.aufs",
        ".wh.a/b",
        "x/.wh.y/z",
    ] {
        let error = Layer::of(&Tar::default().file(name, b"").end()).error();
        assert!(matches!(error, ApplyError::Whiteout { .. }), "{name}: {error}");
    }
    let error = Layer::of(&Tar::default().directory(".wh.a", 0o755).end()).error();
    assert!(matches!(error, ApplyError::Whiteout { .. }), "{error}");
}

#[test]
fn hard_links_stay_in_their_layer() {
    for tar in [
        Tar::default().hard_link("a", "missing"),
        Tar::default().hard_link("a", "no/such/thing"),
        Tar::default().directory("d", 0o755).hard_link("a", "d"),
        Tar::default().hard_link("a", "./"),
        Tar::default().file(".wh.w", b"").hard_link("a", "w"),
        Tar::default().file("f", b"").hard_link("a", "f/x"),
    ] {
        let error = Layer::of(&tar.end()).error();
        assert!(matches!(error, ApplyError::HardLink { .. }), "{error}");
    }
    let layer = Layer::of(&Tar::default().symlink("s", "/etc/shadow").hard_link("t", "s").end());
    assert!(layer.stat("t").is_symlink());
}

#[test]
fn only_attributes_that_belong_to_the_file_are_kept() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = Layer::of(
        &Tar::default()
            .pax(&[
                ("SCHILY.xattr.user.note", b"\0x\n"),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("SCHILY.xattr.security.capability", &capability),
                ("SCHILY.xattr.security.selinux", b"label"),
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                ("SCHILY.xattr.trusted.other", b"y"),
                ("SCHILY.xattr.", b"y"),
                ("SCHILY.xattr.user.", b"y"),
            ])
            .raw(b'0', b"file", b"", |header| header.set_uid(5))
            .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y"), ("SCHILY.xattr.user.dir", b"1")])
            .directory("dir", 0o755)
            .pax(&[("SCHILY.xattr.user.onlink", b"y")])
            .symlink("link", "x")
            .end(),
    );
    layer.stat("file");
    assert_eq!(layer.xattr("file", "user.note").as_deref(), Some(&b"\0x\n"[..]));
    assert_eq!(layer.xattr("file", "security.capability").as_deref(), Some(&capability[..]));
    for key in [
        "user.overlay.opaque",
        "security.selinux",
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.other",
    ] {
        assert_eq!(layer.xattr("file", key), None, "{key}");
    }
    assert!(!layer.is_opaque("dir") && layer.xattr("dir", "user.dir").is_some());
    for records in [
        pax_records(&[(&format!("SCHILY.xattr.user.{}", "n".repeat(300)), b"x")]),
        pax_records(&[("SCHILY.xattr.security.capability", b"nonsense")]),
        pax_records(&[("SCHILY.xattr.user.big", &vec![b'x'; 100_000])]),
    ] {
        let error =
            Layer::of(&Tar::default().raw(b'x', b"", &records, |_| {}).file("file", b"").end())
                .error();
        assert!(matches!(error, ApplyError::Field { field: "attribute", .. }), "{error}");
    }
}

#[test]
fn sparse_files_keep_their_holes_in_all_four_formats() {
    let length = 1 << 30;
    let one_zero = {
        let mut data = format!("2\n0\n4\n{}\n4\n", length - 4).into_bytes();
        data.resize(512, 0);
        data.extend_from_slice(b"headtail");
        data
    };
    let tail = (length - 4).to_string();
    let total = length.to_string();
    let map = format!("0,4,{tail},4");
    let layer = Layer::of(
        &Tar::default()
            .raw(b'S', b"old", b"headtail", |header| {
                let gnu = header.as_gnu_mut().unwrap();
                gnu.sparse[0].set_offset(0);
                gnu.sparse[0].set_length(4);
                gnu.sparse[1].set_offset(length - 4);
                gnu.sparse[1].set_length(4);
                gnu.set_real_size(length);
            })
            .pax(&[
                ("GNU.sparse.size", total.as_bytes()),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"0"),
                ("GNU.sparse.numbytes", b"4"),
                ("GNU.sparse.offset", tail.as_bytes()),
                ("GNU.sparse.numbytes", b"4"),
            ])
            .file("pax00", b"headtail")
            .pax(&[
                ("GNU.sparse.size", total.as_bytes()),
                ("GNU.sparse.map", map.as_bytes()),
                ("GNU.sparse.name", b"pax01"),
            ])
            .file("GNUSparseFile.1/pax01", b"headtail")
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"pax10"),
                ("GNU.sparse.realsize", total.as_bytes()),
            ])
            .file("GNUSparseFile.1/pax10", &one_zero)
            .file("after", b"next")
            .end(),
    );
    for name in ["old", "pax00", "pax01", "pax10"] {
        let stat = layer.stat(name);
        assert!(
            stat.len() == length && stat.blocks() < 100,
            "{name}: {} {}",
            stat.len(),
            stat.blocks()
        );
        let file = std::fs::File::open(layer.path(name)).unwrap();
        let mut ends = [[0_u8; 4]; 2];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut ends[0], 0).unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut ends[1], length - 4).unwrap();
        assert_eq!(ends, [*b"head", *b"tail"], "{name}");
    }
    assert_eq!(layer.text("after"), "next");
}

#[test]
fn sparse_maps_that_lie_or_have_no_end_are_refused() {
    let pax =
        |records: &[(&str, &[u8])], data: &[u8]| Tar::default().pax(records).file("f", data).end();
    let mut many = vec![0; 512];
    many[..8].copy_from_slice(b"9999999\n");
    for bytes in [
        pax(
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"9"),
            ],
            &many,
        ),
        pax(
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"9"),
            ],
            b"1\n0\n",
        ),
        pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")], b"0\n"),
        pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.realsize", b"9")], b""),
        pax(&[("GNU.sparse.map", b"0,9"), ("GNU.sparse.size", b"9")], b"too short"[..5].as_ref()),
        pax(&[("GNU.sparse.map", b"0,1,x"), ("GNU.sparse.size", b"9")], b"1"),
        pax(&[("GNU.sparse.numbytes", b"1")], b"1"),
        Tar::default()
            .raw(b'S', b"f", b"1234", |header| header.as_gnu_mut().unwrap().set_real_size(9))
            .end(),
    ] {
        let error = Layer::of(&bytes).error();
        assert!(matches!(error, ApplyError::Archive { .. }), "{error}");
    }
    let huge = (i64::MAX).to_string();
    let error =
        Layer::of(&pax(&[("GNU.sparse.map", b""), ("GNU.sparse.size", huge.as_bytes())], b""))
            .error();
    assert!(matches!(error, ApplyError::Field { field: "size", .. }), "{error}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn archives_that_readers_could_take_differently_are_refused() {
    let smuggled = Tar::default().file("smuggled", b"x").end();
    let lone_zero = {
        let mut bytes = Tar::default().file("a", b"").0;
        bytes.resize(bytes.len() + 512, 0);
        bytes.extend(Tar::default().file("b", b"").end());
        bytes
    };
    let mut bad_sum = Tar::default().file("a", b"").end();
    bad_sum[0] = b'b';
    let mut cut_header = Tar::default().file("a", b"").0;
    cut_header.truncate(300);
    let mut cut_data = Tar::default().file("a", &[1; 2000]).0;
    cut_data.truncate(1000);
    for (what, bytes) in [
        ("lone zero block", lone_zero),
        ("checksum", bad_sum),
        ("cut header", cut_header),
        ("cut data", cut_data),
        (
            "two long names",
            Tar::default()
                .raw(b'L', b"", b"a\0", |_| {})
                .raw(b'L', b"", b"b\0", |_| {})
                .file("x", b"")
                .end(),
        ),
        (
            "two extended headers",
            Tar::default().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("x", b"").end(),
        ),
        (
            "two names",
            Tar::default()
                .raw(b'L', b"", b"a\0", |_| {})
                .pax(&[("path", b"b")])
                .file("x", b"")
                .end(),
        ),
        ("nothing follows", Tar::default().pax(&[("path", b"a")]).end()),
        (
            "global size",
            Tar::default()
                .raw(b'g', b"", &pax_records(&[("size", b"512")]), |_| {})
                .file("x", b"")
                .end(),
        ),
        (
            "global path",
            Tar::default()
                .raw(b'g', b"", &pax_records(&[("path", b"x")]), |_| {})
                .file("x", b"")
                .end(),
        ),
        ("pax size beyond", Tar::default().pax(&[("size", b"99999999999")]).file("x", b"").end()),
        (
            "header too large",
            Tar::default().raw(b'x', b"", &vec![b' '; (1 << 20) + 1], |_| {}).end(),
        ),
    ] {
        let error = Layer::of(&bytes).error();
        assert!(matches!(error, ApplyError::Archive { .. }), "{what}: {error}");
    }
    for kind in *b"123456" {
        let tar = Tar::default().file("t", b"").raw(kind, b"x", &smuggled, |header| {
            header.set_link_name("t").unwrap();
            header.set_device_major(1).unwrap();
            header.set_device_minor(1).unwrap();
        });
        let error = Layer::of(&tar.end()).error();
        assert!(
            matches!(error, ApplyError::Field { field: "size", .. }),
            "{}: {error}",
            char::from(kind)
        );
    }
}

#[test]
fn the_extended_size_counts_and_nothing_is_smuggled_past_it() {
    let inner = Tar::default().file("smuggled", b"x").0;
    let size = inner.len().to_string();
    let layer = Layer::of(
        &Tar::default()
            .pax(&[("size", size.as_bytes())])
            .raw(b'0', b"outer", &inner, |header| header.set_size(0))
            .end(),
    );
    assert_eq!(layer.stat("outer").len(), inner.len() as u64);
    assert!(!layer.path("smuggled").exists());
}

#[test]
fn a_global_comment_is_harmless_and_data_behind_the_end_is_ignored() {
    let mut bytes = Tar::default()
        .raw(b'g', b"pax_global_header", &pax_records(&[("comment", b"0123")]), |_| {})
        .file("a", b"x")
        .end();
    bytes.extend(Tar::default().file("hidden", b"").end());
    let layer = Layer::of(&bytes);
    assert!(layer.text("a") == "x" && !layer.path("hidden").exists());
    Layer::of(b"").stat("");
}

#[test]
fn values_that_cannot_be_kept_are_refused_by_name() {
    for (tar, field) in [
        (Tar::default().raw(b'V', b"x", b"", |_| {}), "type"),
        (Tar::default().pax(&[("uid", b"4294967295")]).file("x", b""), "owner"),
        (Tar::default().pax(&[("gid", b"4294967296")]).file("x", b""), "group"),
        (Tar::default().raw(b'2', b"x", b"", |_| {}), "link target"),
    ] {
        let error = Layer::of(&tar.end()).error();
        assert!(
            matches!(&error, ApplyError::Field { field: found, .. } if *found == field),
            "{error}"
        );
    }
    let name = "n".repeat(256);
    for path in [name.as_str(), &"a/".repeat(3000), &"x".repeat(65_536)] {
        let error =
            Layer::of(&Tar::default().pax(&[("path", path.as_bytes())]).file("x", b"").end())
                .error();
        assert!(
            matches!(error, ApplyError::BadName { .. }) && error.to_string().len() < 500,
            "{error}"
        );
    }
    let error = Layer::of(&Tar::default().file("./", b"").end()).error();
    assert!(matches!(error, ApplyError::BadName { .. }), "{error}");
}

#[test]
fn counts_and_names_have_bounds() {
    let mut tar = Tar::default();
    for number in 0..20 {
        tar = tar.directory(&format!("directory-{number}"), 0o755);
    }
    let bytes = tar.end();
    let error = Layer::bounded(&bytes, &Limits { entries: 10, ..Limits::default() }).error();
    assert!(matches!(error, ApplyError::Limit { limit: 10, .. }), "{error}");
    let error =
        Layer::bounded(&bytes, &Limits { directory_name_bytes: 100, ..Limits::default() }).error();
    assert!(matches!(error, ApplyError::Limit { limit: 100, .. }), "{error}");
}

#[test]
fn what_gnu_tar_packs_it_and_we_unpack_alike() {
    let source = tempfile::tempdir().unwrap();
    let script = r#"
        cd "$1" && mkdir -p a/b "$(printf 'long%.0s' $(seq 50))/$(printf 'name%.0s' $(seq 40))" && echo x > a/b/file && ln a/b/file a/link
        ln -s ../nowhere a/sym && mkfifo a/fifo && mknod a/dev c 1 5 && chmod 4711 a/b/file && chown 12:34 a
        truncate -s 5M a/sparse && echo end >> a/sparse && touch -d @-5.25 a/old && chmod 1777 a/b
        printf y > "$(printf 'nl\nname')" && touch "$(printf 'deep%.0s' $(seq 20))"
    "#;
    let done = std::process::Command::new("bash")
        .args(["-ec", script, "-"])
        .arg(source.path())
        .status()
        .unwrap();
    assert!(done.success());
    let listing = |root: &Path| {
        let format = "%P %y %m %U %G %s %n %l %T@\\0";
        let output = std::process::Command::new("find")
            .arg(root)
            .args(["-mindepth", "1", "-printf", format])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
        // A directory's size is the filesystem's own business.
        for line in &mut lines {
            if line.contains(" d ") {
                *line = line
                    .split(' ')
                    .enumerate()
                    .filter(|(at, _)| *at != 5)
                    .map(|(_, word)| word)
                    .collect::<Vec<_>>()
                    .join(" ");
            }
        }
        lines.sort();
        lines
    };
    for format in ["gnu", "pax"] {
        let mut command = std::process::Command::new("tar");
        let output = command
            .args(["--sparse", "--format", format, "-cf", "-", "-C"])
            .arg(source.path())
            .arg(".")
            .output()
            .unwrap();
        let layer = Layer::of(&output.stdout);
        layer.stat("");
        let (mut ours, mut theirs) = (listing(&layer.path("")), listing(source.path()));
        if format == "gnu" {
            // That format has no fractions.
            let whole = |line: &String| line.rsplit_once('.').unwrap().0.to_owned();
            let is_old = |line: &String| line.starts_with("a/old ");
            ours = ours.iter().filter(|line| !is_old(line)).map(whole).collect();
            theirs = theirs.iter().filter(|line| !is_old(line)).map(whole).collect();
        }
        assert_eq!(ours, theirs, "{format}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_archives_are_refused_or_applied_but_never_panic(
        at in proptest::collection::vec((0_usize..6000, any::<u8>()), 1..12), cut in 0_usize..7000
    ) {
        let mut bytes = Tar::default()
            .pax(&[("path", b"a/b"), ("SCHILY.xattr.user.x", b"y")])
            .file("x", b"data")
            .symlink("l", "a")
            .raw(b'S', b"s", b"1234", |header| {
                let gnu = header.as_gnu_mut().unwrap();
                gnu.sparse[0].set_offset(0);
                gnu.sparse[0].set_length(4);
                gnu.set_real_size(100);
            })
            .hard_link("h", "s")
            .file(".wh.w", b"")
            .end();
        for (place, byte) in at {
            if let Some(target) = bytes.get_mut(place) { *target = byte; }
        }
        // With right checksums, so that the damage gets further than the first header.
        for block in bytes.chunks_exact_mut(512) {
            if block[257..262] == *b"ustar" {
                let mut header = tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        bytes.truncate(cut);
        let _either = Layer::of(&bytes);
    }
}
