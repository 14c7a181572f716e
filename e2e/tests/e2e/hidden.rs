//! What an OCI runtime sees of the host's mounts while it makes a container: no other pods', unless a volume could show them. And what of them the host
//! and others keep.

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

on_both!(other_pods_mounts_are_hidden_and_the_hosts_stay, setup: telling, |t| {
    t.pull("davit-test/busybox:latest")?;
    let (one, other) = (t.pod("one", |_| ())?, t.pod("other", |_| ())?);
    let id = t.run(&one, "plain", |_| ())?;
    // Its network namespace, its /dev/shm, and the root that is being made.
    assert_eq!(seen(t, &[&one, &other])?, [3, 0]);
    t.exec(&id, "df /dev/shm | grep -q '^shm ' && echo x > /dev/shm/x && ip link show eth0")?;
    let second = t.run(&one, "second", |_| ())?;
    t.exec(&second, "grep -q x /dev/shm/x")?;
    on_the_host(&[&one, &other])?;

    // Nor of a pod on the host's network, which has no network namespace of its own.
    let on_host = t.pod("host", |p| namespaces(p).network = 2)?;
    t.run(&on_host, "plain", |_| ())?;
    assert_eq!(seen(t, &[&one, &other])?, [0, 0]);
    Ok(())
});

/// Nothing was taken from the host, where each of these pods has two mounts.
fn on_the_host(pods: &[&Pod]) -> Result<()> {
    let hosts = std::fs::read_to_string("/proc/self/mountinfo")?;
    for pod in pods {
        assert_eq!(hosts.lines().filter(|line| line.contains(&pod.id)).count(), 2, "{hosts}");
    }
    Ok(())
}

// As a network plugin's agent does that is told of pods and looks into them (thick Multus, Cilium).
on_both!(an_agent_sees_the_namespaces_of_pods_that_come_after_it, setup: telling, |t| {
    t.pull("davit-test/busybox:latest")?;
    let pins = t.settings().netns_dir();
    // Before any pod has a network namespace.
    let host = t.pod("agent", |p| namespaces(p).network = 2)?;
    let agent = t.run(&host, "agent", |c| {
        c.mounts.push(Mount {
            container_path: "/pins".to_owned(),
            host_path: pins.to_string_lossy().into_owned(),
            // HostToContainer.
            propagation: 1,
            ..Mount::default()
        });
    })?;
    let table = |of: &Pod| {
        let table = t.exec(&agent, "cat /proc/self/mountinfo")?;
        Ok::<_, anyhow::Error>(table.lines().filter(|line| line.contains(&of.id)).count())
    };
    let own = t.pod("one", |_| ())?;
    let sysctl = ("net.ipv4.ip_unprivileged_port_start".to_owned(), "77".to_owned());
    let by_shim = t.pod("two", |p| {
        p.linux.as_mut().unwrap().sysctls = [sysctl].into();
    })?;
    assert_eq!((table(&own)?, table(&by_shim)?), (1, 1));
    t.exec(&agent, &format!("stat -f -c %t /pins/davit-{} | grep -q 6e736673", own.id))?;
    let id = t.run(&own, "plain", |_| ())?;
    assert_eq!(seen(t, &[&own, &by_shim])?, [3, 0]);
    t.exec(&id, "ip link show eth0")?;
    on_the_host(&[&own, &by_shim])?;
    assert_eq!((table(&own)?, table(&by_shim)?), (1, 1));
    t.cri.stop_pod(&own.id)?;
    t.cri.remove_pod(&own.id)?;
    assert_eq!((table(&own)?, table(&by_shim)?), (0, 1));
    Ok(())
});

