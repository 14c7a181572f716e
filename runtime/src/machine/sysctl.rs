//! The kernel's limits that many containers run into first, and what pods' networks need.

use super::{Finding, text};

/// A limit that should be at least so much, and what happens where it is less.
struct Least {
    path: &'static str,
    least: u64,
    cost: &'static str,
}

/// A node runs a hundred pods: each takes some of these.
const LEAST: [Least; 7] = [
    Least {
        path: "fs/inotify/max_user_instances",
        least: 512,
        cost: "containers that watch files will fail",
    },
    Least {
        path: "fs/inotify/max_user_watches",
        least: 65_536,
        cost: "containers that watch files will fail",
    },
    Least {
        path: "kernel/keys/root_maxkeys",
        least: 10_000,
        cost: "each container has a keyring, and no more can be made then",
    },
    Least {
        path: "kernel/pid_max",
        least: 65_536,
        cost: "all containers together can have no more processes",
    },
    Least {
        path: "kernel/threads-max",
        least: 10_000,
        cost: "all containers together can have no more threads",
    },
    Least {
        path: "fs/file-max",
        least: 100_000,
        cost: "all containers together can have no more open files",
    },
    Least {
        path: "user/max_net_namespaces",
        least: 1024,
        cost: "each pod has one, and no more can be made then",
    },
];

pub(super) fn findings() -> Vec<Finding> {
    judge(&|path| text(format!("/proc/sys/{path}")))
}

/// By what the kernel says of each; a file that is not there says nothing.
fn judge(read: &dyn Fn(&str) -> String) -> Vec<Finding> {
    let number = |path: &str| read(path).trim().parse::<u64>().ok();
    let low = LEAST.iter().filter_map(|Least { path, least, cost }| {
        let now = number(path).filter(|now| now < least)?;
        let name = path.replace('/', ".");
        let text = format!("{name} is {now}, less than {least}: {cost}");
        Some(Finding::warning("sysctls", text, format!("sysctl -w {name}={least}")))
    });
    let mut found: Vec<Finding> = low.collect();
    if number("net/ipv4/ip_forward") == Some(0) {
        found.push(Finding::warning(
            "sysctls",
            "net.ipv4.ip_forward is 0: pods reach nothing but this node (the built-in network switches it on with the first pod)",
            "sysctl -w net.ipv4.ip_forward=1",
        ));
    }
    found.push(match number("net/bridge/bridge-nf-call-iptables") {
        Some(1) => Finding::ok("bridge-nf", "iptables see what bridges carry"),
        Some(_) => Finding::warning(
            "bridge-nf",
            "net.bridge.bridge-nf-call-iptables is 0: where kube-proxy uses iptables, pods on a bridge don't reach Services whose pod is on the same",
            "sysctl -w net.bridge.bridge-nf-call-iptables=1",
        ),
        None => Finding::warning(
            "bridge-nf",
            "br_netfilter is not loaded: where kube-proxy uses iptables, pods on a bridge don't reach Services whose pod is on the same",
            "modprobe br_netfilter",
        ),
    });
    if !found.iter().any(|one| one.subject == "sysctls") {
        found.insert(0, Finding::ok("sysctls", "limits and forwarding are as a node needs them"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Verdict;

    #[test]
    fn each_limit_that_is_low_is_named_with_the_command_that_raises_it() {
        let plenty = |_: &str| "10000000\n".to_owned();
        let well =
            judge(&|path| if path.starts_with("net/") { "1\n".to_owned() } else { plenty(path) });
        assert!(well.iter().all(|one| one.verdict == Verdict::Ok), "{well:?}");
        let poor = judge(&|path| {
            if path == "net/bridge/bridge-nf-call-iptables" {
                String::new()
            } else {
                "0\n".to_owned()
            }
        });
        assert_eq!(
            poor.iter().filter(|one| one.verdict == Verdict::Warning).count(),
            LEAST.len() + 2
        );
        for name in [
            "fs.inotify.max_user_instances=512",
            "kernel.keys.root_maxkeys=10000",
            "net.ipv4.ip_forward=1",
            "modprobe br_netfilter",
        ] {
            assert!(poor.iter().any(|one| one.advice.contains(name)), "{name}: {poor:?}");
        }
        // A kernel that has no such limit has no low one.
        let silent = judge(&|_| String::new());
        assert_eq!(
            silent[0],
            Finding::ok("sysctls", "limits and forwarding are as a node needs them")
        );
    }
}
