//! A Debian system to install packages in: this machine's own files, below an overlay.
//!
//! Owns the mount namespace that it is in, which a process of its own holds: with that all of it is gone, also if the test is killed. What is changed lands in a
//! tmpfs and can be listed. `/run`, `/tmp` and `/proc` are its own; systemd does not run in there, and `systemctl` only notes what it was asked
//! for ([`Chroot::asked`]), but for what it can do without.

use crate::disk::LET_GO;
use crate::tools;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Makes the mounts below `$0`, says so, and stays.
const MOUNTS: &str = r#"set -e
mount -t tmpfs -o mode=0755 tmpfs "$0"
mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" overlay "$0/root"
cd "$0/root"
mount -t proc proc proc
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount --rbind /dev dev
echo mounted
exec sleep infinity"#;

/// In the place of `systemctl`, whose own program is beside it.
const SYSTEMCTL: &str = r#"#!/bin/sh
case " $* " in
*" is-enabled "* | *" preset "*) exec /run/systemctl --root=/ "$@" ;;
*" is-active "*) exit 3 ;;
esac
echo "$*" >> /run/asked
"#;

/// Makes it look as if systemd ran, and lets packages start things: some images of Debian don't.
const SYSTEMD: &str = r#"set -e
mkdir -p /run/systemd/system
cp /usr/bin/systemctl /run/systemctl
rm -f /usr/bin/systemctl /usr/sbin/policy-rc.d
cat > /usr/bin/systemctl
chmod 755 /usr/bin/systemctl"#;

/// See the module.
#[derive(Debug)]
pub struct Chroot {
    holder: Child,
    root: PathBuf,
    upper: PathBuf,
    _dir: tempfile::TempDir,
}

impl Chroot {
    /// Makes one.
    ///
    /// # Errors
    /// If its mounts can't be made.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("dt").tempdir_in("/tmp")?;
        let mut holder = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                &format!("own=$0; {LET_GO}{MOUNTS}"),
            ])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start who holds the mounts")?;
        let said = holder.stdout.take().context("its output is a pipe")?;
        let seen = PathBuf::from(format!("/proc/{}/root{}", holder.id(), dir.path().display()));
        let (root, upper) = (seen.join("root"), seen.join("upper"));
        let chroot = Self { holder, root, upper, _dir: dir };
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        ensure!(line == "mounted\n", "the mounts could not be made");
        let mut systemd = chroot.command("sh");
        systemd.args(["-c", SYSTEMD]).stdin(Stdio::piped());
        let mut child = systemd.spawn()?;
        let mut input = child.stdin.take().context("its input is a pipe")?;
        std::io::Write::write_all(&mut input, SYSTEMCTL.as_bytes())?;
        drop(input);
        ensure!(child.wait()?.success(), "systemctl could not be replaced");
        Ok(chroot)
    }

    /// A file in there, as the test sees it.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// A program of it, with an environment as a root shell has it.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--mount").arg("--target").arg(self.holder.id().to_string());
        // Seen from inside, the mounts are where they were made.
        let visible = self.root.strip_prefix(format!("/proc/{}/root", self.holder.id()));
        command.arg("chroot").arg(Path::new("/").join(visible.unwrap_or(&self.root)));
        command.args([
            "env",
            "-i",
            "HOME=/root",
            "LC_ALL=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
        ]);
        command.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a program of it.
    ///
    /// # Errors
    /// If it can't be run, or fails: with all that it wrote.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let output = self.command(program).args(arguments).output()?;
        if !output.status.success() {
            bail!("{program} {arguments:?}: {}", tools::describe(&output));
        }
        Ok(output)
    }

    /// What systemd was asked to do since this was called last, without options; what it was asked twice in a row is there once.
    ///
    /// # Errors
    /// If that can't be read.
    pub fn asked(&self) -> Result<Vec<String>> {
        let path = self.path("/run/asked");
        let text = crate::host::read_optional(&path)?.unwrap_or_default();
        if !text.is_empty() {
            std::fs::remove_file(&path)?;
        }
        let words = |line: &str| -> Vec<String> {
            line.split(' ').filter(|word| !word.starts_with('-')).map(str::to_owned).collect()
        };
        let mut asked: Vec<String> = text.lines().map(|line| words(line).join(" ")).collect();
        asked.dedup();
        Ok(asked)
    }

    /// Every file and directory that is there or gone, unlike on this machine.
    ///
    /// # Errors
    /// If they can't be listed.
    pub fn changed(&self) -> Result<BTreeSet<String>> {
        let (mut found, mut waiting) = (BTreeSet::new(), vec![self.upper.clone()]);
        while let Some(directory) = waiting.pop() {
            for entry in std::fs::read_dir(&directory)? {
                let path = entry?.path();
                let inside = Path::new("/").join(path.strip_prefix(&self.upper)?);
                let is_directory = std::fs::symlink_metadata(&path)?.is_dir();
                // One that is there already is only passed through.
                if !is_directory || !inside.is_dir() {
                    found.insert(inside.to_string_lossy().into_owned());
                }
                if is_directory {
                    waiting.push(path);
                }
            }
        }
        Ok(found)
    }
}

impl Drop for Chroot {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
