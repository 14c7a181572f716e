use super::*;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

struct Stack(tempfile::TempDir, Vec<PathBuf>);

impl Stack {
    /// Layers named from the top.
    fn new(layers: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let paths: Vec<_> = layers.iter().map(|name| root.path().join(name)).collect();
        for path in &paths {
            std::fs::create_dir(path).unwrap();
        }
        Self(root, paths)
    }

    fn at(&self, path: &str) -> PathBuf {
        let place = self.0.path().join(path);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        place
    }

    fn file(&self, path: &str, text: &str) {
        use std::io::Write;
        std::fs::File::create(self.at(path)).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn node(&self, path: &str, kind: FileType) {
        rustix::fs::mknodat(CWD, self.at(path), kind, Mode::RUSR, 0).unwrap();
    }

    fn opaque(&self, path: &str) {
        rustix::fs::setxattr(self.at(path), OPAQUE, b"y", rustix::fs::XattrFlags::empty()).unwrap();
    }

    fn read(&self, path: &str) -> io::Result<Option<String>> {
        let bytes = LayerView::new(&self.1).read(path, 100)?;
        Ok(bytes.map(|bytes| String::from_utf8(bytes).unwrap()))
    }

    fn text(&self, path: &str) -> Option<String> {
        self.read(path).unwrap()
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn the_view_is_what_overlayfs_shows() {
    let stack = Stack::new(&["top", "middle", "bottom"]);
    for (path, text) in [
        ("bottom/etc/passwd", "old"),
        ("middle/etc/passwd", "new"),
        ("bottom/etc/group", "group"),
        ("bottom/gone", "x"),
        ("bottom/opaque/below", "x"),
        ("middle/opaque/above", "x"),
        ("bottom/dir/deep/file", "x"),
        ("middle/dir", "a file now"),
        ("bottom/back/old", "x"),
        ("top/back/new", "x"),
        ("bottom/usr/lib/x", "linked"),
        ("top/usr/other", "y"),
    ] {
        stack.file(path, text);
    }
    stack.node("top/gone", FileType::CharacterDevice);
    stack.node("middle/back", FileType::CharacterDevice);
    stack.opaque("middle/opaque");
    for (link, target) in [
        ("bottom/lib", "usr/lib"),
        ("bottom/abs", "/etc"),
        ("bottom/up", "../../../../etc/group"),
        ("bottom/usr/rel", "../etc/passwd"),
        ("bottom/host", "/etc/hostname"),
        ("bottom/nowhere", "missing"),
    ] {
        symlink(target, stack.at(link)).unwrap();
    }
    let target = stack.0.path().join("merged");
    std::fs::create_dir(&target).unwrap();
    let lower = stack.1.iter().map(|path| path.to_str().unwrap()).collect::<Vec<_>>().join(":");
    let options = std::ffi::CString::new(format!("lowerdir={lower}")).unwrap();
    rustix::mount::mount(
        "overlay",
        &target,
        "overlay",
        rustix::mount::MountFlags::RDONLY,
        Some(options.as_c_str()),
    )
    .unwrap();
    let mut compared = Vec::new();
    for path in [
        "etc/passwd",
        "etc/group",
        "gone",
        "opaque/below",
        "opaque/above",
        "dir",
        "dir/deep/file",
        "back/old",
        "back/new",
        "lib/x",
        "usr/lib/x",
        "usr/other",
        "usr/rel",
        "missing",
        "etc/missing",
        "etc/passwd/x",
        "nowhere",
    ] {
        compared.push((path, stack.text(path), std::fs::read_to_string(target.join(path)).ok()));
    }
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH).unwrap();
    for (path, ours, kernels) in compared {
        assert_eq!(ours, kernels, "{path}");
    }
    // Links that lead out of a mount lead into the host there, and stay inside here.
    assert_eq!(
        (stack.text("abs/group"), stack.text("up"), stack.text("/../etc/passwd")),
        (Some("group".into()), Some("group".into()), Some("new".into()))
    );
    assert_eq!(stack.text("host"), None);
}

#[test]
fn what_is_no_small_file_is_refused_at_once() {
    let stack = Stack::new(&["top"]);
    stack.node("top/fifo", FileType::Fifo);
    stack.node("top/socket", FileType::Socket);
    stack.file("top/large", &"x".repeat(101));
    stack.file("top/fits", &"x".repeat(100));
    stack.at("top/dir/x");
    rustix::fs::mknodat(
        CWD,
        stack.at("top/zero"),
        FileType::CharacterDevice,
        Mode::RUSR,
        rustix::fs::makedev(1, 5),
    )
    .unwrap();
    std::fs::File::create(stack.at("top/sparse")).unwrap().set_len(4 << 30).unwrap();
    for (link, target) in [
        ("loop", "loop"),
        ("a", "b/x"),
        ("b", "a/x"),
        ("tozero", "/zero"),
        ("wide", "x/x/x/x/x/wide"),
    ] {
        symlink(target, stack.at(&format!("top/{link}"))).unwrap();
    }
    let started = Instant::now();
    for (path, reason) in [
        ("fifo", "no regular file"),
        ("socket", "no regular file"),
        ("zero", "no regular file"),
        ("tozero", "no regular file"),
        ("large", "too large"),
        ("sparse", "too large"),
        ("dir", "is a directory"),
        ("", "is a directory"),
        ("/", "is a directory"),
        ("loop", "too many links"),
        ("a", "too many links"),
    ] {
        let error = stack.read(path).unwrap_err();
        assert!(error.to_string().contains(reason), "{path}: {error}");
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(stack.text("fits").unwrap().len(), 100);
    assert_eq!((stack.text(&"n".repeat(300)), stack.text("wide")), (None, None));
}

#[test]
fn a_directory_is_told_from_what_is_none_through_links_and_layers() {
    let stack = Stack::new(&["top", "bottom"]);
    for path in ["bottom/dir/sub/file", "bottom/gone/file", "top/dir/other"] {
        stack.file(path, "x");
    }
    stack.node("top/gone", FileType::CharacterDevice);
    symlink("/dir", stack.at("top/link")).unwrap();
    symlink("../../../etc", stack.at("top/up")).unwrap();
    symlink("loop", stack.at("top/loop")).unwrap();
    let view = LayerView::new(&stack.1);
    for (path, expected) in [
        ("dir", Some(true)),
        ("/dir/./sub/", Some(true)),
        ("link/sub", Some(true)),
        ("", Some(true)),
        ("dir/other", Some(false)),
        ("link/sub/file", Some(false)),
        ("dir/none", None),
        ("dir/other/none", None),
        ("gone", None),
        // The host has one.
        ("up", None),
    ] {
        assert_eq!(view.is_directory(path).unwrap(), expected, "{path}");
    }
    assert!(view.is_directory("loop").is_err());
}
