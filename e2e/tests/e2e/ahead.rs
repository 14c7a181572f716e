//! Shims and network namespaces that wait for pods to come: taken, replaced, and gone with the daemon.

use crate::network::server;
use crate::shim_loss::{kill, shim};
use davit_e2e::leaks;
use davit_e2e::prelude::*;

const WITHIN: Duration = Duration::from_secs(10);

/// Those that wait.
fn waiting(t: &Test) -> Result<Vec<u32>> {
    let daemon = t.daemon().pid().context("it runs")?;
    let mut all = leaks::waiting(&t.settings(), daemon)?;
    all.sort_unstable();
    Ok(all)
}

/// Waits until there are so many of them.
pub(crate) fn as_many(t: &Test, count: usize) -> Result<Vec<u32>> {
    eventually(WITHIN, &format!("{count} shims wait"), || {
        Ok(Some(waiting(t)?).filter(|all| all.len() == count))
    })
}

/// What a process's standard error leads to, and its cgroups.
fn of(pid: u32) -> Result<(PathBuf, String)> {
    let log = std::fs::read_link(format!("/proc/{pid}/fd/2"))?;
    Ok((log, std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?))
}

on_both!(a_pod_takes_one_that_waits_and_another_is_made, |t| {
    let before = as_many(t, 2)?;
    let pod = t.pod("web", |p| "there".clone_into(&mut p.hostname))?;
    let own = shim(t, &pod)?;
    assert!(before.contains(&own), "{own} is none of {before:?}");
    let (log, cgroups) = of(own)?;
    assert_eq!(log, t.settings().state().join("pods").join(&pod.id).join("shim.log"));
    assert!(cgroups.contains(&format!("{}-shims", t.settings().tag())), "{cgroups}");
    let id = t.run(&pod, "c", |_| ())?;
    // What it was given later serves as well: an end, an exec, another shim's place.
    assert_eq!(t.exec(&id, "hostname && cat /proc/1/comm")?, "there\nsh");
    let now = as_many(t, 2)?;
    assert!(!now.contains(&own));
    // One on the host's network, and one of its own user namespace.
    let host = t.pod("host", |p| namespaces(p).network = NamespaceMode::Node.into())?;
    assert!(now.contains(&shim(t, &host)?));
    t.run(&host, "c", |_| ())?;
    let many: Vec<Pod> =
        (0..5).map(|number| t.pod(&format!("one-{number}"), |_| ())).collect::<Result<_>>()?;
    let addresses: Result<Vec<_>> =
        many.iter().map(|pod| Ok(t.cri.pod_status(&pod.id)?.network.context("one")?.ip)).collect();
    let mut addresses = addresses?;
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), many.len());
    as_many(t, 2)?;
    Ok(())
});

// Their namespace is made by the shim, with these set in it.
on_both!(a_pod_that_can_take_nothing_is_made_as_it_asks, |t| {
    // The second time there are links that wait.
    for name in ["one", "other"] {
        as_many(t, 2)?;
        let pod = t.pod(name, |p| {
            let linux = p.linux.get_or_insert_default();
            linux.sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "7".to_owned());
        })?;
        let id = t.run(&pod, "c", |_| ())?;
        t.exec(
            &id,
            "grep -q '^7$' /proc/sys/net/ipv4/ip_unprivileged_port_start && ip link show eth0",
        )?;
        t.pod(&format!("plain-{name}"), |_| ())?;
    }
    Ok(())
});

on_one!(one_that_is_killed_is_replaced_and_holds_up_no_pod, |t| {
    for round in 0..3 {
        let before = as_many(t, 2)?;
        before.iter().try_for_each(|pid| kill(*pid))?;
        let ended = |pid: &u32| !Path::new(&format!("/proc/{pid}/exe")).exists();
        eventually(WITHIN, "they have ended", || Ok(before.iter().all(ended).then_some(())))?;
        let pod = t.pod(&format!("web-{round}"), |_| ())?;
        t.run(&pod, "c", |_| ())?;
        let now = as_many(t, 2)?;
        assert!(now.iter().all(|pid| !before.contains(pid)));
    }
    Ok(())
});

