//! Images: pulled in every packing, named, listed, removed; and registries that misbehave.

use davit_e2e::prelude::*;
use davit_e2e::registry::Registry;
use k8s_cri::v1::AuthConfig;

/// What the image store holds besides its own bookkeeping: nothing of a pull that failed may stay.
fn unpacked(t: &Test) -> Result<Vec<String>> {
    davit_e2e::host::names_in(&t.settings().root().join("layers"))
}

on_one!(every_packing_gives_the_same_files, |t| {
    let pod = t.pod("web", |_| ())?;
    let mut sums = Vec::new();
    for tag in ["gzip", "zstd", "plain", "docker", "index"] {
        let image = t.pull(&format!("davit-test/busybox:{tag}"))?;
        let id = t.run(&pod, tag, |c| c.image = Some(davit_e2e::cri::spec(&image)))?;
        sums.push(
            t.exec(&id, "cd / && tar -c bin lib home tmp var etc/passwd etc/group | sha256sum")?,
        );
    }
    assert!(sums.windows(2).all(|pair| pair[0] == pair[1]), "{sums:?}");
    Ok(())
});

on_one!(an_image_is_found_by_each_of_its_names_under_one_id, |t| {
    let reference = t.registry.reference("davit-test/busybox:one");
    let id = t.cri.pull(&reference)?;
    assert!(id.starts_with("sha256:"), "{id}");
    let digest = t.registry.store().resolve("davit-test/busybox", "one").context("in the store")?;
    let by_digest = format!("{}@{digest}", t.registry.reference("davit-test/busybox"));
    for name in [&reference, &by_digest, &id, &id["sha256:".len()..].to_owned()] {
        let image = t.cri.image(name)?.with_context(|| format!("{name} is known"))?;
        assert_eq!(image.id, id);
        assert_eq!(image.repo_tags, [reference.as_str()]);
        assert_eq!(image.repo_digests, [by_digest.as_str()]);
        assert!(image.size > 0);
    }
    assert!(t.cri.image("no.such/image:1")?.is_none());
    assert!(t.cri.image(&format!("sha256:{}", "0".repeat(64)))?.is_none());
    Ok(())
});

on_one!(three_tags_are_one_image_and_removing_one_removes_it, |t| {
    let mut ids = Vec::new();
    for tag in ["one", "two", "three"] {
        ids.push(t.cri.pull(&t.registry.reference(&format!("davit-test/busybox:{tag}")))?);
    }
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    let images = t.cri.list_images()?;
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].repo_tags.len(), 3);
    t.cri.remove_image(&t.registry.reference("davit-test/busybox:two"))?;
    assert!(t.cri.list_images()?.is_empty());
    t.cri.remove_image(&ids[0])?;
    // The layer is out of sight at once; its files go in the background.
    eventually(Duration::from_secs(30), "its layer is gone", || {
        Ok(unpacked(t)?.is_empty().then_some(()))
    })?;
    Ok(())
});

on_one!(names_without_registry_or_tag_are_docker_hubs_latest, |t| {
    let id = t.cri.pull("busybox")?;
    assert_eq!(t.cri.pull("docker.io/library/busybox:latest")?, id);
    let image = t.cri.image("busybox")?.context("known")?;
    assert_eq!(image.repo_tags, ["docker.io/library/busybox:latest"]);
    Ok(())
});

on_one!(a_tag_that_moves_takes_the_name_along, |t| {
    let image = |text: &str| {
        ImageBuilder::new().layer(|layer| {
            layer.file("version", text);
        })
    };
    let reference = t.push("moving/app", &image("1")?)?;
    let first = t.cri.pull(&reference)?;
    t.push("moving/app", &image("2")?)?;
    let second = t.cri.pull(&reference)?;
    assert_ne!(first, second);
    assert_eq!(t.cri.image(&reference)?.context("known")?.id, second);
    let old = t.cri.image(&first)?.context("still known by its id")?;
    assert!(old.repo_tags.is_empty(), "{old:?}");
    Ok(())
});

