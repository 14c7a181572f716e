//! Containers: what is asked for is what is inside.

use davit_e2e::prelude::*;
use k8s_cri::v1::Device;
use std::collections::HashMap;

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|word| (*word).to_owned()).collect()
}

on_both!(a_container_passes_through_all_its_states, |t| {
    let pod = t.pod("web", |_| ())?;
    let id = t.create(&pod, "main", |c| c.command = sh("sleep 0.5; exit 7"))?;
    let created = t.cri.status(&id)?;
    assert_eq!(created.state(), ContainerState::ContainerCreated);
    assert!(
        created.created_at > 0 && created.started_at == 0 && created.finished_at == 0,
        "{created:?}"
    );
    t.cri.start(&id)?;
    let running = t.cri.status(&id)?;
    assert_eq!(running.state(), ContainerState::ContainerRunning);
    assert!(running.started_at >= created.created_at && running.finished_at == 0, "{running:?}");
    let exited = t.wait_for_exit(&id)?;
    assert_eq!((exited.exit_code, exited.reason.as_str()), (7, "Error"));
    assert!(exited.finished_at >= running.started_at + 300_000_000, "{exited:?}");
    refused(t.cri.start(&id), Code::FailedPrecondition, &[&id])?;
    t.cri.remove(&id)?;
    refused(t.cri.status(&id), Code::NotFound, &[&id])?;
    t.cri.remove(&id)?;
    t.cri.stop(&id, 1)?;
    Ok(())
});

on_both!(exit_codes_and_signals_are_told, |t| {
    let pod = t.pod("web", |_| ())?;
    for (number, (script, code, reason)) in [
        ("exit 0", 0, "Completed"),
        ("exit 3", 3, "Error"),
        ("exit 255", 255, "Error"),
        // As PID 1 a shell is immune to its own signals: a child is not.
        ("sh -c 'kill -9 $$'; exit $?", 137, "Error"),
        ("sh -c 'kill -15 $$'; exit $?", 143, "Error"),
    ]
    .into_iter()
    .enumerate()
    {
        let (status, _) = t.output(&pod, &format!("c{number}"), |c| c.command = sh(script))?;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{script}");
    }
    Ok(())
});

on_both!(command_arguments_environment_and_directory_are_as_asked, |t| {
    let pod = t.pod("web", |_| ())?;
    let (_, lines) = t.output(&pod, "main", |c| {
        c.command = words(&["sh", "-c", "printf '%s|' \"$@\"; echo; pwd; echo \"$A|$B|$EMPTY|\""]);
        c.args = words(&["name", "one", "", "two words", "$A"]);
        "/var/tmp".clone_into(&mut c.working_dir);
        let env =
            |key: &str, value: &str| KeyValue { key: key.to_owned(), value: value.to_owned() };
        c.envs = vec![env("A", "first"), env("A", "last"), env("B", "x=y z"), env("EMPTY", "")];
    })?;
    let text: Vec<&str> = lines.iter().map(|line| line.content.as_str()).collect();
    assert_eq!(text, ["one||two words|$A|", "/var/tmp", "last|x=y z||"]);
    Ok(())
});

on_both!(what_is_not_asked_for_is_the_images, |t| {
    let image = t.pull("davit-test/configured:latest")?;
    let pod = t.pod("web", |_| ())?;
    let id = t.run(&pod, "main", |c| {
        c.image = Some(davit_e2e::cri::spec(&image));
        c.command.clear();
        c.envs = vec![KeyValue { key: "SHADOWED".to_owned(), value: "pod".to_owned() }];
    })?;
    assert_eq!(t.exec(&id, "echo $FROM_IMAGE $SHADOWED $PATH")?, "image pod /bin");
    assert_eq!(t.exec(&id, "id -u; id -g; pwd")?, "1234\n1235\n/work");
    assert_eq!(t.exec(&id, "tr '\\0' ' ' < /proc/1/cmdline")?, "sleep 1000");
    assert_eq!(t.exec(&id, "cat /volume/from-image")?, "kept");
    let lines = eventually(Duration::from_secs(30), "the entrypoint speaks", || {
        let lines = t.log(&t.cri.status(&id)?)?;
        Ok((!lines.is_empty()).then_some(lines))
    })?;
    assert_eq!(lines[0].content, "entry one two");
    Ok(())
});

on_both!(arguments_replace_the_images_command_and_keep_its_entrypoint, |t| {
    let image = t.pull("davit-test/configured:latest")?;
    let pod = t.pod("web", |_| ())?;
    let run = |name: &str, command: &[&str], args: &[&str]| -> Result<String> {
        let id = t.run(&pod, name, |c| {
            c.image = Some(davit_e2e::cri::spec(&image));
            c.command = words(command);
            c.args = words(args);
        })?;
        eventually(Duration::from_secs(30), "the container speaks", || {
            Ok(t.log(&t.cri.status(&id)?)?.first().map(|line| line.content.clone()))
        })
    };
    assert_eq!(run("args", &[], &["three"])?, "entry three");
    assert_eq!(run("command", &["echo", "own"], &[])?, "own");
    assert_eq!(run("both", &["echo", "own"], &["more"])?, "own more");
    Ok(())
});

on_both!(every_form_of_user_is_found_in_the_image, |t| {
    let pod = t.pod("web", |_| ())?;
    for (tag, ids) in [
        ("uid", "1234 1235 1235 4000"),
        ("name", "1234 1235 1235 4000"),
        ("uid-gid", "1234 4001 4001"),
        ("name-group", "1234 4000 4000"),
        ("name-gid", "1234 4001 4001"),
        ("unlisted-uid", "4242 0 0"),
    ] {
        let image = t.pull(&format!("davit-test/user:{tag}"))?;
        let id = t.run(&pod, tag, |c| c.image = Some(davit_e2e::cri::spec(&image)))?;
        let found = t.exec(&id, "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -nu)")?;
        let wanted: Vec<&str> = ids.split(' ').collect();
        let found: Vec<&str> = found.split(' ').collect();
        assert_eq!(found[..2], wanted[..2], "{tag}");
        assert!(found.contains(&wanted[2]), "{tag}: {found:?}");
    }
    Ok(())
});

