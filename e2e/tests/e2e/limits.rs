//! Limits: in the cgroup's files, felt inside, told back.

use davit_e2e::prelude::*;

const MIB: i64 = 1 << 20;

on_both!(limits_are_in_the_cgroups_files_and_told_back, |t| {
    let (_, id) = t.sleeper(|c| {
        let limits = resources(c);
        limits.cpu_period = 50_000;
        limits.cpu_quota = 20_000;
        limits.cpu_shares = 512;
        limits.memory_limit_in_bytes = 64 * MIB;
        "0".clone_into(&mut limits.cpuset_cpus);
    })?;
    let pid = t.pid(&id)?;
    let limit = cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max")?;
    assert_eq!(limit, (64 * MIB).to_string());
    let quota = cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
    assert_eq!(quota.split(' ').next(), Some("20000"));
    if let Ok(period) = cgroup_value(pid, "cpu", "cpu.cfs_period_us", "cpu.max") {
        assert_eq!(period.split(' ').next_back(), Some("50000"));
    }
    assert_eq!(cgroup_value(pid, "cpuset", "cpuset.cpus", "cpuset.cpus")?, "0");
    let told = t
        .cri
        .status(&id)?
        .resources
        .and_then(|resources| resources.linux)
        .context("resources are told")?;
    assert_eq!((told.cpu_quota, told.cpu_period, told.cpu_shares), (20_000, 50_000, 512));
    assert_eq!((told.memory_limit_in_bytes, told.cpuset_cpus.as_str()), (64 * MIB, "0"));
    Ok(())
});

on_both!(out_of_memory_is_told_as_such, |t| {
    let pod = t.pod("web", |_| ())?;
    let (status, _) = t.output(&pod, "main", |c| {
        resources(c).memory_limit_in_bytes = 24 * MIB;
        resources(c).memory_swap_limit_in_bytes = 24 * MIB;
        c.command =
            ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"].map(str::to_owned).to_vec();
    })?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    Ok(())
});

on_both!(a_kill_that_is_none_of_memory_is_not_told_as_such, |t| {
    let pod = t.pod("web", |_| ())?;
    let id = t.run(&pod, "main", |c| resources(c).memory_limit_in_bytes = 64 * MIB)?;
    t.cri.stop(&id, 0)?;
    let status = t.cri.status(&id)?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    Ok(())
});

on_both!(the_oom_score_adjustment_is_set, |t| {
    let (_, id) = t.sleeper(|c| resources(c).oom_score_adj = 321)?;
    assert_eq!(t.exec(&id, "cat /proc/1/oom_score_adj")?, "321");
    Ok(())
});

on_both!(limits_can_be_changed_while_it_runs, |t| {
    use k8s_cri::v1::UpdateContainerResourcesRequest;
    let (_, id) = t.sleeper(|c| {
        resources(c).memory_limit_in_bytes = 64 * MIB;
        resources(c).cpu_shares = 512;
    })?;
    let linux = LinuxContainerResources { memory_limit_in_bytes: 96 * MIB, ..Default::default() };
    let request = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(linux),
        ..UpdateContainerResourcesRequest::default()
    };
    t.cri.wait(t.cri.runtime().update_container_resources(request))?;
    let limit = cgroup_value(t.pid(&id)?, "memory", "memory.limit_in_bytes", "memory.max")?;
    assert_eq!(limit, (96 * MIB).to_string());
    let told = t
        .cri
        .status(&id)?
        .resources
        .and_then(|resources| resources.linux)
        .context("resources are told")?;
    assert_eq!((told.memory_limit_in_bytes, told.cpu_shares), (96 * MIB, 512));
    Ok(())
});

on_both!(a_change_of_limits_that_cannot_be_changes_nothing, |t| {
    use k8s_cri::v1::{UpdateContainerResourcesRequest, WindowsContainerResources};
    let (_, id) = t.sleeper(|c| resources(c).memory_limit_in_bytes = 64 * MIB)?;
    let update = |linux: LinuxContainerResources, windows: Option<WindowsContainerResources>| {
        let request = UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(linux),
            windows,
            ..UpdateContainerResourcesRequest::default()
        };
        t.cri.wait(t.cri.runtime().update_container_resources(request))
    };
    let asked = |memory, swap| LinuxContainerResources {
        memory_limit_in_bytes: memory,
        memory_swap_limit_in_bytes: swap,
        ..LinuxContainerResources::default()
    };
    let windows = Some(WindowsContainerResources::default());
    for (what, answer) in [
        ("a negative limit", update(asked(-5, 0), None)),
        ("less than a process needs", update(asked(1, 0), None)),
        ("a swap limit below the memory limit", update(asked(0, MIB), None)),
        ("another system's", update(asked(0, 0), windows)),
    ] {
        let error = answer.err().context(what)?;
        assert_eq!(error.code(), Code::InvalidArgument, "{what}: {error}");
    }
    t.exec(&id, "dd if=/dev/zero of=/dev/shm/held bs=1M count=30 2>/dev/null")?;
    let held = update(asked(20 * MIB, 0), None).err().context("less than it uses")?;
    assert_eq!(held.code(), Code::FailedPrecondition, "{held}");
    assert!(held.message().contains("memory_limit_in_bytes"), "{held}");
    t.exec(&id, "rm /dev/shm/held")?;
    let score = LinuxContainerResources { oom_score_adj: 500, ..Default::default() };
    update(score, None)?;
    let limit = cgroup_value(t.pid(&id)?, "memory", "memory.limit_in_bytes", "memory.max")?;
    assert_eq!(limit, (64 * MIB).to_string());
    t.cri.stop(&id, 0)?;
    let late = update(asked(96 * MIB, 0), None).err().context("it has ended")?;
    assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
    Ok(())
});