on_one!(the_user_of_an_image_is_told, |t| {
    let image = |tag: &str| -> Result<k8s_cri::v1::Image> {
        let reference = t.pull(&format!("davit-test/user:{tag}"))?;
        t.cri.image(&reference)?.context("known")
    };
    assert_eq!(image("uid")?.uid.map(|uid| uid.value), Some(1234));
    assert_eq!(image("uid-gid")?.uid.map(|uid| uid.value), Some(1234));
    assert_eq!(image("name")?.username, "davit");
    assert_eq!(image("name-group")?.username, "davit");
    Ok(())
});

on_one!(however_many_ask_each_digest_is_downloaded_once, |t| {
    let base = [
        "davit-test/busybox:one",
        "davit-test/busybox:two",
        "davit-test/user:uid",
        "davit-test/user:name",
    ];
    std::thread::scope(|scope| {
        let threads: Vec<_> = base
            .iter()
            .cycle()
            .take(16)
            .map(|name| scope.spawn(|| t.cri.pull(&t.registry.reference(name))))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap().map(drop))
    })?;
    let mut blobs: Vec<String> = t
        .registry
        .requests()
        .into_iter()
        .filter(|request| request.method == "GET" && request.target.contains("/blobs/"))
        .map(|request| request.target.rsplit('/').next().unwrap_or_default().to_owned())
        .collect();
    blobs.sort();
    let total = blobs.len();
    blobs.dedup();
    assert_eq!(total, blobs.len(), "a blob was downloaded twice");
    // One layer, and one configuration for each of three images.
    assert_eq!(total, 4, "{blobs:?}");
    Ok(())
});

on_one!(a_pull_of_what_is_there_downloads_nothing, |t| {
    let reference = t.pull("davit-test/busybox:one")?;
    let before = t.registry.requests().len();
    t.cri.pull(&reference)?;
    let asked = t.registry.requests().split_off(before);
    assert!(asked.iter().all(|request| !request.target.contains("/blobs/")), "{asked:?}");
    Ok(())
});

on_one!(five_removals_at_once_all_succeed, |t| {
    let id = t.cri.pull(&t.registry.reference("davit-test/busybox:one"))?;
    std::thread::scope(|scope| {
        let remove = || -> Result<()> {
            t.cri.remove_image(&id)?;
            assert!(t.cri.image(&id)?.is_none());
            Ok(())
        };
        let threads: Vec<_> = (0..5).map(|_| scope.spawn(remove)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })
});

on_both!(a_container_outlives_the_removal_of_its_image, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    t.cri.remove_image(&t.registry.reference("davit-test/busybox:latest"))?;
    assert!(t.cri.list_images()?.is_empty());
    assert_eq!(t.exec(&id, "cat /etc/passwd | wc -l")?, "5");
    assert!(!t.cri.status(&id)?.image_id.is_empty());
    Ok(())
});

on_one!(the_file_system_of_images_is_told, |t| {
    t.pull("davit-test/busybox:one")?;
    let request = k8s_cri::v1::ImageFsInfoRequest {};
    let info = t.cri.wait(t.cri.images().image_fs_info(request))?;
    let system = info.image_filesystems.first().context("there is one")?;
    let mountpoint = &system.fs_id.as_ref().context("it has an id")?.mountpoint;
    assert!(Path::new(mountpoint).starts_with(t.settings().root()), "{mountpoint}");
    assert!(system.used_bytes.as_ref().is_some_and(|used| used.value > 1 << 20), "{system:?}");
    assert!(system.inodes_used.as_ref().is_some_and(|used| used.value > 10), "{system:?}");
    assert!(system.timestamp > 0);
    Ok(())
});

on_one!(credentials_are_shown_to_their_registry_only, |t| {
    let auth = AuthConfig {
        username: "davit".to_owned(),
        password: "hush-hush".to_owned(),
        ..AuthConfig::default()
    };
    let (user, password) = (auth.username.clone(), auth.password.clone());
    let reference = t.registry.reference("davit-test/busybox:one");
    // Blobs come from elsewhere, as they do from most registries: elsewhere must not learn the password.
    let elsewhere = Registry::start(t.registry.store().clone())?;
    t.registry
        .fault("davit-test/busybox", Fault::Redirect(format!("http://{}", elsewhere.address())));
    for demanded in [
        Auth::Basic { user: user.clone(), password: password.clone() },
        Auth::Token { user, password },
    ] {
        t.registry.require(demanded);
        assert!(t.cri.pull(&reference).is_err(), "without credentials");
        let wrong = AuthConfig { password: "guess".to_owned(), ..auth.clone() };
        assert!(t.cri.pull_as(&reference, Some(wrong)).is_err(), "with wrong ones");
        t.cri.pull_as(&reference, Some(auth.clone()))?;
        t.cri.remove_image(&reference)?;
    }
    assert!(
        elsewhere.requests().iter().any(|request| request.status == 200),
        "blobs came from elsewhere"
    );
    assert!(elsewhere.requests().iter().all(|request| request.authorization.is_none()));
    assert!(!t.daemon().log().contains("hush-hush"), "the password is in the log");
    Ok(())
});

