//! Bad input: each item an error of its own that names the field and the value, and nothing half-made after it.

use davit_e2e::prelude::*;
use k8s_cri::v1::{Int64Value, PodSandboxStateValue};

/// A refused pod or container leaves the lists as they were; the frame looks for everything else.
fn nothing_made(t: &Test, pods: usize, containers: usize) -> Result<()> {
    assert_eq!(t.cri.pods(None)?.len(), pods);
    assert_eq!(t.cri.containers(None)?.len(), containers);
    Ok(())
}

fn refuse_pod(
    t: &Test,
    code: Code,
    texts: &[&str],
    change: impl FnOnce(&mut PodSandboxConfig),
) -> Result<()> {
    let answer = t.try_pod("bad", change).map(|pod| pod.id);
    refused(answer, code, texts)?;
    nothing_made(t, 0, 0)
}

fn refuse_container(
    t: &Test,
    pod: &Pod,
    code: Code,
    texts: &[&str],
    change: impl FnOnce(&mut ContainerConfig),
) -> Result<()> {
    refused(t.try_create(pod, "bad", change), code, texts)?;
    nothing_made(t, 1, 0)
}

on_one!(a_pod_without_its_names_is_refused, |t| {
    let invalid = Code::InvalidArgument;
    refuse_pod(t, invalid, &["metadata"], |p| p.metadata = None)?;
    refuse_pod(t, invalid, &["metadata.name"], |p| p.metadata.as_mut().unwrap().name.clear())?;
    refuse_pod(t, invalid, &["metadata.namespace"], |p| {
        p.metadata.as_mut().unwrap().namespace.clear()
    })?;
    Ok(())
});

on_one!(annotations_of_ten_megabytes_are_refused_by_name, |t| {
    let huge = || std::collections::HashMap::from([("note".to_owned(), "x".repeat(10 << 20))]);
    let told = ["annotations 10485764", "524288"];
    refuse_pod(t, Code::InvalidArgument, &told, |p| p.annotations = huge())?;
    t.pull("davit-test/busybox:latest")?;
    let pod = t.pod("web", |_| ())?;
    refuse_container(t, &pod, Code::InvalidArgument, &told, |c| c.annotations = huge())?;
    let told = ["image.annotations 10485764", "524288"];
    refuse_container(t, &pod, Code::InvalidArgument, &told, |c| {
        c.image.as_mut().unwrap().annotations = huge();
    })?;
    // What Kubernetes allows is taken, and comes back.
    let allowed = "y".repeat(256 << 10);
    let large = t.pod("large", |p| {
        p.annotations.insert("note".to_owned(), allowed.clone());
    })?;
    assert_eq!(t.cri.pod_status(&large.id)?.annotations.get("note"), Some(&allowed));
    Ok(())
});

on_one!(a_pod_with_values_that_cannot_be_is_refused, |t| {
    let invalid = Code::InvalidArgument;
    let parent = |p: &mut PodSandboxConfig, value: &str| {
        value.clone_into(&mut p.linux.as_mut().unwrap().cgroup_parent);
    };
    refuse_pod(t, invalid, &["cgroup_parent", "/a/../../b"], |p| parent(p, "/a/../../b"))?;
    refuse_pod(t, invalid, &["log_directory", "not/absolute"], |p| {
        "not/absolute".clone_into(&mut p.log_directory)
    })?;
    let hostname = "x".repeat(65);
    refuse_pod(t, invalid, &["hostname", &hostname], |p| p.hostname.clone_from(&hostname))?;
    let port = |host_port, container_port, protocol| k8s_cri::v1::PortMapping {
        protocol,
        container_port,
        host_port,
        host_ip: String::new(),
    };
    refuse_pod(t, invalid, &["port", "70000"], |p| p.port_mappings = vec![port(70_000, 80, 0)])?;
    refuse_pod(t, invalid, &["port", "-1"], |p| p.port_mappings = vec![port(8080, -1, 0)])?;
    refuse_pod(t, invalid, &["protocol", "9"], |p| p.port_mappings = vec![port(8080, 80, 9)])?;
    let address =
        k8s_cri::v1::PortMapping { host_ip: "no-address".to_owned(), ..port(8080, 80, 0) };
    refuse_pod(t, invalid, &["host_ip", "no-address"], |p| p.port_mappings = vec![address])?;
    let sysctl = |p: &mut PodSandboxConfig, name: &str| {
        p.linux.as_mut().unwrap().sysctls = [(name.to_owned(), "1".to_owned())].into();
    };
    refuse_pod(t, invalid, &["sysctl", "vm.swappiness"], |p| sysctl(p, "vm.swappiness"))?;
    refuse_pod(t, invalid, &["sysctl", "net/../../x"], |p| sysctl(p, "net/../../x"))?;
    Ok(())
});

