//! What went through a pod's interfaces, as the pod's own namespace counts it.
//!
//! Read inside the namespace, on a thread that enters one pod's after the other and then ends: the host's end of the pair is known only where davit made
//! it, and a CNI plugin may have made none.

use crate::clock;
use crate::id::SandboxId;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// The counters of the calling thread's namespace (proc_pid_net(5)).
const COUNTERS: &str = "/proc/thread-self/net/dev";
/// A container that may make interfaces can make many; these are told.
const MOST_INTERFACES: usize = 64;
const LONGEST: u64 = 1 << 20;
/// The name that every network gives to the pod's interface.
const DEFAULT: &str = "eth0";

/// A pod's interfaces, loopback left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkUse {
    /// When they were read, in nanoseconds since the epoch.
    pub at: i64,
    /// `eth0`, or else the first.
    pub default: Option<InterfaceUse>,
    /// The others.
    pub others: Vec<InterfaceUse>,
}

/// One interface's counters, since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterfaceUse {
    /// As the pod calls it.
    pub name: String,
    /// Towards the pod.
    pub received: Traffic,
    /// From the pod.
    pub sent: Traffic,
}

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets with errors.
    pub errors: u64,
    /// Packets dropped.
    pub dropped: u64,
}

/// Reads the interfaces of these pods. One whose namespace can't be entered is going, and is left out.
pub(super) fn read(pins: Vec<(SandboxId, PathBuf)>) -> Vec<(SandboxId, NetworkUse)> {
    if pins.is_empty() {
        return Vec::new();
    }
    let body = move || {
        let one = |(id, pin): (SandboxId, PathBuf)| Some((id, inside(&pin)?));
        pins.into_iter().filter_map(one).collect()
    };
    // Its own thread: one that has left the host's namespace must do nothing else afterwards.
    let thread = std::thread::Builder::new().name("davit-netns".to_owned()).spawn(body);
    thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_default()
}

fn inside(pin: &Path) -> Option<NetworkUse> {
    let namespace = File::open(pin).ok()?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
    let mut text = String::new();
    File::open(COUNTERS).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(parse(&text, clock::now()))
}

fn parse(text: &str, at: i64) -> NetworkUse {
    let mut all: Vec<InterfaceUse> = text
        .lines()
        .filter_map(interface)
        .filter(|interface| interface.name != "lo")
        .take(MOST_INTERFACES)
        .collect();
    let default = all.iter().position(|interface| interface.name == DEFAULT).unwrap_or(0);
    let default = (default < all.len()).then(|| all.remove(default));
    NetworkUse { at, default, others: all }
}

/// `eth0: bytes packets errs drop fifo frame compressed multicast bytes packets errs drop …`; the two lines of the head have no number there.
fn interface(line: &str) -> Option<InterfaceUse> {
    let (name, rest) = line.split_once(':')?;
    let numbers: Vec<u64> =
        rest.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let traffic = |from: usize| {
        let mut numbers = numbers.iter().skip(from).copied();
        let mut next = || numbers.next();
        Some(Traffic { bytes: next()?, packets: next()?, errors: next()?, dropped: next()? })
    };
    Some(InterfaceUse { name: name.trim().to_owned(), received: traffic(0)?, sent: traffic(8)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

    #[test]
    fn eth0_is_the_default_and_loopback_is_none() {
        let text = format!(
            "{HEAD}    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0\n  \
            net1: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n  eth0: 11 12 13 14 0 0 0 0 15 16 17 18 0 0 0 0\n"
        );
        let network = parse(&text, 9);
        let default = network.default.unwrap();
        assert_eq!((network.at, default.name.as_str()), (9, "eth0"));
        let traffic = |bytes, packets, errors, dropped| Traffic { bytes, packets, errors, dropped };
        assert_eq!(
            (default.received, default.sent),
            (traffic(11, 12, 13, 14), traffic(15, 16, 17, 18))
        );
        assert_eq!(network.others.len(), 1);
        assert_eq!(network.others[0].name, "net1");
    }

    #[test]
    fn without_eth0_the_first_is_the_default_and_without_any_there_is_none() {
        let text = format!("{HEAD}  net1: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n");
        assert_eq!(parse(&text, 1).default.unwrap().name, "net1");
        assert_eq!(parse(HEAD, 1), NetworkUse { at: 1, default: None, others: Vec::new() });
        assert_eq!(interface("eth0: 1 2 3"), None);
        assert_eq!(interface("eth0: 1 x 3 4 0 0 0 0 5 6 7 8"), None);
    }

    #[test]
    fn the_counters_are_those_of_the_namespace() {
        let found = std::thread::spawn(|| {
            davit_sys::namespace::unshare(davit_sys::namespace::Namespace::Net).unwrap();
            inside(Path::new("/proc/thread-self/ns/net")).unwrap()
        });
        let found = found.join().unwrap();
        assert_eq!(
            (found.default, found.others),
            (None, Vec::new()),
            "a new one has loopback alone"
        );
    }
}
