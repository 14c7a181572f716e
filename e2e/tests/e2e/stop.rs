//! StopContainer: the signal, the grace, the end.

use davit_e2e::prelude::*;
use std::time::Instant;

on_both!(who_obeys_the_signal_ends_at_once_with_its_own_code, |t| {
    let (_, id) = t.sleeper(|c| {
        c.command = sh("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    })?;
    wait_for_word(t, &id)?;
    let begun = Instant::now();
    t.cri.stop(&id, 20)?;
    ensure!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    let status = t.cri.status(&id)?;
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 9));
    Ok(())
});

on_both!(who_ignores_it_is_killed_after_the_grace, |t| {
    let (_, id) =
        t.sleeper(|c| c.command = sh("trap '' TERM; echo ready; while :; do sleep 0.05; done"))?;
    wait_for_word(t, &id)?;
    let begun = Instant::now();
    t.cri.stop(&id, 1)?;
    let took = begun.elapsed();
    ensure!(took >= Duration::from_secs(1) && took < Duration::from_secs(5), "it took {took:?}");
    assert_eq!(t.cri.status(&id)?.exit_code, 137);
    Ok(())
});

on_both!(no_grace_is_a_kill, |t| {
    let (_, id) =
        t.sleeper(|c| c.command = sh("trap '' TERM; echo ready; while :; do sleep 0.05; done"))?;
    wait_for_word(t, &id)?;
    let begun = Instant::now();
    t.cri.stop(&id, 0)?;
    ensure!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());
    assert_eq!(t.cri.status(&id)?.exit_code, 137);
    Ok(())
});

on_both!(the_signal_is_the_images, |t| {
    let image = t.pull("davit-test/configured:latest")?;
    let pod = t.pod("web", |_| ())?;
    let id = t.run(&pod, "main", |c| {
        c.image = Some(davit_e2e::cri::spec(&image));
        c.command =
            sh("trap 'exit 4' TERM; trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done");
    })?;
    wait_for_word(t, &id)?;
    t.cri.stop(&id, 10)?;
    assert_eq!(t.cri.status(&id)?.exit_code, 5);
    Ok(())
});

on_both!(nothing_of_the_container_outlives_it, |t| {
    let (_, id) = t.sleeper(|c| {
        c.command = sh("trap '' HUP TERM; setsid sleep 4323 & echo ready; exec sleep 4323")
    })?;
    wait_for_word(t, &id)?;
    t.cri.stop(&id, 0)?;
    assert_eq!(t.cri.status(&id)?.state(), ContainerState::ContainerExited);
    // The search at the end of the test would find the other process too; here it has to be gone when the answer comes.
    let found = davit_e2e::leaks::find(&t.settings(), t.daemon().pid(), &[])?;
    let sleeping: Vec<_> = found.iter().filter(|line| line.contains("sleep 4323")).collect();
    assert!(sleeping.is_empty(), "{sleeping:?}");
    Ok(())
});

on_one!(a_second_stop_shortens_the_first, |t| {
    let (_, id) =
        t.sleeper(|c| c.command = sh("trap '' TERM; echo ready; while :; do sleep 0.05; done"))?;
    wait_for_word(t, &id)?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| t.cri.stop(&id, 30));
        pause(Duration::from_millis(300));
        t.cri.stop(&id, 0)?;
        first.join().unwrap()?;
        anyhow::Ok(())
    })?;
    ensure!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    Ok(())
});

on_one!(a_created_container_can_be_stopped_and_removed, |t| {
    let pod = t.pod("web", |_| ())?;
    let id = t.create(&pod, "main", |_| ())?;
    t.cri.stop(&id, 5)?;
    t.cri.remove(&id)?;
    let id = t.create(&pod, "main", |_| ())?;
    t.cri.remove(&id)?;
    assert!(t.cri.containers(None)?.is_empty());
    Ok(())
});

on_both!(a_running_container_can_be_removed, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    t.cri.remove(&id)?;
    assert!(t.cri.containers(None)?.is_empty());
    Ok(())
});

/// A signal before the trap is set would kill where the test wants to see it caught.
fn wait_for_word(t: &Test, id: &str) -> Result<()> {
    eventually(Duration::from_secs(30), "the container says that it is ready", || {
        let lines = t.log(&t.cri.status(id)?)?;
        Ok(lines
            .iter()
            .any(|line| line.content == "ready" || line.content.starts_with("entry"))
            .then_some(()))
    })
}

on_both!(a_paused_container_can_be_stopped, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let _paused = davit_e2e::host::Frozen::around(t.pid(&id)?)?;
    let begun = std::time::Instant::now();
    t.cri.stop(&id, 1)?;
    ensure!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    assert_eq!(t.cri.status(&id)?.state(), ContainerState::ContainerExited);
    Ok(())
});

on_both!(a_paused_container_can_be_removed, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let _paused = davit_e2e::host::Frozen::around(t.pid(&id)?)?;
    t.cri.remove(&id)?;
    assert_eq!(t.cri.status(&id).err().context("it is gone")?.code(), Code::NotFound);
    Ok(())
});
