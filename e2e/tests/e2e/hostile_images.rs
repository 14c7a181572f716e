//! Layers that mean harm: whatever they name, nothing outside their own directory changes.

use davit_e2e::images::{Entry, Kind, Layer};
use davit_e2e::prelude::*;

/// A file of the host, outside of everything that davit may touch, that a layer tries to reach.
struct Target {
    file: PathBuf,
    dir: PathBuf,
}

impl Target {
    fn new(t: &Test) -> Result<Self> {
        let dir = t.dir.join("target");
        std::fs::create_dir(&dir)?;
        let file = dir.join("secret");
        std::fs::copy("/etc/hostname", &file)?;
        Ok(Self { file, dir })
    }

    /// Demands that the host's file is as it was and has no neighbour.
    fn check(&self) -> Result<()> {
        ensure!(
            std::fs::read(&self.file)? == std::fs::read("/etc/hostname")?,
            "the file was changed"
        );
        let names = davit_e2e::host::names_in(&self.dir)?;
        ensure!(names == ["secret"], "there is more than before: {names:?}");
        let metadata = std::fs::metadata(&self.file)?;
        ensure!(std::os::unix::fs::MetadataExt::nlink(&metadata) == 1, "it was linked to");
        Ok(())
    }
}

/// Pulls an image with this layer, and runs it if it was taken: refused or held inside, both are right, reaching out is not.
fn try_layer(
    t: &Test,
    name: &str,
    fill: impl FnOnce(&mut Layer, &Target),
) -> Result<Option<String>> {
    let target = Target::new(t)?;
    let image = t.busybox()?.layer(|layer| fill(layer, &target))?;
    let reference = t.push(&format!("hostile/{name}"), &image)?;
    let pulled = t.cri.pull(&reference);
    target.check()?;
    let refusal = pulled.err().map(|status| status.message().to_owned());
    if let Some(refusal) = &refusal {
        // Refused for what it is, and not for some trouble on the way.
        ensure!(refusal.contains("entry"), "{refusal}");
        ensure!(t.cri.list_images()?.is_empty(), "a refused image is listed");
    } else {
        let pod = t.pod("web", |_| ())?;
        let id = t.run(&pod, "main", |c| c.image = Some(davit_e2e::cri::spec(&reference)))?;
        t.exec(
            &id,
            "for file in /target/secret /link/new /hard; do cat $file; echo x > $file; done; true",
        )?;
        target.check()?;
    }
    Ok(refusal)
}

on_one!(a_name_with_dots_stays_inside, |t| {
    let refusal = try_layer(t, "dots", |layer, target| {
        let up = "../".repeat(20);
        layer.file(&format!("{up}{}/new", target.dir.display()), "x");
        layer.file(&format!("etc/../{up}{}", target.file.display()), "x");
    })?;
    let refusal = refusal.context("a name with `..` is taken")?;
    assert!(refusal.contains(".."), "{refusal}");
    Ok(())
});

on_one!(an_absolute_name_stays_inside, |t| {
    let target = Target::new(t)?;
    let (new, secret) = (target.dir.join("new"), target.file.to_string_lossy().into_owned());
    let image = t.busybox()?.layer(|layer| {
        layer.file(&new.to_string_lossy(), "new").file(&secret, "inside");
        layer.hard_link("/hard", &secret);
    })?;
    let reference = t.push("hostile/absolute", &image)?;
    t.cri.pull(&reference)?;
    target.check()?;
    let pod = t.pod("web", |_| ())?;
    let id = t.run(&pod, "main", |c| c.image = Some(davit_e2e::cri::spec(&reference)))?;
    let new = new.display();
    assert_eq!(t.exec(&id, &format!("cat {new} {secret} /hard"))?, "newinsideinside");
    t.exec(&id, &format!("for file in {new} {secret} /hard; do echo x > $file; done"))?;
    target.check()
});

on_one!(a_file_below_a_symbolic_link_stays_inside, |t| {
    try_layer(t, "symlink", |layer, target| {
        layer
            .symlink("link", &target.dir.to_string_lossy())
            .file("link/new", "x")
            .file("link/secret", "x");
        layer
            .symlink("up", &"../".repeat(20))
            .file(&format!("up{}/new", target.dir.display()), "x");
    })?;
    Ok(())
});

on_one!(a_file_over_a_symbolic_link_replaces_it, |t| {
    try_layer(t, "over", |layer, target| {
        layer.symlink("link", &target.file.to_string_lossy()).file("link", "x");
    })?;
    Ok(())
});

on_one!(a_hard_link_stays_inside, |t| {
    let refusal = try_layer(t, "hard", |layer, target| {
        layer.hard_link("hard", &format!("{}{}", "../".repeat(20), target.file.display()));
    })?;
    assert!(refusal.is_some(), "a hard link to `..` is taken");
    Ok(())
});

