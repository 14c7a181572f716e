//! A disk of a test's own, whose power can be cut.
//!
//! Owns a file with an ext4 filesystem, mounted by way of a loop device. A cut is the kernel's own: `EXT4_IOC_SHUTDOWN` without a flush, which is what the
//! filesystem's authors test their journal with. From that moment nothing more reaches the file; what the journal had not committed and what was only in
//! memory is gone. Data is not ordered before its metadata (`data=writeback`) and nothing is written without being asked for (`commit=300`), so a file whose
//! name is there need not have its content: the worst that such a filesystem may do.

use crate::daemon::Settings;
use crate::host::eventually;
use crate::tools::run;
use anyhow::{Context as _, Result, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// For a shell in a mount namespace of its own: lets go of all disks but those below `$own`. A copy of another test's disk would keep it busy for as long as
/// the namespace is there.
pub(crate) const LET_GO: &str = r#"while read -r device at _; do
    case $device:$at in
    /dev/loop*:"$own"/*) ;;
    /dev/loop*) umount -l "$at" || : ;;
    esac
done </proc/self/mounts
"#;

/// Of the filesystem; the file has holes.
const SIZE: u64 = 2 << 30;
/// `ioctl(F, EXT4_IOC_SHUTDOWN, &EXT4_GOING_FLAGS_NOLOGFLUSH)`. By perl, which every Debian has: there is no safe wrapper of it.
const CUT: &str = "my $how = pack('L', 2); open(F, '<', $ARGV[0]) or die $!; ioctl(F, 0x8004587d, $how) or die $!";

/// Gives it directories of state and of network namespaces in memory, as `/run` is on a node, and a root with an ext4 of its own, in memory too: what is measured there depends neither on the
/// machine's disk nor on what was removed from that before. Without a journal, ext4 looks past all inodes of the last minutes for each file that it makes.
///
/// # Errors
/// If they can't be made.
pub fn in_memory(settings: &mut Settings) -> Result<()> {
    let (state, root, memory) = (settings.state(), settings.root(), settings.dir.join("memory"));
    // With the directory itself in there, so that it becomes a mount of its own.
    let pins = settings.netns_dir();
    let pins = pins.parent().context("it is below the test's directory")?.to_owned();
    for directory in [&state, &root, &memory, &pins] {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("make {}", directory.display()))?;
    }
    let tmpfs = |at: &Path| {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0711", "tmpfs"]).arg(at))
    };
    tmpfs(&state)?;
    settings.disks.push(state);
    tmpfs(&pins)?;
    settings.disks.push(pins);
    tmpfs(&memory)?;
    let file = memory.join("disk");
    settings.disks.push(memory);
    File::create(&file)?.set_len(2 * SIZE).with_context(|| format!("make {}", file.display()))?;
    let at_once = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", at_once]).arg(&file))?;
    run(Command::new("mount").args(["-t", "ext4", "-o", "loop,discard"]).arg(&file).arg(&root))?;
    settings.disks.push(root);
    Ok(())
}

/// See the module.
#[derive(Debug)]
pub struct Disk {
    file: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// A new one, in `file`, mounted at `at`.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn make(file: &Path, at: &Path) -> Result<Self> {
        let disk = Self { file: file.to_owned(), at: at.to_owned() };
        File::create(file)?.set_len(SIZE).with_context(|| format!("make {}", file.display()))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(file))?;
        std::fs::create_dir_all(at).with_context(|| format!("make {}", at.display()))?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop,data=writeback,commit=300,errors=continue"]);
        run(mount.arg(&self.file).arg(&self.at)).map(drop)
    }

    /// Cuts the power. Whoever still uses the disk gets `EIO`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cut(&self) -> Result<()> {
        run(Command::new("perl").args(["-e", CUT]).arg(&self.at)).map(drop)
    }

    /// Mounts it again after a cut, as a start of the machine does: the journal is replayed. It must be nobody's any more.
    ///
    /// # Errors
    /// If it is, or can't be mounted.
    pub fn replug(&self) -> Result<()> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        if mounts.lines().any(|line| line.split(' ').nth(1).map(Path::new) == Some(&self.at)) {
            run(Command::new("umount").arg(&self.at))?;
        }
        // The loop device goes with the last mount of it, in whatever namespace that is.
        eventually(Duration::from_secs(60), "the disk is nobody's", || {
            let devices = run(Command::new("losetup").arg("-j").arg(&self.file))?;
            Ok(devices.is_empty().then_some(()))
        })?;
        self.mount()?;
        ensure!(self.at.join("lost+found").exists(), "{} is not mounted", self.at.display());
        Ok(())
    }
}