on_one!(an_unknown_handler_is_refused, |t| {
    let answer = t.cri.run_pod(&t.pod_config("bad"), "no-such-handler");
    refused(answer, Code::InvalidArgument, &["no-such-handler"])?;
    nothing_made(t, 0, 0)
});

on_one!(a_name_that_another_pod_has_is_refused, |t| {
    let first = t.pod("web", |_| ())?;
    let answer = t.try_pod("web", |p| "another".clone_into(&mut p.hostname)).map(|pod| pod.id);
    refused(answer, Code::AlreadyExists, &["web", &first.id])?;
    nothing_made(t, 1, 0)
});

on_one!(a_name_that_another_container_has_is_refused, |t| {
    let pod = t.pod("web", |_| ())?;
    let first = t.create(&pod, "main", |_| ())?;
    let answer = t.try_create(&pod, "main", |c| c.command = sh("another"));
    refused(answer, Code::AlreadyExists, &["main", &first])?;
    nothing_made(t, 1, 1)
});

on_one!(a_container_with_values_that_cannot_be_is_refused, |t| {
    let pod = t.pod("web", |_| ())?;
    let invalid = Code::InvalidArgument;
    refuse_container(t, &pod, invalid, &["metadata"], |c| c.metadata = None)?;
    refuse_container(t, &pod, invalid, &["metadata.name"], |c| {
        c.metadata.as_mut().unwrap().name.clear()
    })?;
    refuse_container(t, &pod, invalid, &["image"], |c| c.image = None)?;
    refuse_container(t, &pod, invalid, &["working_dir", "not/absolute"], |c| {
        "not/absolute".clone_into(&mut c.working_dir);
    })?;
    refuse_container(t, &pod, invalid, &["log_path", "../../escape"], |c| {
        "../../escape".clone_into(&mut c.log_path)
    })?;
    refuse_container(t, &pod, invalid, &["envs", "A=B"], |c| {
        c.envs = vec![KeyValue { key: "A=B".to_owned(), value: String::new() }];
    })?;
    refuse_container(t, &pod, invalid, &["oom_score_adj", "1001"], |c| {
        resources(c).oom_score_adj = 1001
    })?;
    refuse_container(t, &pod, invalid, &["memory_limit", "-5"], |c| {
        resources(c).memory_limit_in_bytes = -5
    })?;
    refuse_container(t, &pod, invalid, &["run_as_group"], |c| {
        security(c).run_as_group = Some(Int64Value { value: 5 });
    })?;
    refuse_container(t, &pod, invalid, &["run_as_user", "-3"], |c| {
        security(c).run_as_user = Some(Int64Value { value: -3 });
    })?;
    refuse_container(t, &pod, invalid, &["target_id"], |c| {
        security(c).namespace_options =
            Some(NamespaceOption { pid: 3, ..NamespaceOption::default() });
    })?;
    Ok(())
});

fn without_missing_paths(settings: &mut Settings) -> Result<()> {
    "missing_host_paths = \"refuse\"\n".clone_into(&mut settings.keys);
    Ok(())
}

