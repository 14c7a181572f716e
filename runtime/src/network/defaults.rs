//! Kernel parameters that a pod's network namespace has unless the pod sets them, as with containerd: images count on them.
//!
//! Owns what they are. Who makes the namespace sets them, davit here or the shim for a pod with parameters or a user namespace of its own.

use super::sysctl;
use crate::sandbox::IdMappings;
use std::io;
use std::os::fd::OwnedFd;

/// Whoever may do nothing else may listen on any port: that low ones are root's guards nothing where the addresses are the pod's.
const PORTS: (&str, &str) = ("ip_unprivileged_port_start", "0");
/// All groups may ping.
const PING: (&str, &str) = ("ping_group_range", "0 2147483647");
/// The last group that there can be.
const LAST: u64 = 2_147_483_647;

/// A network namespace with them, in which nothing is.
///
/// # Errors
/// The kernel's.
pub(crate) fn new_namespace() -> io::Result<OwnedFd> {
    davit_sys::namespace::network(|| sysctl::try_set("ipv4", &[PORTS, PING]))
}

/// Them, for a pod with such mappings, by the names of sysctl(8). The groups of a user namespace end before the range does, which the kernel refuses there.
pub(crate) fn defaults(
    userns: Option<&IdMappings>,
) -> impl Iterator<Item = (String, &'static str)> {
    let ping = (userns.is_none() && has_all_groups()).then_some(PING);
    let name = |(name, value)| (format!("net.ipv4.{name}"), value);
    [PORTS].into_iter().chain(ping).map(name)
}

/// Whether all groups are there: davit may itself be in a user namespace.
fn has_all_groups() -> bool {
    let map = std::fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    map.lines().any(holds_last)
}

fn holds_last(line: &str) -> bool {
    let mut numbers = line.split_ascii_whitespace().map_while(|word| word.parse::<u64>().ok());
    let (first, length) = (numbers.next(), numbers.nth(1));
    first == Some(0) && length.is_some_and(|length| length > LAST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use davit_sys::namespace::{Namespace, unshare};
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::os::fd::AsFd as _;

    #[test]
    fn a_new_namespace_has_them_and_the_caller_does_not() {
        let read =
            |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        let values =
            move || [PORTS, PING].map(|(name, _)| read(name).replace('\t', " ").trim().to_owned());
        let before = values();
        let made = new_namespace().unwrap();
        assert_eq!(values(), before);
        let inside = std::thread::spawn(move || {
            move_into_link_name_space(made.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let with = values();
            unshare(Namespace::Net).unwrap();
            (with, values())
        });
        let (with, without) = inside.join().unwrap();
        assert_eq!(with, [PORTS, PING].map(|(_, value)| value));
        assert_ne!(without, with);
    }

    #[test]
    fn groups_end_earlier_in_a_user_namespace() {
        assert!(holds_last("         0          0 4294967295"));
        for line in ["0 100000 65536", "0 0 2147483647", "1 0 4294967295", "", "0 0"] {
            assert!(!holds_last(line), "{line}");
        }
        let mappings = IdMappings { uids: Vec::new(), gids: Vec::new() };
        let names: Vec<String> = defaults(Some(&mappings)).map(|(name, _)| name).collect();
        assert_eq!(names, ["net.ipv4.ip_unprivileged_port_start"]);
    }
}