on_one!(a_pod_of_an_earlier_davit_keeps_its_memory_where_it_was, setup: telling, |t| {
    t.pull("davit-test/busybox:latest")?;
    let (pod, other) = (t.pod("one", |_| ())?, t.pod("other", |_| ())?);
    let id = t.run(&pod, "plain", |_| ())?;
    t.exec(&id, "echo x > /dev/shm/x")?;
    let state = t.settings().state();
    let (now, then) = (state.join("shm").join(&pod.id), state.join("pods").join(&pod.id).join("shm"));
    std::fs::create_dir(&then)?;
    rustix::mount::mount_move(&now, &then)?;
    std::fs::remove_dir(&now)?;
    t.daemon().kill()?;
    t.daemon().spawn()?;
    let second = t.run(&pod, "second", |_| ())?;
    t.exec(&second, "grep -q x /dev/shm/x")?;
    assert_eq!(seen(t, &[&pod, &other])?, [3, 0]);
    t.cri.stop_pod(&pod.id)?;
    t.cri.remove_pod(&pod.id)?;
    let hosts = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!hosts.contains(&pod.id), "{hosts}");
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

on_one!(memory_that_somebody_unmounted_goes_with_its_pod, |t| {
    t.pull("davit-test/busybox:latest")?;
    let pod = t.pod("one", |_| ())?;
    let memory = t.settings().state().join("shm").join(&pod.id);
    rustix::mount::unmount(&memory, rustix::mount::UnmountFlags::empty())?;
    let id = t.run(&pod, "plain", |_| ())?;
    t.exec(&id, "mkdir /dev/shm/deep && echo x > /dev/shm/deep/x")?;
    ensure!(memory.join("deep/x").exists());
    t.cri.stop_pod(&pod.id)?;
    t.cri.remove_pod(&pod.id)?;
    ensure!(!memory.exists());
    Ok(())
});

fn with_a_file_system(settings: &mut Settings) -> Result<()> {
    telling(settings)?;
    let pins = settings.netns_dir();
    std::fs::create_dir_all(&pins)?;
    tools::run(std::process::Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&pins))?;
    settings.disks.push(pins);
    Ok(())
}

// As where the host's directory is mounted into the container that davit runs in.
on_both!(a_directory_of_namespaces_may_have_a_file_system_of_its_own, setup: with_a_file_system, |t| {
    let (one, other) = (t.pod("one", |_| ())?, t.pod("other", |_| ())?);
    let id = t.run(&one, "plain", |_| ())?;
    t.exec(&id, "ip link show eth0")?;
    // The directory is seen, with the namespace that it needs.
    assert_eq!(seen(t, &[&one, &other])?, [3, 0]);
    Ok(())
});

/// Where a kubelet would have the volumes of two pods, each with a mount in it, a share whose server never answers, and one whose server is gone.
fn with_volumes_and_a_share(settings: &mut Settings) -> Result<()> {
    telling(settings)?;
    let volumes = volumes(&settings.dir);
    let memory = ["mine", "mine/deep", "others", "others/deep"].map(|name| volumes.join(name));
    for point in &memory {
        std::fs::create_dir_all(point)?;
        tools::run(std::process::Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(point))?;
    }
    std::fs::File::create(volumes.join("mine/deep/file"))?;
    settings.disks.extend(memory);
    // Open, and not read from, for as long as the tests run: it is unmounted with the test's directory.
    let _ = std::os::fd::IntoRawFd::into_raw_fd(share(settings, "share")?);
    drop(share(settings, "gone")?);
    Ok(())
}

/// A FUSE file system, whose server is who has the file.
fn share(settings: &mut Settings, name: &str) -> Result<std::fs::File> {
    let share = settings.dir.join(name);
    let server = mount_share(&share)?;
    settings.disks.push(share);
    Ok(server)
}

/// Mounts it at a new directory.
pub(crate) fn mount_share(share: &Path) -> Result<std::fs::File> {
    std::fs::create_dir(share)?;
    let server = std::fs::File::options().read(true).write(true).open("/dev/fuse")?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&server);
    let data = format!("fd={number},rootmode=40000,user_id=0,group_id=0");
    let data = std::ffi::CString::new(data)?;
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("share", share, "fuse", flags, Some(data.as_c_str()))?;
    Ok(server)
}

