//! What an OCI runtime sees of the host's mounts while it makes a container: no other pods' network namespaces, unless a volume could show them.

use davit_e2e::prelude::*;
use davit_e2e::{host, tools};

/// A handler that keeps the list of mounts that each of its creates sees, in the test's directory, one after the other.
fn telling(settings: &mut Settings) -> Result<()> {
    let (real, own) = (tools::oci_runtime(&settings.handler)?, settings.dir.join("oci-runtime"));
    let seen = settings.dir.join("seen");
    let script = format!(
        "case \" $* \" in *' create '*) cat /proc/self/mountinfo > {};; esac\nexec {} \"$@\"",
        seen.display(),
        real.display()
    );
    host::script(&own, &script)?;
    settings.tables = format!("[handlers.own]\npath = {own:?}\n");
    "own".clone_into(&mut settings.handler);
    Ok(())
}

/// Of which pods the last create saw mounts, and how many.
fn seen(t: &Test, pods: &[&Pod]) -> Result<Vec<usize>> {
    let seen = std::fs::read_to_string(t.dir.join("seen")).context("no create has been told")?;
    let of = |pod: &&Pod| seen.lines().filter(|line| line.contains(&pod.id)).count();
    Ok(pods.iter().map(of).collect())
}

on_both!(other_pods_network_namespaces_are_hidden_and_the_hosts_stay, setup: telling, |t| {
    t.pull("davit-test/busybox:latest")?;
    let (one, other) = (t.pod("one", |_| ())?, t.pod("other", |_| ())?);
    let id = t.run(&one, "plain", |_| ())?;
    // Its network namespace, its /dev/shm, and the root that is being made; of the other its /dev/shm.
    assert_eq!(seen(t, &[&one, &other])?, [3, 1]);
    t.exec(&id, "df /dev/shm | grep -q '^shm ' && echo x > /dev/shm/x && ip link show eth0")?;
    let second = t.run(&one, "second", |_| ())?;
    t.exec(&second, "grep -q x /dev/shm/x")?;
    // Nothing was taken from the host, where each pod has two.
    let hosts = std::fs::read_to_string("/proc/self/mountinfo")?;
    for pod in [&one, &other] {
        assert_eq!(hosts.lines().filter(|line| line.contains(&pod.id)).count(), 2, "{hosts}");
    }
    Ok(())
});

on_one!(a_volume_that_holds_them_shows_them, setup: telling, |t| {
    t.pull("davit-test/busybox:latest")?;
    let (one, other) = (t.pod("one", |_| ())?, t.pod("other", |_| ())?);
    let id = t.run(&one, "agent", |c| {
        c.mounts.push(Mount {
            container_path: "/host".to_owned(),
            host_path: "/".to_owned(),
            readonly: true,
            ..Mount::default()
        });
    })?;
    let [_, others] = seen(t, &[&one, &other])?[..] else { bail!("two pods") };
    assert_eq!(others, 2);
    let table = t.exec(&id, "cat /proc/self/mountinfo")?;
    assert_eq!(table.lines().filter(|line| line.contains(&other.id)).count(), 2, "{table}");
    Ok(())
});

on_one!(a_volume_that_propagates_still_does, setup: telling, |t| {
    t.pull("davit-test/busybox:latest")?;
    let (one, other) = (t.pod("one", |_| ())?, t.pod("other", |_| ())?);
    let data = t.dir.join("data");
    std::fs::create_dir(&data)?;
    rustix::mount::mount_bind(&data, &data)?;
    rustix::mount::mount_change(&data, rustix::mount::MountPropagationFlags::SHARED)?;
    t.run(&one, "plugin", |c| {
        c.mounts.push(Mount {
            container_path: "/data".to_owned(),
            host_path: data.to_string_lossy().into_owned(),
            // Bidirectional.
            propagation: 2,
            ..Mount::default()
        });
    })?;
    // The directory of the network namespaces may lie in the same mount as the volume, which is to stay shared.
    assert_eq!(seen(t, &[&one, &other])?, [3, 2]);
    rustix::mount::unmount(&data, rustix::mount::UnmountFlags::DETACH)?;
    Ok(())
});