on_both!(changed_limits_outlive_the_daemon_and_other_calls_go_on_meanwhile, |t| {
    use k8s_cri::v1::UpdateContainerResourcesRequest;
    let pod = t.pod("web", |_| ())?;
    let id = t.create(&pod, "main", |c| resources(c).memory_limit_in_bytes = 64 * MIB)?;
    let request = |step: i64| UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(LinuxContainerResources {
            memory_limit_in_bytes: (64 + step) * MIB,
            cpu_shares: 100 + step,
            ..LinuxContainerResources::default()
        }),
        ..UpdateContainerResourcesRequest::default()
    };
    // Of a container that only waits to be started, many at once, with its start among them.
    std::thread::scope(|scope| -> Result<()> {
        let changes: Vec<_> = (1..=4)
            .map(|step| {
                let call = t.cri.runtime();
                scope.spawn(move || {
                    let mut call = call;
                    t.cri.block_on(async { call.update_container_resources(request(step)).await })
                })
            })
            .collect();
        t.cri.start(&id)?;
        for change in changes {
            change.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })?;
    let told = |t: &Test| -> Result<(i64, i64)> {
        let resources = t.cri.status(&id)?.resources.and_then(|resources| resources.linux);
        let linux = resources.context("resources are told")?;
        Ok((linux.memory_limit_in_bytes, linux.cpu_shares))
    };
    let (memory, shares) = told(t)?;
    let limit = cgroup_value(t.pid(&id)?, "memory", "memory.limit_in_bytes", "memory.max")?;
    assert_eq!(limit, memory.to_string(), "the last change stands, and is the one that is told");
    assert_eq!(memory / MIB - 64, shares - 100, "no two changes are mixed");
    t.daemon().kill()?;
    t.daemon().spawn()?;
    assert_eq!(told(t)?, (memory, shares));
    Ok(())
});

on_both!(use_is_measured, |t| {
    use k8s_cri::v1::ContainerStatsRequest;
    let (_, id) = t.sleeper(|_| ())?;
    t.exec(&id, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")?;
    let request = ContainerStatsRequest { container_id: id.clone() };
    let stats =
        t.cri.wait(t.cri.runtime().container_stats(request))?.stats.context("stats are there")?;
    let cpu = stats.cpu.context("cpu is there")?;
    let memory = stats.memory.context("memory is there")?;
    assert!(cpu.timestamp > 0 && memory.timestamp > 0);
    assert!(cpu.usage_core_nano_seconds.context("cpu use is there")?.value > 1_000_000);
    assert!(memory.working_set_bytes.context("memory use is there")?.value > 0);
    assert_eq!(stats.attributes.map(|attributes| attributes.id), Some(id));
    Ok(())
});

on_both!(a_pods_limits_are_set_where_davit_made_its_cgroup, |t| {
    use davit_e2e::host::cgroup_file;
    use davit_proto::cri;
    let (pod, id) = t.sleeper(|_| ())?;
    let limits = |memory: i64, quota: i64| cri::LinuxContainerResources {
        memory_limit_in_bytes: memory,
        cpu_quota: quota,
        cpu_period: 100_000,
        ..Default::default()
    };
    let request = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        overhead: Some(limits(16 * MIB, 10_000)),
        resources: Some(limits(64 * MIB, 40_000)),
    };
    t.cri.wait(t.cri.newer().update_pod_sandbox_resources(request))?;
    let above = |controller: &str, v1: &str, v2: &str| -> Result<String> {
        let file = cgroup_file(t.pid(&id)?, controller, v1, v2)?;
        let pod = file.parent().and_then(Path::parent).context("the pod's cgroup")?;
        let name = file.file_name().context("a name")?;
        Ok(std::fs::read_to_string(pod.join(name))?.trim().to_owned())
    };
    if Path::new("/run/systemd/system").is_dir() {
        // Slices are systemd's: there the call is only written down, and is no limit.
        let memory = above("memory", "memory.limit_in_bytes", "memory.max")?;
        assert_ne!(memory, (80 * MIB).to_string());
        return Ok(());
    }
    let memory = above("memory", "memory.limit_in_bytes", "memory.max")?;
    assert_eq!(memory, (80 * MIB).to_string());
    let quota = above("cpu", "cpu.cfs_quota_us", "cpu.max")?;
    assert_eq!(quota.split(' ').next(), Some("50000"));
    Ok(())
});
