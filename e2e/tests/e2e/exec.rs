//! ExecSync: output, exit code, deadline and limit.

use davit_e2e::prelude::*;

on_both!(output_and_exit_code_are_told_apart, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let answer = t.cri.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 5"], 10)?;
    assert_eq!(
        (answer.exit_code, answer.stdout.as_slice(), answer.stderr.as_slice()),
        (5, &b"out\n"[..], &b"err\n"[..])
    );
    let killed = t.cri.exec(&id, &["sh", "-c", "kill -9 $$"], 10)?;
    assert_eq!(killed.exit_code, 137);
    let silent = t.cri.exec(&id, &["true"], 0)?;
    assert_eq!((silent.exit_code, silent.stdout.len(), silent.stderr.len()), (0, 0, 0));
    Ok(())
});

on_both!(it_runs_as_the_container_does, |t| {
    use k8s_cri::v1::Int64Value;
    let (_, id) = t.sleeper(|c| {
        security(c).run_as_user = Some(Int64Value { value: 1234 });
        "/tmp".clone_into(&mut c.working_dir);
        c.envs = vec![KeyValue { key: "WORD".to_owned(), value: "said".to_owned() }];
    })?;
    assert_eq!(t.exec(&id, "echo $(id -u) $(id -g) $(pwd) $WORD")?, "1234 1235 /tmp said");
    let inside = t.exec(&id, "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status")?;
    let first = t.exec(&id, "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/1/status")?;
    assert_eq!(inside, first);
    Ok(())
});

on_both!(after_its_deadline_nothing_of_it_runs, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let begun = std::time::Instant::now();
    refused(t.cri.exec(&id, &["sleep", "4321"], 1), Code::DeadlineExceeded, &["1s"])?;
    let took = begun.elapsed();
    ensure!(took > Duration::from_millis(900) && took < Duration::from_secs(6), "it took {took:?}");
    let left = t.exec(&id, "ps -o args")?;
    assert!(!left.contains("sleep 4321"), "{left}");
    assert_eq!(t.cri.status(&id)?.state(), ContainerState::ContainerRunning);
    Ok(())
});

on_both!(a_child_that_keeps_the_output_open_does_not_move_the_deadline, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let begun = std::time::Instant::now();
    let script = "sleep 30 & sleep 30";
    refused(t.cri.exec(&id, &["sh", "-c", script], 1), Code::DeadlineExceeded, &["1s"])?;
    ensure!(begun.elapsed() < Duration::from_secs(6), "it took {:?}", begun.elapsed());
    Ok(())
});

on_one!(more_output_than_a_message_holds_is_cut_to_fit, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let script = "head -c 17825792 /dev/zero | tr '\\0' x; echo err >&2; exit 6";
    let answer = t.cri.exec(&id, &["sh", "-c", script], 30)?;
    assert_eq!(answer.exit_code, 6);
    // The client refuses what is over 16 MiB, as the kubelet's does.
    assert!(answer.stdout.len() > 15 << 20, "{}", answer.stdout.len());
    assert!(answer.stdout.iter().all(|byte| *byte == b'x'));
    Ok(())
});

on_one!(a_child_that_keeps_the_output_open_holds_nobody, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let begun = std::time::Instant::now();
    let answer = t.cri.exec(&id, &["sh", "-c", "sleep 60 & echo begun"], 20)?;
    assert_eq!((answer.exit_code, answer.stdout.as_slice()), (0, &b"begun\n"[..]));
    ensure!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    Ok(())
});

on_both!(what_cannot_be_run_is_an_error_or_127, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let unknown = "no-such-program";
    match t.cri.exec(&id, &[unknown], 10) {
        Ok(answer) => assert!(matches!(answer.exit_code, 126 | 127), "{answer:?}"),
        Err(status) => assert!(status.message().contains(unknown), "{status:?}"),
    }
    refused(t.cri.exec(&id, &[], 10), Code::InvalidArgument, &["cmd"])?;
    Ok(())
});

on_one!(only_a_running_container_runs_commands, |t| {
    let pod = t.pod("web", |_| ())?;
    let id = t.create(&pod, "main", |_| ())?;
    refused(t.cri.exec(&id, &["true"], 5), Code::FailedPrecondition, &[&id])?;
    t.cri.start(&id)?;
    t.cri.stop(&id, 0)?;
    refused(t.cri.exec(&id, &["true"], 5), Code::FailedPrecondition, &[&id])?;
    Ok(())
});

on_both!(thirty_at_once_all_answer, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    std::thread::scope(|scope| {
        let id = id.as_str();
        let run = |number: usize| -> Result<()> {
            assert_eq!(t.exec(id, &format!("echo {number}"))?, number.to_string());
            Ok(())
        };
        let threads: Vec<_> = (0..30).map(|number| scope.spawn(move || run(number))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })
});

on_both!(a_paused_container_holds_no_command_beyond_its_deadline, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let paused = davit_e2e::host::Frozen::around(t.pid(&id)?)?;
    let begun = std::time::Instant::now();
    let answer = t.cri.exec(&id, &["sleep", "4325"], 2);
    let took = begun.elapsed();
    assert!(answer.is_err(), "{answer:?}");
    ensure!(took < Duration::from_secs(10), "it took {took:?}");
    // Others are asked and answered meanwhile.
    assert_eq!(t.cri.status(&id)?.state(), ContainerState::ContainerRunning);
    drop(paused);
    assert_eq!(t.exec(&id, "echo on")?, "on");
    let left = t.exec(&id, "ps -o args")?;
    assert!(!left.contains("sleep 4325"), "{left}");
    Ok(())
});
