//! Subnets for pods: each is one test's at a time, of however many that run at once on this machine.

use crate::images::catalog;
use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};

/// A subnet is its holder's while this is there. What it holds are locked files.
#[derive(Debug)]
pub(crate) struct SubnetLock {
    _files: Vec<File>,
}

/// How many addresses a subnet has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// 254.
    Usual,
    /// 1022.
    Wide,
}

/// A subnet that no other test of this machine has.
pub(crate) fn take(room: Room) -> Result<(SubnetLock, String)> {
    let (step, bits) = match room {
        Room::Usual => (1, 24),
        Room::Wide => (4, 22),
    };
    for first in (0..=255_u8).step_by(step.into()) {
        let numbers = first..=first + (step - 1);
        if let Some(files) = numbers.map(lock).collect::<Result<Option<Vec<_>>>>()? {
            return Ok((SubnetLock { _files: files }, format!("10.213.{first}.0/{bits}")));
        }
    }
    bail!("too many tests run at once: no subnet is left")
}

/// One of 256; nothing if it is somebody else's.
fn lock(number: u8) -> Result<Option<File>> {
    let dir = catalog::cache().join("subnets");
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let path = dir.join(number.to_string());
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((!in_use(number)).then_some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Whether there is a bridge with it: of a test that was killed, whose lock is gone.
fn in_use(number: u8) -> bool {
    // None but an address of this machine can be bound to.
    UdpSocket::bind((Ipv4Addr::new(10, 213, number, 1), 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_given_once() -> Result<()> {
        let (wide, narrow) = (take(Room::Wide)?, take(Room::Usual)?);
        let (first, second) = (wide.1.as_str(), narrow.1.as_str());
        assert!(first.ends_with("/22") && second.ends_with("/24"), "{first} {second}");
        let third = |text: &str| text.split('.').nth(2).and_then(|part| part.parse::<u8>().ok());
        let (Some(first), Some(second)) = (third(first), third(second)) else {
            bail!("{first}, {second}");
        };
        assert!(!(first..first + 4).contains(&second), "{first} {second}");
        Ok(())
    }
}