on_both!(the_pods_user_and_groups_win, |t| {
    use k8s_cri::v1::Int64Value;
    let pod = t.pod("web", |_| ())?;
    let value = |value| Some(Int64Value { value });
    let ids = |name: &str, change: &dyn Fn(&mut ContainerConfig)| -> Result<String> {
        let id = t.run(&pod, name, |c| change(c))?;
        t.exec(&id, "echo $(id -u) $(id -g) $(id -G)")
    };
    assert_eq!(ids("uid", &|c| security(c).run_as_user = value(1234))?, "1234 1235 1235 4000");
    let uid_gid = ids("uid-gid", &|c| {
        security(c).run_as_user = value(77);
        security(c).run_as_group = value(88);
        security(c).supplemental_groups = vec![99, 100];
    })?;
    assert_eq!(uid_gid, "77 88 88 99 100");
    assert_eq!(
        ids("name", &|c| "davit".clone_into(&mut security(c).run_as_username))?,
        "1234 1235 1235 4000"
    );
    let strict = ids("strict", &|c| {
        "davit".clone_into(&mut security(c).run_as_username);
        security(c).supplemental_groups_policy = 1;
        security(c).supplemental_groups = vec![99];
    })?;
    assert_eq!(strict, "1234 1235 1235 99");
    let status = t.cri.containers(None)?.len();
    assert_eq!(status, 4);
    Ok(())
});

on_both!(a_device_of_the_host_is_inside_with_its_permissions, |t| {
    // The kernel's log: a device that no container has by default, and that nobody is hurt by.
    let (_, id) = t.sleeper(|c| {
        c.devices = vec![Device {
            container_path: "/dev/own".to_owned(),
            host_path: "/dev/kmsg".to_owned(),
            permissions: "w".to_owned(),
        }];
    })?;
    t.exec(&id, "echo 'davit: a test writes here' > /dev/own")?;
    t.exec(&id, "! head -c 1 /dev/own")?;
    t.exec(&id, "! test -e /dev/kmsg && ! test -e /dev/vda")?;
    let missing = "for d in null zero full random urandom tty; do test -c /dev/$d || echo $d; done";
    assert_eq!(t.exec(&id, missing)?, "");
    Ok(())
});

on_one!(labels_annotations_and_mounts_come_back_as_they_were, |t| {
    let labels = HashMap::from([("app".to_owned(), "web".to_owned())]);
    let annotations = HashMap::from([("note".to_owned(), "two\nlines".to_owned())]);
    let data = t.dir.join("data");
    std::fs::create_dir(&data)?;
    let mount = Mount {
        container_path: "/data".to_owned(),
        host_path: data.to_string_lossy().into_owned(),
        readonly: true,
        ..Mount::default()
    };
    let (_, id) = t.sleeper(|c| {
        c.labels.clone_from(&labels);
        c.annotations.clone_from(&annotations);
        c.mounts = vec![mount.clone()];
    })?;
    let status = t.cri.status(&id)?;
    assert_eq!((&status.labels, &status.annotations), (&labels, &annotations));
    assert_eq!(status.mounts, [mount]);
    let image = t.registry.reference("davit-test/busybox:latest");
    let image_id = t.cri.image(&image)?.context("the image is there")?.id;
    let listed = &t.cri.containers(None)?[0];
    assert_eq!(status.image_id, image_id);
    assert_eq!(listed.image_id, image_id);
    assert!(!status.image_ref.is_empty() && !status.image.unwrap_or_default().image.is_empty());
    assert_eq!((&listed.labels, &listed.annotations), (&labels, &annotations));
    Ok(())
});

on_one!(a_repeated_create_gets_the_same_container, |t| {
    let pod = t.pod("web", |_| ())?;
    let first = t.create(&pod, "main", |_| ())?;
    assert_eq!(t.create(&pod, "main", |_| ())?, first);
    let second = t.create(&pod, "main", |c| c.metadata.as_mut().unwrap().attempt = 1)?;
    assert_ne!(first, second);
    assert_eq!(t.cri.containers(None)?.len(), 2);
    Ok(())
});

on_both!(what_a_container_writes_is_its_own_and_goes_with_it, |t| {
    let pod = t.pod("web", |_| ())?;
    let one = t.run(&pod, "one", |_| ())?;
    t.exec(&one, "echo changed > /etc/passwd; echo new > /new; rm /bin/vi")?;
    let two = t.run(&pod, "two", |_| ())?;
    assert_eq!(t.exec(&two, "test ! -e /new && test -e /bin/vi && grep -c root /etc/passwd")?, "1");
    t.cri.remove(&one)?;
    let again = t.run(&pod, "one", |_| ())?;
    t.exec(&again, "test ! -e /new")?;
    Ok(())
});

on_both!(a_terminal_is_one, |t| {
    let (_, id) = t.sleeper(|c| {
        c.tty = true;
        c.command = sh("test -t 0 && test -t 1 && echo terminal; exec sleep 1000");
    })?;
    let line = eventually(Duration::from_secs(30), "the container speaks", || {
        Ok(t.log(&t.cri.status(&id)?)?.into_iter().next())
    })?;
    assert_eq!((line.stream.as_str(), line.content.trim_end()), ("stdout", "terminal"));
    Ok(())
});
