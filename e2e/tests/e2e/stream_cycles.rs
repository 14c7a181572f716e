//! Clients that come and go without end: neither the daemon nor the shim keeps anything of them, and the container's log has every line.

use crate::stream::{Crictl, Frames, stage};
use davit_e2e::prelude::*;
use k8s_cri::v1::AttachRequest;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

/// Before the first look: what is made once and kept is there then.
const WARM: usize = 60;
/// Every so many clients one is crictl, by SPDY.
const SPDY_EACH: usize = 50;

/// What a process has.
#[derive(Debug, Clone, Copy)]
struct Held {
    descriptors: usize,
    threads: usize,
    /// Resident memory of its own, in KiB: pages of code come and go.
    memory: u64,
}

fn held(pid: u32) -> Result<Held> {
    let count = |what: &str| -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{pid}/{what}"))?.count())
    };
    let memory = davit_e2e::footprint::own_memory(pid)?;
    Ok(Held { descriptors: count("fd")?, threads: count("task")?, memory })
}

/// One client: it leaves at once, when it has heard something, or with a word.
fn cycle(t: &Test, id: &str, number: usize) -> Result<()> {
    if number.is_multiple_of(SPDY_EACH) {
        let mut child = Crictl::new(t)?.command(&["attach", "--transport", "spdy", id]);
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        child.kill()?;
        child.wait()?;
        ensure!(line.trim().parse::<u64>().is_ok(), "client {number} heard {line:?}");
        return Ok(());
    }
    let request = AttachRequest {
        container_id: id.to_owned(),
        stdin: number.is_multiple_of(2),
        stdout: true,
        stderr: true,
        ..AttachRequest::default()
    };
    let mut frames = Frames::open(&stage(t).attach(request)?, "v5.channel.k8s.io")?;
    let way = number % 3;
    if way > 0 {
        loop {
            let (kind, bytes) = frames.next()?;
            ensure!(kind == 2, "client {number}: a frame of kind {kind}: {bytes:?}");
            if bytes.len() > 1 && bytes.starts_with(&[1]) {
                break;
            }
        }
    }
    if way > 1 {
        // 1000, masked with zeros.
        frames.0.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8])?;
    }
    Ok(())
}

fn come_and_go(t: &Test, cycles: usize) -> Result<()> {
    let (pod, id) = t.sleeper(|c| {
        c.command = sh("i=0; while :; do i=$((i+1)); echo $i; usleep 5000; done");
        c.stdin = true;
    })?;
    let daemon = t.daemon().pid().context("the daemon runs")?;
    let pids = [daemon, crate::shim_loss::shim(t, &pod)?];
    for number in 0..WARM {
        cycle(t, &id, number)?;
    }
    pause(Duration::from_secs(2));
    let before = [held(pids[0])?, held(pids[1])?];
    for number in 0..cycles {
        cycle(t, &id, number)?;
    }
    let mut after = before;
    let flat = eventually(Duration::from_secs(30), "all that they had is given back", || {
        after = [held(pids[0])?, held(pids[1])?];
        let back = before.iter().zip(&after).all(|(before, after)| {
            // Threads of the daemon's pool come and go with what is done; a leak would be in the hundreds.
            after.descriptors <= before.descriptors + 1 && after.threads <= before.threads + 4
        });
        Ok(back.then_some(()))
    });
    println!("{cycles} clients: daemon and shim had {before:?}, have {after:?}");
    flat.with_context(|| format!("before: {before:?}, after: {after:?}"))?;
    for ((before, after), limit) in before.iter().zip(&after).zip([4096, 256]) {
        let grown = after.memory.saturating_sub(before.memory);
        ensure!(grown <= limit, "grown by {grown} KiB: {before:?}, {after:?}");
    }
    let path = PathBuf::from(t.cri.status(&id)?.log_path);
    t.cri.stop(&id, 0)?;
    let log = davit_e2e::test::parse_log(&std::fs::read_to_string(path)?)?;
    ensure!(log.len() > cycles / 10, "{} lines", log.len());
    assert!(log.iter().enumerate().all(|(at, line)| line.content == (at + 1).to_string()));
    Ok(())
}

on_both!(three_hundred_clients_that_come_and_go_leave_nothing, |t| { come_and_go(t, 300) });

on_one!(
    #[ignore = "takes minutes: cargo test -p davit-e2e --test e2e -- --ignored ten_thousand"]
    ten_thousand_clients_that_come_and_go_leave_nothing,
    |t| { come_and_go(t, 10_000) }
);