on_one!(mounts_that_cannot_be_are_refused, setup: without_missing_paths, |t| {
    let pod = t.pod("web", |_| ())?;
    let mount = |container: &str, host: &str| Mount {
        container_path: container.to_owned(),
        host_path: host.to_owned(),
        ..Mount::default()
    };
    let missing = t.dir.join("missing").to_string_lossy().into_owned();
    let invalid = Code::InvalidArgument;
    refuse_container(t, &pod, invalid, &["mounts", "relative"], |c| {
        c.mounts = vec![mount("relative", "/tmp")]
    })?;
    refuse_container(t, &pod, invalid, &["mounts", "also/relative"], |c| {
        c.mounts = vec![mount("/data", "also/relative")];
    })?;
    let answer = t.try_create(&pod, "bad", |c| c.mounts = vec![mount("/data", &missing)]);
    let status = answer.err().context("a missing source is taken")?;
    assert!(status.message().contains(&missing), "{status:?}");
    assert!(!Path::new(&missing).exists(), "the source was made");
    nothing_made(t, 1, 0)?;
    refuse_container(t, &pod, invalid, &["propagation", "7"], |c| {
        c.mounts = vec![Mount { propagation: 7, ..mount("/data", "/tmp") }];
    })?;
    refuse_container(t, &pod, invalid, &["recursive_read_only"], |c| {
        c.mounts = vec![Mount { recursive_read_only: true, ..mount("/data", "/tmp") }];
    })?;
    Ok(())
});

on_both!(who_and_what_the_image_does_not_have_is_refused, |t| {
    let pod = t.pod("web", |_| ())?;
    let image = |name: &str| Some(davit_e2e::cri::spec(&t.registry.reference(name)));
    let absent = t.registry.reference("davit-test/busybox:two");
    refuse_container(t, &pod, Code::NotFound, &[&absent], |c| {
        c.image = image("davit-test/busybox:two")
    })?;
    for (tag, text) in [("unknown-name", "nobody-knows"), ("unknown-group", "nobody-knows")] {
        t.pull(&format!("davit-test/user:{tag}"))?;
        let answer =
            t.try_create(&pod, "bad", |c| c.image = image(&format!("davit-test/user:{tag}")));
        let status = answer.err().with_context(|| format!("{tag} is taken"))?;
        assert!(status.message().contains(text), "{status:?}");
    }
    let answer =
        t.try_create(&pod, "bad", |c| "no-such-user".clone_into(&mut security(c).run_as_username));
    let status = answer.err().context("an unknown user is taken")?;
    assert!(status.message().contains("no-such-user"), "{status:?}");
    nothing_made(t, 1, 0)
});

on_both!(a_command_that_is_not_there_is_told_and_leaves_nothing, |t| {
    let pod = t.pod("web", |_| ())?;
    let created = t.try_create(&pod, "bad", |c| c.command = vec!["/no/such/command".to_owned()]);
    let status = match created {
        Err(status) => {
            nothing_made(t, 1, 0)?;
            status
        }
        Ok(id) => {
            let status = t.cri.start(&id).err().context("a missing command was started")?;
            let after = t.cri.status(&id)?;
            assert_eq!((after.state(), after.exit_code), (ContainerState::ContainerExited, 128));
            assert_eq!(after.reason, "StartError");
            t.cri.remove(&id)?;
            status
        }
    };
    assert!(status.message().contains("/no/such/command"), "{status:?}");
    Ok(())
});

on_one!(an_image_without_a_command_needs_one, |t| {
    let image = t.busybox()?.set("Cmd", serde_json::Value::Null);
    let reference = t.push("bad/no-command", &image)?;
    t.cri.pull(&reference)?;
    let pod = t.pod("web", |_| ())?;
    refuse_container(t, &pod, Code::InvalidArgument, &["command"], |c| {
        c.image = Some(davit_e2e::cri::spec(&reference));
        c.command.clear();
    })
});

on_one!(a_pod_that_is_not_ready_takes_no_container, |t| {
    let pod = t.pod("web", |_| ())?;
    let id = t.create(&pod, "main", |_| ())?;
    t.cri.stop_pod(&pod.id)?;
    let answer = t.try_create(&pod, "late", |_| ());
    refused(answer, Code::FailedPrecondition, &[&pod.id])?;
    refused(t.cri.start(&id), Code::FailedPrecondition, &[&id])?;
    let ready = PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() };
    let filter = k8s_cri::v1::PodSandboxFilter { state: Some(ready), ..Default::default() };
    assert!(t.cri.pods(Some(filter))?.is_empty());
    Ok(())
});

