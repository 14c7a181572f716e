//! The images that tests, the demo and critest pull.
//!
//! Owns their list. All stand on one layer made of Debian's busybox: the dynamic one, every applet a *hard* link to it as in the
//! image of that name (masking one path must not hide the others, and the static build runs applets inside its shell), with
//! the libraries that its loader asks for.
//!
//! Made once per version of this code and kept in the cache folder; a lock file keeps two processes from making them at once.

mod critest;

use super::builder::{Built, Compression, ImageBuilder, architecture, push_index};
use super::debian::{package, run};
use super::tree::Tree;
use crate::registry::{Digest, Store, write_whole};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is in the cache comes from this code: another code, another directory.
const SOURCES: [&str; 5] = [
    include_str!("catalog.rs"),
    include_str!("catalog/critest.rs"),
    include_str!("builder.rs"),
    include_str!("layer.rs"),
    include_str!("tree.rs"),
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
davit:x:1234:1235:davit:/home/davit:/bin/sh
nobody:x:65534:65534:nobody:/home:/bin/false
";

const GROUP: &str = "root:x:0:
daemon:x:1:
www-data:x:33:
davit:x:1235:
extra:x:4000:davit
nogroup:x:65534:
";

/// The folder for what is made or downloaded once: `DAVIT_CACHE`, else `.cache/davit` in the home directory.
#[must_use]
pub fn cache() -> PathBuf {
    if let Some(dir) = std::env::var_os("DAVIT_CACHE") {
        return PathBuf::from(dir);
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    home.join(".cache/davit")
}

/// The directory of the store with all images, made first if need be.
///
/// # Errors
/// If a package cannot be fetched or the cache cannot be written.
pub fn ensure(cache: &Path) -> Result<PathBuf> {
    let version = Digest::of(SOURCES.concat().as_bytes());
    let dir = cache.join(format!("images-{}", version.hex().get(..12).unwrap_or_default()));
    std::fs::create_dir_all(cache).with_context(|| format!("make {}", cache.display()))?;
    let lock = File::create(cache.join("images.lock")).context("open the images' lock file")?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .context("lock the images")?;
    if !dir.join("complete").is_file() {
        build(cache, &dir)?;
        write_whole(&dir.join("complete"), b"")?;
    }
    Ok(dir)
}

/// Makes all images in the store at `dir`; also `base.tar` there, the layer that they stand on.
///
/// # Errors
/// If a package cannot be fetched or the store cannot be written.
pub fn build(cache: &Path, dir: &Path) -> Result<()> {
    let store = Store::open(dir)?;
    let busybox = busybox_tree(cache)?;
    let base = busybox.layer().archive()?;
    write_whole(&dir.join("base.tar"), &base)?;
    let plain = busybox_image(&base)?;
    packings(&store, &base)?;
    users(&store, &plain)?;
    configured(&store, &plain)?;
    critest::build(cache, &store, &busybox, &plain)
}

/// An image builder that starts with the busybox layer of the images at `dir` (what [`ensure`] gave).
///
/// # Errors
/// If the layer cannot be read.
pub fn busybox(dir: &Path) -> Result<ImageBuilder> {
    let path = dir.join("base.tar");
    busybox_image(&std::fs::read(&path).with_context(|| format!("read {}", path.display()))?)
}

fn busybox_image(base: &[u8]) -> Result<ImageBuilder> {
    Ok(ImageBuilder::new().archive(base)?.set("Cmd", vec!["sh"]))
}

/// The same image in every packing.
fn packings(store: &Store, base: &[u8]) -> Result<()> {
    let gzip = busybox_image(base)?;
    let zstd =
        ImageBuilder::new().compression(Compression::Zstd).archive(base)?.set("Cmd", vec!["sh"]);
    let plain =
        ImageBuilder::new().compression(Compression::None).archive(base)?.set("Cmd", vec!["sh"]);
    zstd.push(store, "davit-test/busybox", &["zstd"])?;
    plain.push(store, "davit-test/busybox", &["plain"])?;
    gzip.clone().docker().push(store, "davit-test/busybox", &["docker"])?;
    gzip.push(store, "davit-test/busybox", &["latest", "gzip", "one", "two", "three"])?;
    indexed(store, &gzip, "davit-test/busybox", &["index"])?;
    indexed(store, &gzip, "library/busybox", &["latest", "1", "1.37", "1.37.0"])?;
    indexed(store, &gzip, "e2e-test-images/busybox", &["1.29-2", "1.29-4", "1.36.1-1"])?;
    Ok(())
}

/// An index with the image for this machine, and one for another architecture that must not be taken.
pub(super) fn indexed(
    store: &Store,
    image: &ImageBuilder,
    repository: &str,
    tags: &[&str],
) -> Result<Built> {
    let (here, elsewhere) =
        if architecture() == "arm64" { ("arm64", "amd64") } else { (architecture(), "arm64") };
    let right = image.build(store, repository)?;
    let wrong = ImageBuilder::new()
        .layer(|layer| {
            layer.file("wrong-architecture", "");
        })?
        .set_top("architecture", elsewhere)
        .build(store, repository)?;
    for tag in tags {
        push_index(store, repository, tag, &[(elsewhere, &wrong), (here, &right)])?;
    }
    Ok(right)
}

/// Every form in which an image can name its user.
fn users(store: &Store, image: &ImageBuilder) -> Result<()> {
    for (tag, user) in [
        ("uid", "1234"),
        ("name", "davit"),
        ("uid-gid", "1234:4001"),
        ("name-group", "davit:extra"),
        ("name-gid", "davit:4001"),
        ("unlisted-uid", "4242"),
        ("unknown-name", "nobody-knows"),
        ("unknown-group", "davit:nobody-knows"),
    ] {
        image.clone().set("User", user).push(store, "davit-test/user", &[tag])?;
    }
    Ok(())
}

/// An image whose configuration says all that one can say.
fn configured(store: &Store, image: &ImageBuilder) -> Result<()> {
    image
        .clone()
        .layer(|layer| {
            layer.program("entry", "#!/bin/sh\necho \"entry $*\"\nexec sleep 1000\n");
            layer.directory("work").directory("volume").file("volume/from-image", "kept\n");
        })?
        .set("Entrypoint", vec!["/entry"])
        .set("Cmd", vec!["one", "two"])
        .set("Env", vec!["PATH=/bin", "FROM_IMAGE=image", "SHADOWED=image"])
        .set("WorkingDir", "/work")
        .set("User", "davit")
        .set("StopSignal", "SIGUSR1")
        .set("Volumes", serde_json::json!({"/volume": {}}))
        .set("Labels", serde_json::json!({"made.by": "davit-e2e"}))
        .push(store, "davit-test/configured", &["latest"])?;
    Ok(())
}

/// What a file tree with busybox consists of.
fn busybox_tree(cache: &Path) -> Result<Tree> {
    let loader = Loader::new(cache)?;
    let program = package(cache, "busybox")?.join("bin/busybox");
    let mut tree = Tree::new();
    for (path, mode) in [
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("home/davit", 0o755),
        ("proc", 0o755),
        ("root", 0o700),
        ("run", 0o755),
        ("sys", 0o755),
        ("tmp", 0o1777),
        ("usr/sbin", 0o755),
        ("var/tmp", 0o1777),
        ("var/www", 0o755),
    ] {
        tree.directory(path, mode);
    }
    tree.file("etc/passwd", PASSWD, 0o644).file("etc/group", GROUP, 0o644);
    tree.symlink("var/run", "/run");
    tree.copy_file(&program, "bin/busybox")?;
    let list = run(loader.command(&program).arg("--list"))?;
    for applet in list.lines().filter(|applet| *applet != "busybox") {
        tree.hard_link(&format!("bin/{applet}"), "bin/busybox");
    }
    if !tree.has("bin/sh") {
        bail!("Debian's busybox has no `sh`: {list}");
    }
    tree.hard_link("usr/bin/env", "bin/busybox");
    loader.add_libraries(&mut tree, &program)?;
    // Debian's busybox has no pgrep.
    let pgrep =
        "#!/bin/sh\npids=$(pidof \"$@\") || exit 1\nfor pid in $pids; do echo \"$pid\"; done\n";
    tree.file("bin/pgrep", pgrep, 0o755);
    let util_linux = package(cache, "util-linux")?;
    for tool in ["ipcs", "ipcmk"] {
        let path = util_linux.join("usr/bin").join(tool);
        tree.copy_file(&path, &format!("bin/{tool}"))?;
        loader.add_libraries(&mut tree, &path)?;
    }
    Ok(tree)
}

/// The dynamic loader of Debian's libc6, which runs programs of packages that are not installed and tells their libraries.
struct Loader {
    program: PathBuf,
    /// Where programs expect the loader, without the leading `/`.
    installed: &'static str,
    triplet: &'static str,
    path: String,
}

impl Loader {
    fn new(cache: &Path) -> Result<Self> {
        let (triplet, installed) = match std::env::consts::ARCH {
            "x86_64" => ("x86_64-linux-gnu", "lib64/ld-linux-x86-64.so.2"),
            "aarch64" => ("aarch64-linux-gnu", "lib/ld-linux-aarch64.so.1"),
            other => bail!("no images are made for {other}"),
        };
        let mut dirs = Vec::new();
        for name in ["libc6", "libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g"] {
            let tree = package(cache, name)?;
            for lib in ["lib", "usr/lib"] {
                dirs.push(tree.join(lib).join(triplet).to_string_lossy().into_owned());
            }
        }
        let file = Path::new(installed).file_name().context("the loader has no name")?;
        let program = package(cache, "libc6")?.join("lib").join(triplet).join(file);
        Ok(Self { program, installed, triplet, path: dirs.join(":") })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--library-path").arg(&self.path).arg(program);
        command
    }

    /// Puts the loader and all libraries of `program` into the tree.
    fn add_libraries(&self, tree: &mut Tree, program: &Path) -> Result<()> {
        tree.copy_file(&self.program, self.installed)?;
        let mut list = Command::new(&self.program);
        list.args(["--library-path", &self.path, "--list"]).arg(program);
        for line in run(&mut list)?.lines() {
            let Some((name, rest)) = line.trim().split_once(" => ") else { continue };
            let source = Path::new(rest.split(" (").next().unwrap_or(rest));
            if !name.starts_with('/') {
                tree.copy_file(source, &format!("lib/{}/{name}", self.triplet))?;
            }
        }
        Ok(())
    }
}
