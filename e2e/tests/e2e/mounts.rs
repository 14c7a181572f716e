//! Mounts of the host: readable, writable, and which way mounts below them travel.

use davit_e2e::prelude::*;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};

fn bind(host: &Path, container: &str) -> Mount {
    Mount {
        container_path: container.to_owned(),
        host_path: host.to_string_lossy().into_owned(),
        ..Mount::default()
    }
}

fn folder(t: &Test, name: &str) -> Result<PathBuf> {
    let path = t.dir.join(name);
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

on_both!(a_directory_is_shared_with_the_host_both_ways, |t| {
    let data = folder(t, "data")?;
    std::fs::File::create(data.join("from-host"))?;
    let (_, id) = t.sleeper(|c| c.mounts = vec![bind(&data, "/new/deep/data")])?;
    t.exec(&id, "test -e /new/deep/data/from-host && touch /new/deep/data/from-container")?;
    assert!(data.join("from-container").exists());
    Ok(())
});

on_both!(a_read_only_one_cannot_be_written, |t| {
    let data = folder(t, "data")?;
    let (_, id) =
        t.sleeper(|c| c.mounts = vec![Mount { readonly: true, ..bind(&data, "/data") }])?;
    t.exec(&id, "! touch /data/x")?;
    assert!(!data.join("x").exists());
    Ok(())
});

on_both!(one_that_is_not_there_is_made, |t| {
    let data = t.dir.join("deep/data");
    let (_, id) = t.sleeper(|c| c.mounts = vec![bind(&data, "/data")])?;
    t.exec(&id, "echo x > /data/note")?;
    ensure!(data.join("note").exists());
    Ok(())
});

on_both!(a_file_can_be_mounted_over_a_file, |t| {
    let file = t.dir.join("hosts");
    std::fs::copy("/etc/hostname", &file)?;
    let (_, id) =
        t.sleeper(|c| c.mounts = vec![bind(&file, "/etc/hosts"), bind(&file, "/made/here")])?;
    let text = std::fs::read_to_string(&file)?;
    assert_eq!(t.exec(&id, "cat /etc/hosts")?, text.trim_end());
    assert_eq!(t.exec(&id, "cat /made/here")?, text.trim_end());
    Ok(())
});

on_both!(a_symbolic_link_of_the_host_is_followed_and_one_of_the_image_stays_inside, |t| {
    let (data, link) = (folder(t, "data")?, t.dir.join("link"));
    std::fs::File::create(data.join("note"))?;
    std::os::unix::fs::symlink(&data, &link)?;
    let image = t.busybox()?.layer(|layer| {
        layer.symlink("escape", t.dir.join("outside").to_str().unwrap());
    })?;
    let image = t.push("mounts/escape", &image)?;
    t.cri.pull(&image)?;
    let outside = folder(t, "outside")?;
    let pod = t.pod("web", |_| ())?;
    let id = t.run(&pod, "main", |c| c.mounts = vec![bind(&link, "/data")])?;
    t.exec(&id, "test -e /data/note")?;
    let hostile = t.try_create(&pod, "hostile", |c| {
        c.image = Some(davit_e2e::cri::spec(&image));
        c.mounts = vec![bind(&data, "/escape/below")];
    });
    // runc makes the mount point inside, crun refuses what leads to nothing inside.
    if let Err(refusal) = hostile {
        assert!(refusal.message().contains("escape"), "{refusal:?}");
    }
    assert!(std::fs::read_dir(&outside)?.next().is_none(), "the mount point was made on the host");
    Ok(())
});

on_both!(propagation_is_as_asked, |t| {
    let shared = folder(t, "shared")?;
    // On the way to a kubelet's volume everything is shared; here only this one mount has to be.
    mount(c"tmpfs", &shared, c"tmpfs", MountFlags::empty(), None)?;
    mount_change(&shared, MountPropagationFlags::SHARED)?;
    let pod = t.pod("web", |p| {
        p.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    })?;
    let make = |name: &str, propagation: i32| {
        t.run(&pod, name, |c| {
            security(c).privileged = true;
            c.mounts = vec![Mount { propagation, ..bind(&shared, "/shared") }];
        })
    };
    let (private, slave, both) = (make("private", 0)?, make("slave", 1)?, make("both", 2)?);
    std::fs::create_dir(shared.join("host"))?;
    mount(c"tmpfs", shared.join("host"), c"tmpfs", MountFlags::empty(), None)?;
    std::fs::File::create(shared.join("host/note"))?;
    t.exec(&private, "! test -e /shared/host/note")?;
    t.exec(&slave, "test -e /shared/host/note")?;
    t.exec(&both, "test -e /shared/host/note")?;
    for id in [&private, &slave, &both] {
        t.exec(
            id,
            "mkdir -p /shared/$$ && mount -t tmpfs tmpfs /shared/$$ && touch /shared/$$/inside",
        )?;
    }
    let inside = std::fs::read_dir(&shared)?
        .flatten()
        .filter(|entry| entry.path().join("inside").exists())
        .count();
    assert_eq!(inside, 1, "only the container with both ways shows its mount to the host");
    t.cri.remove_pod(&pod.id)?;
    for entry in std::fs::read_dir(&shared)?.flatten() {
        // Some are mounts, some are the mount points of containers that are gone.
        let _ = unmount(entry.path(), UnmountFlags::DETACH);
    }
    unmount(&shared, UnmountFlags::DETACH)?;
    Ok(())
});

on_one!(a_mount_that_shares_needs_a_source_that_is_shared, |t| {
    let private = folder(t, "private")?;
    mount(c"tmpfs", &private, c"tmpfs", MountFlags::empty(), None)?;
    mount_change(&private, MountPropagationFlags::PRIVATE)?;
    let pod = t.pod("web", |_| ())?;
    let answer = t.try_create(&pod, "main", |c| {
        c.mounts = vec![Mount { propagation: 2, ..bind(&private, "/data") }]
    });
    let status = answer.err().context("refused")?;
    assert!(status.message().contains(private.to_str().unwrap()), "{status:?}");
    unmount(&private, UnmountFlags::DETACH)?;
    Ok(())
});