on_one!(names_that_are_no_images_are_refused, |t| {
    for name in [
        "",
        " ",
        "docker.io/UPPER/case",
        "a/b:c:d",
        "x@sha256:short",
        "/leading",
        "a//b",
        "http://a/b",
        &"a".repeat(5000),
    ] {
        let status = t.cri.pull(name).err().with_context(|| format!("{name:?} was pulled"))?;
        assert_eq!(status.code(), Code::InvalidArgument, "{name:?}: {status:?}");
    }
    let absent = t.registry.reference("no/such:image");
    refused(t.cri.pull(&absent), Code::NotFound, &[&absent])?;
    Ok(())
});

on_one!(a_message_that_is_too_long_is_refused_and_the_connection_lives, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let long = "x".repeat((16 << 20) + 1);
    let request = k8s_cri::v1::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["true".to_owned(), long],
        timeout: 10,
    };
    // One connection all along: what comes after the refusal travels on it.
    let client = t.cri.runtime();
    for round in 0..3 {
        let mut again = client.clone();
        let answer = t.cri.wait(again.exec_sync(request.clone()));
        let status = answer.err().with_context(|| format!("round {round}: it was taken"))?;
        ensure!(
            matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted),
            "round {round}: {status:?}"
        );
        ensure!(status.message().contains(&(16 << 20).to_string()), "{status:?}");
        let mut next = client.clone();
        let request =
            k8s_cri::v1::ContainerStatusRequest { container_id: id.clone(), verbose: false };
        t.cri.wait(next.container_status(request))?;
    }
    // A little less is a call like any other: the program can't be given so much, and that is told.
    let request = k8s_cri::v1::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["true".to_owned(), "x".repeat(15 << 20)],
        timeout: 10,
    };
    match t.cri.wait(t.cri.runtime().exec_sync(request)) {
        Ok(answer) => assert_ne!(answer.exit_code, 0),
        Err(status) => assert!(status.message().len() < 4096, "{}", status.message().len()),
    }
    assert_eq!(t.exec(&id, "echo fine")?, "fine");
    Ok(())
});

on_both!(a_log_path_stays_in_the_pods_log_directory, |t| {
    let pod = t.pod("web", |_| ())?;
    for path in ["..", ".", "/", "../x.log", "a/../../x.log", "a/..", "/etc/x.log", "a/", "x\0y"] {
        refuse_container(t, &pod, Code::InvalidArgument, &["log_path"], |c| {
            path.clone_into(&mut c.log_path)
        })
        .with_context(|| format!("{path:?}"))?;
    }
    // A link in its place, which the kubelet never makes, leads nowhere.
    let logs = PathBuf::from(&pod.config.log_directory);
    let outside = t.dir.join("outside");
    std::fs::create_dir(&outside)?;
    std::os::unix::fs::symlink(outside.join("x.log"), logs.join("link.log"))?;
    let answer = t.try_create(&pod, "bad", |c| "link.log".clone_into(&mut c.log_path));
    assert!(answer.is_err(), "a link was followed");
    nothing_made(t, 1, 0)?;
    std::os::unix::fs::symlink(&outside, logs.join("aside"))?;
    let answer = t.try_create(&pod, "bad", |c| "aside/0.log".clone_into(&mut c.log_path));
    assert!(answer.is_err(), "a link to a directory was followed");
    nothing_made(t, 1, 0)?;
    assert_eq!(davit_e2e::host::names_in(&outside)?, Vec::<String>::new());
    // What the kubelet does make.
    std::fs::create_dir(logs.join("main"))?;
    let id = t.run(&pod, "main", |c| {
        "main/0.log".clone_into(&mut c.log_path);
        c.command = sh("echo said");
    })?;
    let status = t.wait_for_exit(&id)?;
    assert_eq!(status.log_path, logs.join("main/0.log").to_string_lossy());
    assert_eq!(t.log(&status)?.len(), 1);
    Ok(())
});