on_one!(a_hard_link_through_a_symbolic_link_stays_inside, |t| {
    try_layer(t, "hard-symlink", |layer, target| {
        layer.symlink("link", &target.dir.to_string_lossy()).hard_link("hard", "link/secret");
    })?;
    Ok(())
});

on_one!(a_whiteout_stays_inside, |t| {
    try_layer(t, "whiteout", |layer, target| {
        layer
            .symlink("link", &target.dir.to_string_lossy())
            .file("link/.wh.secret", "")
            .file("link/.wh..wh..opq", "");
        layer.file(".wh...", "").file("etc/.wh..", "").file(".wh.", "");
    })?;
    Ok(())
});

on_one!(a_directorys_mode_is_not_set_through_a_symbolic_link, |t| {
    use std::os::unix::fs::PermissionsExt as _;
    try_layer(t, "mode", |layer, target| {
        layer.symlink("link", &target.dir.to_string_lossy());
        layer.entry(Entry { uid: 1234, ..Entry::new("link", Kind::Directory, 0o777) });
    })?;
    let mode = std::fs::metadata(t.dir.join("target"))?.permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    Ok(())
});

on_one!(layers_lie_over_each_other_as_the_image_specification_says, |t| {
    let image = t
        .busybox()?
        .layer(|layer| {
            layer.directory("d").file("d/gone", "1").file("d/kept", "1").file("f", "1");
            layer
                .directory("opaque")
                .file("opaque/gone", "1")
                .file("was-file", "1")
                .directory("was-dir");
            layer.entry(Entry { uid: 7, gid: 8, ..Entry::new("owned", Kind::Directory, 0o2751) });
        })?
        .layer(|layer| {
            layer
                .whiteout("d/gone")
                .file("d/new", "2")
                .file("f", "2")
                .opaque("opaque")
                .file("opaque/new", "2");
            layer
                .directory("was-file")
                .file("was-dir", "2")
                .whiteout("bin/vi")
                .file("owned/child", "2");
            layer.hard_link("d/hard", "d/new");
        })?;
    let reference = t.push("layers/app", &image)?;
    t.cri.pull(&reference)?;
    let pod = t.pod("web", |_| ())?;
    let id = t.run(&pod, "main", |c| c.image = Some(davit_e2e::cri::spec(&reference)))?;
    assert_eq!(
        t.exec(&id, "cat /f; echo; ls /d /opaque; cat /was-dir")?,
        "2\n/d:\nhard\nkept\nnew\n\n/opaque:\nnew\n2"
    );
    t.exec(&id, "test -d /was-file && test ! -e /bin/vi && test /d/hard -ef /d/new")?;
    assert_eq!(t.exec(&id, "stat -c '%u %g %a' /owned")?, "7 8 2751");
    Ok(())
});

on_one!(an_archive_that_is_none_is_refused, |t| {
    for (name, image) in [
        ("noise", ImageBuilder::new().archive(&[0xa5; 4096])?),
        ("short", ImageBuilder::new().compression(Compression::None).archive(b"too short")?),
    ] {
        let reference = t.push(&format!("broken/{name}"), &image)?;
        let status = t.cri.pull(&reference).err().with_context(|| format!("{name} was taken"))?;
        assert!(status.message().contains("broken/"), "{status:?}");
        assert!(t.cri.list_images()?.is_empty());
    }
    Ok(())
});

on_one!(a_layer_that_lies_about_itself_is_refused, |t| {
    let wrong = format!("sha256:{}", "1".repeat(64));
    let image = || {
        ImageBuilder::new().layer(|layer| {
            layer.file("file", vec![b'x'; 100_000]);
        })
    };
    for (name, image, text) in [
        ("diff-id", image()?.lie_about_diff_id(&wrong), "diff"),
        ("small", image()?.lie_about_size(10), "bytes"),
        ("large", image()?.lie_about_size(10_000_000), "bytes"),
        ("missing", image()?.lie_about_digest(&wrong), "1111"),
    ] {
        let reference = t.push(&format!("lies/{name}"), &image)?;
        let status = t.cri.pull(&reference).err().with_context(|| format!("{name} was taken"))?;
        assert!(status.message().to_lowercase().contains(text), "{name}: {status:?}");
        assert!(t.cri.list_images()?.is_empty(), "{name}");
        // What was begun of it is out of sight at once; its files go in the background.
        eventually(Duration::from_secs(30), "nothing is left of the layer", || {
            let layers = davit_e2e::host::names_in(&t.settings().root().join("layers"))?;
            Ok(layers.is_empty().then_some(()))
        })?;
    }
    Ok(())
});