on_one!(they_end_with_the_daemon_however_that_ends, |t| {
    let before = as_many(t, 2)?;
    let pod = t.pod("web", |_| ())?;
    let id = t.run(&pod, "c", |_| ())?;
    let own = shim(t, &pod)?;
    let gone = |t: &Test, pids: &[u32]| {
        eventually(WITHIN, "they have ended", || {
            let all = leaks::processes(&t.settings())?;
            Ok((!pids.iter().any(|pid| *pid != own && all.contains(pid))).then_some(()))
        })
    };
    t.daemon().kill()?;
    gone(t, &before)?;
    t.daemon().spawn()?;
    assert_eq!(t.exec(&id, "echo here")?, "here");
    let before = as_many(t, 2)?;
    t.daemon().stop()?;
    gone(t, &before)?;
    t.daemon().spawn()
});

fn none(settings: &mut Settings) -> Result<()> {
    settings.tables = "[limits]\npods_ahead = 0\n".to_owned();
    Ok(())
}

on_one!(none_waits_where_none_is_wanted, setup: none, |t| {
    let pod = t.pod("web", |_| ())?;
    t.run(&pod, "c", |_| ())?;
    pause(Duration::from_secs(1));
    assert_eq!(waiting(t)?, Vec::<u32>::new());
    Ok(())
});

/// The ports of the built-in bridge.
fn ports(t: &Test) -> Result<Vec<String>> {
    let dir = Path::new("/sys/class/net").join(t.settings().tag()).join("brif");
    davit_e2e::host::names_in(&dir)
}

fn link(pod: &Pod) -> String {
    format!("dv{}", pod.id.get(..11).unwrap_or_default())
}

/// As many ports as there are pods and as wait.
fn as_many_ports(t: &Test, pods: usize) -> Result<Vec<String>> {
    eventually(WITHIN, "links wait", || Ok(Some(ports(t)?).filter(|all| all.len() == pods + 2)))
}

on_one!(a_pod_takes_links_that_are_there_and_those_that_are_not_are_made, |t| {
    // The first pod makes the bridge: what waited before has no links.
    let (first, _) = server(t, "first", Vec::new())?;
    let (second, _) = server(t, "second", Vec::new())?;
    let (third, _) = server(t, "third", Vec::new())?;
    let before = as_many_ports(t, 3)?;
    let (fourth, _) = server(t, "fourth", Vec::new())?;
    assert!(before.contains(&link(&fourth)), "{before:?}");
    // What waits is nobody's leftover.
    let now = as_many_ports(t, 4)?;
    let check = t.davit(&["check"])?;
    let own = [&first, &second, &third, &fourth].map(link);
    let waiting: Vec<&String> = now.iter().filter(|port| !own.contains(port)).collect();
    let said = String::from_utf8(check.stdout)?;
    assert!(!waiting.iter().any(|port| said.contains(port.as_str())), "{said}");
    // Somebody takes them from the bridge.
    for port in waiting {
        let mut command = std::process::Command::new("ip");
        davit_e2e::tools::run(command.args(["link", "set", port, "nomaster"]))?;
    }
    let (fifth, _) = server(t, "fifth", Vec::new())?;
    assert!(ports(t)?.contains(&link(&fifth)));
    Ok(())
});

on_one!(plugins_that_come_later_find_an_empty_namespace, |t| {
    let first = t.pod("first", |_| ())?;
    as_many_ports(t, 1)?;
    davit_e2e::cni::bridge_and_ports(&t.settings())?;
    let name = t.settings().tag();
    eventually(WITHIN, "plugins make the network", || {
        Ok(t.davit_ok(&["info"])?.contains(&name).then_some(()))
    })?;
    let pod = t.pod("second", |_| ())?;
    let id = t.run(&pod, "c", |_| ())?;
    assert_eq!(t.exec(&id, "ls /sys/class/net")?, "eth0\nlo");
    t.cri.remove_pod(&first.id)?;
    // And one as the kernel makes them, in which what davit sets for its own bridge is not set.
    as_many(t, 2)?;
    for name in ["third", "fourth"] {
        let pod = t.pod(name, |_| ())?;
        let id = t.run(&pod, "c", |_| ())?;
        assert_eq!(t.exec(&id, "cat /proc/sys/net/ipv6/conf/default/accept_ra")?, "1");
    }
    Ok(())
});
