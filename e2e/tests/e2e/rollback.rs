//! Failures on the way: at each step that a create asks something of the OCI runtime it fails once; what was made is unmade, and the
//! same request, sent again, succeeds.

use davit_e2e::prelude::*;

/// Puts a handler in front of the OCI runtime that fails while `DIR/fail-COMMAND` exists, and hangs while `DIR/hang-COMMAND` does.
fn failing_runtime(settings: &mut Settings) -> Result<()> {
    let dir = settings.dir.display();
    let script = format!(
        "for word in \"$@\"; do
    if [ -e {dir}/fail-$word ]; then echo \"$word refused on purpose\" >&2; exit 1; fi
    if [ -e {dir}/hang-$word ]; then exec sleep 4325; fi
done"
    );
    settings.wrap_runtime(&script, 3)
}

on_both!(a_refused_create_leaves_nothing_and_can_be_repeated, setup: failing_runtime, |t| {
    let pod = t.pod("web", |_| ())?;
    t.set_flag("fail-create")?;
    let failed = t.try_create(&pod, "main", |_| ()).and_then(|id| {
        let started = t.cri.start(&id);
        t.cri.remove(&id)?;
        started
    });
    let status = failed.err().context("the refusal was not told")?;
    assert!(status.message().contains("create refused on purpose"), "{status:?}");
    assert!(t.cri.containers(None)?.is_empty());
    let kept = davit_e2e::host::names_in(&t.settings().root().join("containers"))?;
    assert!(kept.is_empty(), "{kept:?}");
    t.clear_flag("fail-create")?;
    let id = t.run(&pod, "main", |_| ())?;
    assert_eq!(t.exec(&id, "echo well")?, "well");
    Ok(())
});

on_both!(a_refused_start_is_an_end_with_a_reason, setup: failing_runtime, |t| {
    let pod = t.pod("web", |_| ())?;
    let id = t.create(&pod, "main", |_| ())?;
    t.set_flag("fail-start")?;
    let status = t.cri.start(&id).err().context("the refusal was not told")?;
    assert!(status.message().contains("start refused on purpose"), "{status:?}");
    t.clear_flag("fail-start")?;
    let after = t.cri.status(&id)?;
    assert_eq!((after.state(), after.exit_code), (ContainerState::ContainerExited, 128));
    assert_eq!(after.reason, "StartError");
    assert!(after.message.contains("start refused on purpose"), "{after:?}");
    t.cri.remove(&id)?;
    t.run(&pod, "main", |_| ())?;
    Ok(())
});

on_both!(a_runtime_that_hangs_is_given_up, setup: failing_runtime, |t| {
    let pod = t.pod("web", |_| ())?;
    t.set_flag("hang-create")?;
    let begun = std::time::Instant::now();
    let failed = t.try_create(&pod, "main", |_| ()).and_then(|id| {
        let started = t.cri.start(&id);
        t.cri.remove(&id)?;
        started
    });
    assert!(failed.is_err());
    ensure!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
    t.clear_flag("hang-create")?;
    assert!(t.cri.containers(None)?.is_empty());
    t.run(&pod, "main", |_| ())?;
    Ok(())
});

on_both!(a_refused_delete_is_told_and_can_be_repeated, setup: failing_runtime, |t| {
    t.allow_log("refused on purpose");
    let (_, id) = t.sleeper(|_| ())?;
    t.cri.stop(&id, 0)?;
    t.set_flag("fail-delete")?;
    // It may have been deleted when it ended, or be deleted now: then the removal fails, and works the next time.
    let first = t.cri.remove(&id);
    t.clear_flag("fail-delete")?;
    if let Err(status) = first {
        assert!(status.message().contains("refused on purpose"), "{status:?}");
    }
    t.cri.remove(&id)?;
    assert!(t.cri.containers(None)?.is_empty());
    Ok(())
});

on_one!(a_client_that_goes_away_leaves_a_whole_pod_or_none, |t| {
    for (number, limit) in [1_u64, 5, 10, 20, 40, 80].into_iter().enumerate() {
        let config = t.pod_config(&format!("pod-{number}"));
        std::fs::create_dir_all(&config.log_directory)?;
        let mut request = tonic::Request::new(k8s_cri::v1::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        });
        request.set_timeout(Duration::from_millis(limit));
        drop(t.cri.wait(t.cri.runtime().run_pod_sandbox(request)));
        // The kubelet asks again.
        let id = t.cri.run_pod(&config, "")?;
        assert_eq!(t.cri.pod_status(&id)?.state(), PodSandboxState::SandboxReady);
    }
    assert_eq!(t.cri.pods(None)?.len(), 6);
    Ok(())
});