fn volumes(dir: &Path) -> PathBuf {
    dir.join("pods/0e5e0dbd-4a3c-4a6e-9bd8-7d1f4c1d3a52/volumes")
}

/// How many mounts the last create saw at this place and below.
fn seen_at(t: &Test, place: &Path) -> Result<usize> {
    let seen = std::fs::read_to_string(t.dir.join("seen")).context("no create has been told")?;
    let points = seen.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.filter(|point| Path::new(point).starts_with(place)).count())
}

on_both!(what_a_container_has_nothing_of_is_not_looked_at, setup: with_volumes_and_a_share, |t| {
    let (volumes, share) = (volumes(&t.dir), t.dir.join("share"));
    let (mine, others) = (volumes.join("mine"), volumes.join("others"));
    let table = || std::fs::read_to_string("/proc/self/mountinfo");
    let here = |table: &str| {
        let dir = t.dir.to_string_lossy().into_owned();
        let lines = table.lines().filter(|line| line.contains(&dir) && !line.contains("nsfs"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let pod = t.pod("one", |_| ())?;
    let before = here(&table()?);
    t.run(&pod, "plain", |_| ())?;
    assert_eq!((seen_at(t, &volumes)?, seen_at(t, &share)?), (0, 0));
    let id = t.run(&pod, "mounts", |c| {
        c.mounts.push(Mount {
            container_path: "/volume".to_owned(),
            host_path: mine.to_string_lossy().into_owned(),
            ..Mount::default()
        });
    })?;
    assert_eq!((seen_at(t, &mine)?, seen_at(t, &others)?, seen_at(t, &share)?), (2, 0, 0));
    t.exec(&id, "test -f /volume/deep/file && echo x > /volume/deep/new")?;
    ensure!(mine.join("deep/new").exists());
    // A part of it, which a kubelet would mount by itself.
    let id = t.run(&pod, "part", |c| {
        c.mounts.push(Mount {
            container_path: "/part".to_owned(),
            host_path: mine.join("deep").to_string_lossy().into_owned(),
            readonly: true,
            ..Mount::default()
        });
    })?;
    t.exec(&id, "test -f /part/new")?;
    assert_eq!((seen_at(t, &mine)?, seen_at(t, &others)?), (2, 0));
    // What can't be had is not replaced by what lies below.
    let gone = t.try_create(&pod, "gone", |c| {
        c.mounts.push(Mount {
            container_path: "/gone".to_owned(),
            host_path: t.dir.join("gone").to_string_lossy().into_owned(),
            ..Mount::default()
        });
    });
    // crun does not look what it is that it mounts.
    if let Ok(id) = gone {
        t.cri.start(&id)?;
        assert_eq!(t.exec(&id, "ls /gone 2> /dev/null || echo refused")?, "refused");
    }
    // Nobody but the container that was told to has mounted anything.
    assert_eq!(here(&table()?), before);
    Ok(())
});

on_one!(a_volume_that_was_mounted_a_moment_ago_is_there, setup: telling, |t| {
    let pod = t.pod("one", |_| ())?;
    t.pull("davit-test/busybox:latest")?;
    for number in 0..5 {
        let volume = volumes(&t.dir).join(number.to_string());
        std::fs::create_dir_all(&volume)?;
        tools::run(std::process::Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&volume))?;
        std::fs::File::create(volume.join("file"))?;
        let id = t.run(&pod, &format!("c{number}"), |c| {
            c.mounts.push(Mount {
                container_path: "/volume".to_owned(),
                host_path: volume.to_string_lossy().into_owned(),
                ..Mount::default()
            });
        })?;
        t.exec(&id, "test -f /volume/file")?;
        assert_eq!(seen_at(t, &volumes(&t.dir))?, 1);
        rustix::mount::unmount(&volume, rustix::mount::UnmountFlags::DETACH)?;
    }
    Ok(())
});