on_one!(anybodys_token_is_asked_for, |t| {
    t.registry.require(Auth::AnonymousToken);
    t.pull("davit-test/busybox:one")?;
    Ok(())
});

on_one!(what_a_registry_spoils_is_refused_and_nothing_of_it_stays, |t| {
    let reference = t.registry.reference("davit-test/busybox:one");
    for (fault, texts) in [
        (Fault::Corrupt, vec!["digest"]),
        (Fault::Longer(100_000), vec![]),
        (Fault::Truncated, vec![]),
        (Fault::WrongManifest, vec!["digest"]),
        (Fault::HugeManifest(100 << 20), vec!["manifest"]),
        (Fault::Refuse { status: 500, times: 1000 }, vec!["500"]),
        (Fault::Refuse { status: 404, times: 1000 }, vec![]),
    ] {
        t.registry.fault("davit-test/busybox", fault.clone());
        let status =
            t.cri.pull(&reference).err().with_context(|| format!("{fault:?} was not noticed"))?;
        assert!(status.message().contains("davit-test/busybox"), "{fault:?}: {status:?}");
        for text in texts {
            assert!(status.message().to_lowercase().contains(text), "{fault:?}: {status:?}");
        }
        assert!(t.cri.list_images()?.is_empty(), "{fault:?}");
        eventually(Duration::from_secs(30), "nothing is left of the layers", || {
            Ok(unpacked(t)?.is_empty().then_some(()))
        })?;
    }
    t.registry.heal("davit-test/busybox");
    t.cri.pull(&reference)?;
    Ok(())
});

on_one!(a_registry_that_fails_now_and_then_is_asked_again, |t| {
    t.registry.fault("davit-test/busybox", Fault::Refuse { status: 503, times: 3 });
    t.pull("davit-test/busybox:one")?;
    Ok(())
});

on_one!(
    a_pull_that_stands_still_is_given_up,
    setup: |s| {
        "pull_progress_timeout = \"1s\"\n".clone_into(&mut s.keys);
        Ok(())
    },
    |t| {
        t.registry.fault("davit-test/busybox", Fault::Stalled);
        let begun = std::time::Instant::now();
        assert!(t.cri.pull(&t.registry.reference("davit-test/busybox:one")).is_err());
        ensure!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
        Ok(())
    }
);

on_one!(a_client_that_goes_away_ends_no_pull, |t| {
    let reference = t.registry.reference("davit-test/busybox:one");
    t.registry.fault("davit-test/busybox", Fault::Slow(2 << 20));
    let answer = t.cri.pull_within(&reference, Duration::from_millis(200));
    ensure!(answer.is_err(), "the pull was faster than the test");
    // It goes on, or it is joined by the next one: in either way no byte is fetched twice.
    t.cri.pull(&reference)?;
    let digest = t.registry.store().resolve("davit-test/busybox", "one").context("in the store")?;
    let manifest: serde_json::Value = serde_json::from_slice(&t.registry.store().read(&digest)?)?;
    let layer = Digest::parse(manifest["layers"][0]["digest"].as_str().context("a digest")?)?;
    assert_eq!(t.registry.downloads(&layer), 1);
    Ok(())
});

on_one!(images_are_there_after_a_restart, |t| {
    let reference = t.pull("davit-test/busybox:one")?;
    let before = t.cri.list_images()?;
    t.daemon().kill()?;
    t.daemon().spawn()?;
    assert_eq!(t.cri.list_images()?, before);
    t.cri.remove_image(&reference)?;
    t.daemon().stop()?;
    t.daemon().spawn()?;
    assert!(t.cri.list_images()?.is_empty());
    Ok(())
});
