//! Images as volumes (KEP-4639): the merged tree, or a directory of it, read-only, for as long as the container is there.

use davit_e2e::prelude::*;
use davit_proto::cri::{ImageSpec, Mount};

/// Two layers: what is merged, replaced and hidden can be told, and links that lead out of the image.
fn model(t: &Test) -> Result<String> {
    let image = ImageBuilder::new()
        .layer(|layer| {
            layer.file("models/v1/weights", "old").file("gone", "x").file("notes", "one");
        })?
        .layer(|layer| {
            layer.file("models/v1/weights", "new").file("models/v2/weights", "next");
            layer.whiteout("gone").symlink("link", "/models/v2").symlink("up", "../../../../etc");
        })?;
    let reference = t.push("volumes/model", &image)?;
    t.cri.pull(&reference)?;
    Ok(reference)
}

fn volume(image: &str, container: &str, sub_path: &str) -> Mount {
    Mount {
        container_path: container.to_owned(),
        readonly: true,
        image: Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() }),
        image_sub_path: sub_path.to_owned(),
        ..Mount::default()
    }
}

/// What the host sees mounted of this container.
fn mounts_of(id: &str) -> Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter(|line| line.contains(id)).map(str::to_owned).collect())
}

on_both!(an_image_is_mounted_whole_or_in_part_and_cannot_be_written, |t| {
    let image = model(t)?;
    let pod = t.pod("web", |_| ())?;
    let mounts = vec![
        volume(&image, "/all", ""),
        volume(&image, "/all-too", ""),
        volume(&image, "/made/here/v1", "models/v1"),
        volume(&image, "/link", "link"),
        Mount { recursive_read_only: true, ..volume(&image, "/recursive", "models") },
    ];
    let id = t.run_newer(&pod, "main", |c| c.mounts = mounts.clone())?;
    assert!(mounts_of(&id)?.is_empty(), "the host sees {:?}", mounts_of(&id)?);
    assert_eq!(
        t.exec(&id, "cat /all/models/v1/weights /all/models/v2/weights /all/notes")?,
        "newnextone"
    );
    assert_eq!(t.exec(&id, "ls /all | tr '\\n' ' '")?, "link models notes up");
    assert_eq!(
        t.exec(&id, "cat /made/here/v1/weights /link/weights /recursive/v1/weights")?,
        "newnextnew"
    );
    for path in ["/all", "/made/here/v1", "/recursive"] {
        t.exec(&id, &format!("! touch {path}/x"))?;
    }
    let told = t.cri.newer_status(&id)?.mounts;
    assert_eq!(told, mounts);
    Ok(())
});

on_both!(an_image_of_one_layer_or_none_is_a_volume_too, |t| {
    let one = ImageBuilder::new().layer(|layer| {
        layer.file("file", "text").whiteout("nothing");
    })?;
    let (one, none) = (t.push("volumes/one", &one)?, t.push("volumes/none", &ImageBuilder::new())?);
    t.cri.pull(&one)?;
    let id = t.cri.pull(&none)?;
    let pod = t.pod("web", |_| ())?;
    let mounts = vec![volume(&one, "/one", ""), volume(&id, "/none", "")];
    let main = t.run_newer(&pod, "main", |c| c.mounts = mounts)?;
    assert_eq!(
        t.exec(&main, "ls /one; cat /one/file; ls -A /none; ! touch /none/x /one/x")?,
        "file\ntext"
    );
    Ok(())
});

on_both!(a_program_of_an_image_can_be_run, |t| {
    let image = t.pull("davit-test/busybox:latest")?;
    let pod = t.pod("web", |_| ())?;
    let id = t.run_newer(&pod, "main", |c| c.mounts = vec![volume(&image, "/tools", "bin")])?;
    assert_eq!(t.exec(&id, "/tools/echo hello")?, "hello");
    Ok(())
});

on_both!(a_volume_outlives_its_image_and_a_restart_of_the_daemon, |t| {
    let image = model(t)?;
    let pod = t.pod("web", |_| ())?;
    let id = t.run_newer(&pod, "main", |c| c.mounts = vec![volume(&image, "/all", "")])?;
    t.cri.remove_image(&image)?;
    assert!(t.cri.image(&image)?.is_none());
    t.daemon().kill()?;
    t.daemon().spawn()?;
    assert_eq!(t.exec(&id, "cat /all/models/v1/weights")?, "new");
    let retried =
        t.try_create_newer(&pod, "main", |c| c.mounts = vec![volume(&image, "/all", "")])??;
    assert_eq!(retried, id, "a retry is the same container");
    let layers = || davit_e2e::host::names_in(&t.settings().root().join("layers"));
    let kept = layers()?.len();
    t.cri.stop(&id, 0)?;
    t.cri.remove(&id)?;
    eventually(Duration::from_secs(30), "the image's layers are gone", || {
        Ok((layers()?.len() + 2 == kept).then_some(()))
    })
});

on_both!(what_cannot_be_mounted_is_refused_by_its_field_and_nothing_stays, |t| {
    let image = model(t)?;
    let pod = t.pod("web", |_| ())?;
    for (code, text, mount) in [
        (Code::NotFound, "mounts[0].image", volume("no.such/image:1", "/c", "")),
        (Code::InvalidArgument, "mounts[0].image_sub_path", volume(&image, "/c", "none")),
        (Code::InvalidArgument, "mounts[0].image_sub_path", volume(&image, "/c", "gone")),
        (Code::InvalidArgument, "mounts[0].image_sub_path", volume(&image, "/c", "notes")),
        // The host has one, the image none.
        (Code::InvalidArgument, "mounts[0].image_sub_path", volume(&image, "/c", "up")),
        (
            Code::InvalidArgument,
            "mounts[0].host_path",
            Mount { host_path: "/tmp".to_owned(), ..volume(&image, "/c", "") },
        ),
        (
            Code::InvalidArgument,
            "mounts[0].readonly",
            Mount { readonly: false, ..volume(&image, "/c", "") },
        ),
    ] {
        let status = t.try_create_newer(&pod, "main", |c| c.mounts = vec![mount.clone()])?.err();
        let status = status.with_context(|| format!("{mount:?} was taken"))?;
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");
    }
    assert!(t.cri.containers(None)?.is_empty());
    // The name is free.
    t.run(&pod, "main", |_| ())?;
    Ok(())
});
