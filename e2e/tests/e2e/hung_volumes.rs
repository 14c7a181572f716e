//! Volumes whose server does not answer.

use crate::hung::{LIMIT, SLACK, WITHIN, names, others_go_on};
use davit_e2e::prelude::*;
use std::time::Instant;

fn short_runtime(settings: &mut Settings) -> Result<()> {
    settings.tables = format!("[timeouts]\nruntime = \"{LIMIT}s\"\n");
    Ok(())
}

/// Asks for a container that has `path`, which is refused after so long, by its name.
fn refused_at(t: &Test, pod: &Pod, path: &Path) -> Result<Duration> {
    let begun = Instant::now();
    let answer = t.try_create(pod, "hung", |c| {
        c.mounts = vec![Mount {
            container_path: "/data".to_owned(),
            host_path: path.to_string_lossy().into_owned(),
            ..Mount::default()
        }];
    });
    let status = answer.err().context("it does not hang")?;
    names(&status, Code::DeadlineExceeded, &[&path.to_string_lossy(), "no answer within"])?;
    Ok(begun.elapsed())
}

on_one!(a_volume_that_does_not_answer_costs_nothing_but_its_containers, setup: short_runtime, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    let share = t.dir.join("share");
    let server = crate::hidden::mount_share(&share)?;
    // Its root is known without a word from its server.
    let data = share.join("data");
    let limit = Duration::from_secs(LIMIT);
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| refused_at(t, &pod, &data));
        pause(Duration::from_secs(1));
        assert_eq!(t.exec(&id, "echo well")?, "well");
        others_go_on(t, Some(&pod))?;
        ensure!(!creating.is_finished(), "it does not hang, or it held up the others");
        let took = creating.join().unwrap()?;
        ensure!((limit..limit + SLACK).contains(&took), "given up after {took:?}");
        Ok(())
    })?;
    // As the kubelet does: nobody else is sent there.
    for _ in 0..5 {
        let took = refused_at(t, &pod, &data)?;
        ensure!(took < limit, "again it took {took:?}");
    }
    // A stop waits for it, and no longer.
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| refused_at(t, &pod, &share.join("more")));
        pause(Duration::from_secs(1));
        t.cri.stop_pod(&pod.id)?;
        creating.join().unwrap()?;
        Ok::<_, anyhow::Error>(())
    })?;
    t.cri.remove_pod(&pod.id)?;
    assert!(t.cri.containers(None)?.is_empty());
    drop(server);
    rustix::mount::unmount(&share, rustix::mount::UnmountFlags::DETACH)?;
    // A directory like others now, which can be made.
    let next = t.pod("next", |_| ())?;
    eventually(WITHIN, "a container has it", || {
        Ok(refused_at(t, &next, &data).is_err().then_some(()))
    })?;
    assert_eq!(t.cri.containers(None)?.len(), 1);
    Ok(())
});
