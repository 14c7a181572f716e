//! Handing a descriptor to a child at a number that both know.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Makes `command`'s child find `fd` as number `at`, open across its exec. The descriptor stays open here for as long as the command
/// lives.
pub fn inherit(command: &mut Command, fd: OwnedFd, at: RawFd) {
    let place = move || place(fd.as_raw_fd(), at);
    // SAFETY: `place` runs between fork and exec in a child of a process that has threads, so it may only make async-signal-safe
    // calls: it makes dup2(2) and fcntl(2), allocates nothing and takes no lock. It owns `fd`, which therefore is open.
    unsafe { command.pre_exec(place) };
}

/// dup2(2), which clears close-on-exec, but for the case that the number is the right one already: then it does nothing.
fn place(fd: RawFd, at: RawFd) -> io::Result<()> {
    if fd == at {
        // SAFETY: `fcntl` with F_SETFD touches no memory of ours; that `fd` is open is upheld by `inherit`, which owns it.
        nix::errno::Errno::result(unsafe { nix::libc::fcntl(fd, nix::libc::F_SETFD, 0) })?;
    } else {
        // SAFETY: `dup2` touches no memory of ours. What it may close at `at` is nobody's: in the child, only the exec follows.
        nix::errno::Errno::result(unsafe { nix::libc::dup2(fd, at) })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    #[test]
    fn the_child_finds_the_descriptor_at_its_number() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo here >&3"]);
        inherit(&mut command, writer.into(), 3);
        assert!(command.status().unwrap().success());
        drop(command);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(said, "here\n");
    }

    #[test]
    fn a_descriptor_that_has_the_number_already_is_kept_open() {
        let mut file = tempfile_in_memory();
        file.write_all(b"x").unwrap();
        let at = file.as_raw_fd();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("test -e /proc/self/fd/{at}")]);
        inherit(&mut command, file.into(), at);
        assert!(command.status().unwrap().success());
    }

    fn tempfile_in_memory() -> File {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        File::from(rustix::fs::memfd_create("davit-test", flags).unwrap())
    }
}
