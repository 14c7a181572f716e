//! `davit events` and `davit state`: what has happened, in order and with what there is to know, to whoever asks, also later.

use crate::disks::{FULL, fill, free, small_root, small_state};
use crate::metrics::{address, by_hand, with_metrics};
use davit_e2e::live::Live;
use davit_e2e::prelude::*;
use davit_e2e::scrape::Scrape;
use k8s_cri::v1::{LinuxContainerResources, UpdateContainerResourcesRequest};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};

const WITHIN: Duration = Duration::from_secs(30);

/// What `davit events` prints as JSON with these arguments.
fn told(t: &Test, arguments: &[&str]) -> Result<Vec<Value>> {
    let printed = t.davit_ok(&[&["events", "--format", "json"], arguments].concat())?;
    printed.lines().map(|line| serde_json::from_str(line).context("a line of JSON")).collect()
}

fn stored(t: &Test, arguments: &[&str]) -> Result<Vec<Value>> {
    told(t, &[&["--no-follow"], arguments].concat())
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_default()
}

fn number(event: &Value) -> u64 {
    event["number"].as_u64().unwrap_or_default()
}

/// The types of what happened to one, in order.
fn types<'a>(events: &'a [Value], id: &str) -> Vec<&'a str> {
    events.iter().filter(|event| text(event, "id") == id).map(|event| text(event, "type")).collect()
}

/// Waits until this is stored.
fn until(t: &Test, id: &str, kind: &str) -> Result<Vec<Value>> {
    eventually(WITHIN, &format!("{kind} of {id} is stored"), || {
        let events = stored(t, &[])?;
        Ok(types(&events, id).contains(&kind).then_some(events))
    })
}

fn of_type<'a>(events: &'a [Value], id: &str, kind: &str) -> Result<&'a Value> {
    let mut found = events.iter().filter(|one| text(one, "id") == id && text(one, "type") == kind);
    found.next().with_context(|| format!("{kind} of {id} in {events:?}"))
}

fn growing(events: &[Value]) -> Result<()> {
    let events: Vec<&Value> = events.iter().filter(|one| text(one, "type") != "missed").collect();
    let grow = events.windows(2).all(|two| number(two[0]) < number(two[1]));
    ensure!(grow, "the numbers do not grow: {events:?}");
    Ok(())
}

on_both!(a_life_is_told_in_order_with_what_there_is_to_know, |t| {
    let image = t.pull("davit-test/busybox:latest")?;
    let (pod, id) = t.sleeper(|c| {
        c.labels.insert("app".to_owned(), "web".to_owned());
        resources(c).memory_limit_in_bytes = 64 << 20;
    })?;
    by_hand(t, &["pause", &id])?;
    until(t, &id, "container.paused")?;
    by_hand(t, &["resume", &id])?;
    until(t, &id, "container.resumed")?;
    let limits = LinuxContainerResources {
        memory_limit_in_bytes: 96 << 20,
        ..LinuxContainerResources::default()
    };
    let update = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(limits),
        ..UpdateContainerResourcesRequest::default()
    };
    t.cri.wait(t.cri.runtime().update_container_resources(update))?;
    let short = t.run(&pod, "short", |c| c.command = sh("exit 3"))?;
    t.wait_for_exit(&short)?;
    let hungry = t.run(&pod, "hungry", |c| {
        resources(c).memory_limit_in_bytes = 24 << 20;
        resources(c).memory_swap_limit_in_bytes = 24 << 20;
        c.command =
            ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"].map(str::to_owned).to_vec();
    })?;
    t.wait_for_exit(&hungry)?;
    t.cri.stop(&id, 5)?;
    t.cri.remove(&id)?;
    t.cri.stop_pod(&pod.id)?;
    t.cri.remove_pod(&pod.id)?;
    t.cri.remove_image(&image)?;
    let image_id =
        text(stored(t, &["--filter", "type=image"])?.first().context("a pull")?, "id").to_owned();
    let events = until(t, &image_id, "image.removed")?;
    growing(&events)?;
    assert_eq!(
        types(&events, &pod.id),
        ["pod.created", "pod.ready", "pod.notready", "pod.removed"]
    );
    assert_eq!(
        types(&events, &id),
        [
            "container.created",
            "container.started",
            "container.paused",
            "container.resumed",
            "container.updated",
            "container.exited",
            "container.removed"
        ]
    );
    let ended = ["container.created", "container.started", "container.exited", "container.removed"];
    assert_eq!(types(&events, &short), ended);
    assert_eq!(types(&events, &hungry), [&ended[..2], &["container.oom"], &ended[2..]].concat());
    let first = events.first().context("an event")?;
    assert_eq!((text(first, "type"), text(first, "name")), ("image.pulled", image.as_str()));
    let created = of_type(&events, &id, "container.created")?;
    for (field, value) in [
        ("name", "main"),
        ("pod", pod.id.as_str()),
        ("pod_name", "pod"),
        ("namespace", "e2e"),
        ("image", image.as_str()),
    ] {
        assert_eq!(text(created, field), value, "{created}");
    }
    assert_eq!(created["labels"]["app"], "web");
    let updated = of_type(&events, &id, "container.updated")?;
    assert_eq!(updated["attributes"]["memory_limit"], (96 << 20).to_string(), "{updated}");
    let exited = of_type(&events, &short, "container.exited")?;
    assert_eq!(
        (&exited["attributes"]["exit_code"], &exited["attributes"]["reason"]),
        (&"3".into(), &"Error".into())
    );
    let exited = of_type(&events, &hungry, "container.exited")?;
    assert_eq!(exited["attributes"]["reason"], "OOMKilled", "{exited}");
    let ready = of_type(&events, &pod.id, "pod.ready")?;
    assert!(text(&ready["attributes"], "ips").starts_with("10.213."), "{ready}");
    Ok(())
});

on_both!(events_outlive_a_kill_and_one_who_was_cut_off_goes_on, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    let short = t.run(&pod, "short", |c| {
        c.command = sh("while ! test -e /go; do usleep 20000; done; exit 7")
    })?;
    let before = until(t, &short, "container.started")?;
    let last = number(before.last().context("an event")?);
    let pid = t.pid(&short)?;
    t.daemon().kill()?;
    std::fs::File::create(format!("/proc/{pid}/root/go"))?;
    eventually(WITHIN, "it has ended", || {
        Ok((!Path::new(&format!("/proc/{pid}/root/go")).exists()).then_some(()))
    })?;
    t.daemon().spawn()?;
    until(t, &short, "container.exited")?;
    t.cri.stop(&id, 0)?;
    let after = until(t, &id, "container.exited")?;
    growing(&after)?;
    assert_eq!(after.get(..before.len()), Some(&before[..]), "what was told stays told");
    let again = stored(t, &["--after", &last.to_string()])?;
    assert_eq!(again, after.get(before.len()..).unwrap_or_default(), "neither loss nor repetition");
    assert_eq!(number(&again[0]), last + 1);
    assert_eq!(of_type(&again, &short, "container.exited")?["attributes"]["exit_code"], "7");
    let time = text(&again[0], "time").to_owned();
    assert_eq!(stored(t, &["--since", &time])?, again);
    assert_eq!(stored(t, &["--since", "1970-01-01"])?, after, "nothing has been left out so far");
    let first = text(&before[0], "time");
    // A pod is made and ready at the same moment.
    let then = before.iter().filter(|event| text(event, "time") == first);
    assert_eq!(stored(t, &["--until", first])?, then.cloned().collect::<Vec<_>>());
    // A follower is given the same, then what comes.
    let mut command = t.daemon().davit();
    command.args(["events", "--after", &last.to_string(), "--format", "{{ number }} {{ type }}"]);
    let mut live = Live::start(&mut command)?;
    live.wait_for(&format!("{} container.exited", last + 1))?;
    t.cri.remove(&id)?;
    live.wait_for("container.removed")
});

on_one!(filters_let_through_what_they_mean, |t| {
    let (pod, id) = t.sleeper(|c| {
        c.labels.insert("app".to_owned(), "a \"web\"\nof two lines".to_owned());
    })?;
    let other = t.pod("other", |_| ())?;
    let all = until(t, &other.id, "pod.ready")?;
    let kinds = |filters: &[&str]| -> Result<Vec<String>> {
        let flags: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
        let events = stored(t, &flags)?;
        Ok(events.iter().map(|event| text(event, "type").to_owned()).collect())
    };
    assert_eq!(kinds(&["type=pod"])?.len(), 4);
    assert_eq!(
        kinds(&["type=pod", &format!("id={}", &pod.id[..9])])?,
        ["pod.created", "pod.ready"]
    );
    assert_eq!(kinds(&["type=container", "event=started"])?, ["container.started"]);
    assert_eq!(kinds(&["event=ready", "pod=other"])?, ["pod.ready"]);
    assert_eq!(kinds(&["pod=pod"])?.len(), 4);
    assert_eq!(kinds(&[&format!("container={}", &id[..9])])?.len(), 2);
    assert_eq!(kinds(&["container=main", "container=none"])?.len(), 2);
    assert_eq!(kinds(&["image=busybox"])?.len(), 3);
    assert_eq!(kinds(&["namespace=e2e"])?.len(), 6);
    assert_eq!(kinds(&["label=app=a \"web\"\nof two lines"])?.len(), 2);
    assert_eq!(kinds(&["label=app=web"])?, [""; 0]);
    assert_eq!(kinds(&["id=nobody"])?, [""; 0]);
    assert_eq!(all.len(), 7);
    let lines = t.davit_ok(&["events", "--stream=false", "--filter", "container=main"])?;
    assert!(
        lines.lines().all(|line| line.contains(&id[..13]) && line.contains("pod=pod")),
        "{lines}"
    );
    // One who follows until a moment that has passed gets what is stored, and ends.
    let until = stored(t, &[])?;
    let time = text(until.last().context("an event")?, "time").to_owned();
    assert_eq!(told(t, &["--since", "1h", "--until", &time])?, until);
    Ok(())
});

on_one!(what_makes_no_sense_is_refused_with_what_does, |t| {
    t.pull("davit-test/busybox:latest")?;
    for (arguments, words) in [
        (
            &["--filter", "colour=red"][..],
            "type, event, id, pod, container, image, namespace, label",
        ),
        (&["--filter", "type"], "KEY=VALUE"),
        (&["--filter", "type=volume"], "container.exited"),
        (&["--filter", "event=die"], "exited"),
        (&["--filter", "type=image", "--filter", "event=oom"], "nothing of type image"),
        (&["--filter", "label="], "empty"),
        (&["--since", "yesterday"], "2026-01-02T03:04:05Z"),
        (&["--until", "10parsecs"], "10m"),
        (&["--since", "10m", "--until", "20m"], "before since"),
        (&["--after", "99999"], "no event has the number 99999 yet"),
        (&["--after=-1"], "--after"),
        (&["--format", "table"], "line, json"),
        (&["--format", "{{ Action }}"], "attributes, id, image"),
        (&["--format", "{{ id"], "attributes, id, image"),
        (&["--stream=perhaps"], "true"),
    ] {
        let output = t.davit(&[&["events", "--no-follow"], arguments].concat())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?} is taken");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    Ok(())
});

/// Events that cost little: pulls of what is here.
fn pulls(t: &Test, count: usize) -> Result<()> {
    (0..count).try_for_each(|_| t.pull("davit-test/busybox:latest").map(drop))
}

/// `davit events` whose output is a pipe.
fn listen(t: &Test, arguments: &[&str]) -> Result<Child> {
    let mut command = t.daemon().davit();
    command.args(["events", "--format", "json"]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start davit events")
}

fn subscribers(t: &Test) -> Result<u64> {
    let info: Value = serde_json::from_str(&t.davit_ok(&["state"])?)?;
    info["counters"]["eventListeners"].as_u64().context("eventListeners")
}

fn with_three(settings: &mut Settings) -> Result<()> {
    with_metrics(settings)?;
    settings.keys.push_str("events_retain_count = 3\n");
    Ok(())
}

/// How many events it takes to outrun one that does not read: a socket's buffer, what the daemon has given to the connection, and the window.
const FLOOD: u64 = 2000;

on_one!(a_slow_subscriber_is_told_what_it_missed_and_harms_nobody, setup: with_three, |t| {
    // Its events are long, so that few are enough.
    let image = t.push(&format!("long/{}", "x".repeat(200)), &t.busybox()?)?;
    let mut slow = listen(t, &[])?;
    let pid = Pid::from_raw(i32::try_from(slow.id())?).context("a pid")?;
    let mut quick = Live::start(t.daemon().davit().args(["events", "--format", "{{ number }}."]))?;
    eventually(WITHIN, "both listen", || Ok((subscribers(t)? == 2).then_some(())))?;
    kill_process(pid, Signal::STOP)?;
    (0..FLOOD).try_for_each(|_| t.cri.pull(&image).map(drop))?;
    quick.wait_for(&format!("\n{FLOOD}."))?;
    let metric = |name: &str| Scrape::take(address(t)?)?.value(name);
    assert_eq!(metric("davit_event_subscribers_lagged_total")?, 0.0, "it has not read yet");
    kill_process(pid, Signal::CONT)?;
    let mut lines = BufReader::new(slow.stdout.take().context("its output")?).lines();
    let (mut missed, mut told, mut got) = (0, 0.0, 0);
    while missed + got < FLOOD {
        let event: Value = serde_json::from_str(&lines.next().context("it goes on")??)?;
        if text(&event, "type") == "missed" {
            assert_eq!(event["attributes"]["reason"], "too slow");
            missed += event["missed"].as_u64().context("a count")?;
            told += 1.0;
        } else {
            got += 1;
            assert_eq!(number(&event), missed + got, "what is missing is told before");
        }
    }
    assert!(missed > 0 && got > 0, "{missed} {got}");
    assert_eq!(metric("davit_event_subscribers_lagged_total")?, told);
    assert_eq!(metric("davit_events_dropped_total")?, f64::from(u32::try_from(missed)?));
    assert_eq!(metric("davit_events_retained")?, 3.0);
    pulls(t, 1)?;
    let next: Value = serde_json::from_str(&lines.next().context("it goes on")??)?;
    assert_eq!(number(&next), FLOOD + 1);
    slow.kill()?;
    slow.wait()?;
    drop(quick);
    eventually(WITHIN, "nobody listens", || Ok((subscribers(t)? == 0).then_some(())))
});

/// What is said on standard error besides what is printed.
fn said(t: &Test, arguments: &[&str]) -> Result<(usize, String)> {
    let output = t.davit(&[&["events", "--no-follow"], arguments].concat())?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    let printed = String::from_utf8_lossy(&output.stdout).lines().count();
    Ok((printed, String::from_utf8_lossy(&output.stderr).into_owned()))
}

on_one!(three_are_kept_and_it_is_told_that_there_were_more, setup: with_three, |t| {
    pulls(t, 8)?;
    let kept = |t: &Test| -> Result<()> {
        eventually(WITHIN, "the last is stored", || {
            let events = stored(t, &[])?;
            Ok((events.last().map(number) == Some(8)).then_some(()))
        })?;
        assert_eq!(stored(t, &[])?.iter().map(number).collect::<Vec<_>>(), [6, 7, 8]);
        assert_eq!(said(t, &["--since", "0"])?, (3, "davit: missed 5 events: not kept any more\n".to_owned()));
        assert_eq!(said(t, &["--after", "4"])?, (3, "davit: missed 1 events: not kept any more\n".to_owned()));
        assert_eq!(said(t, &["--after", "5"])?, (3, String::new()));
        assert_eq!(said(t, &[])?, (3, String::new()));
        Ok(())
    };
    kept(t)?;
    t.daemon().kill()?;
    t.daemon().spawn()?;
    kept(t)
});

on_one!(none_are_kept_and_those_who_listen_hear_all, setup: |settings| {
    "events_retain_count = 0\n".clone_into(&mut settings.keys);
    Ok(())
}, |t| {
    let mut live = Live::start(t.daemon().davit().args(["events", "--format", "{{ number }}."]))?;
    eventually(WITHIN, "it listens", || Ok((subscribers(t)? == 1).then_some(())))?;
    pulls(t, 3)?;
    live.wait_for("3.")?;
    assert_eq!(said(t, &["--since", "0"])?, (0, "davit: missed 3 events: not kept any more\n".to_owned()));
    assert_eq!(names_of(t)?, ["next"]);
    drop(live);
    t.daemon().kill()?;
    t.daemon().spawn()?;
    let mut live = Live::start(t.daemon().davit().args(["events", "--format", "{{ number }}."]))?;
    eventually(WITHIN, "it listens", || Ok((subscribers(t)? == 1).then_some(())))?;
    pulls(t, 1)?;
    live.wait_for("4.")
});

fn names_of(t: &Test) -> Result<Vec<String>> {
    let mut names = davit_e2e::host::names_in(&t.settings().root().join("events"))?;
    names.sort();
    Ok(names)
}

on_one!(a_torn_or_broken_log_is_named_and_keeps_what_makes_sense, |t| {
    pulls(t, 3)?;
    let before = eventually(WITHIN, "three are stored", || {
        let events = stored(t, &[])?;
        Ok((events.len() == 3).then_some(events))
    })?;
    let path = t.settings().root().join("events/current.jsonl");
    let append = |bytes: &[u8]| -> Result<()> {
        Ok(std::fs::OpenOptions::new().append(true).open(&path)?.write_all(bytes)?)
    };
    t.daemon().kill()?;
    append(b"{\"number\":4,\"at\":17")?;
    t.daemon().spawn()?;
    assert_eq!(stored(t, &[])?, before);
    assert!(t.daemon().log().contains("the last event was cut off"));
    t.allow_log("stored events make no sense");
    t.daemon().kill()?;
    append(b"nonsense\n")?;
    t.daemon().spawn()?;
    assert_eq!(stored(t, &[])?, before);
    assert_eq!(names_of(t)?, ["broken.jsonl", "current.jsonl", "next"]);
    pulls(t, 1)?;
    eventually(WITHIN, "the next is stored", || {
        Ok((stored(t, &[])?.last().map(number) == Some(4)).then_some(()))
    })
});

on_one!(a_full_root_costs_events_on_the_disk_and_nothing_else, setup: |settings| {
    with_metrics(settings)?;
    small_root(settings)
}, |t| {
    t.allow_log(FULL);
    let root = t.settings().root();
    let (pod, id) = t.sleeper(|_| ())?;
    until(t, &id, "container.started")?;
    let mut live = Live::start(t.daemon().davit().args(["events", "--format", "{{ type }} {{ name }}."]))?;
    eventually(WITHIN, "it listens", || Ok((subscribers(t)? == 1).then_some(())))?;
    fill(&root)?;
    let missing = || Scrape::take(address(t)?)?.value("davit_events_not_stored_total");
    // The last page of the log may have room for some.
    for _ in 0..40 {
        t.davit_ok(&["pause", &id])?;
        t.davit_ok(&["resume", &id])?;
        if missing()? > 0.0 {
            break;
        }
    }
    eventually(WITHIN, "some are not stored", || Ok((missing()? > 0.0).then_some(())))?;
    t.cri.stop(&id, 0)?;
    live.wait_for("container.exited main.")?;
    let last = until(t, &id, "container.exited")?;
    let last = number(last.last().context("an event")?);
    t.daemon().kill()?;
    t.daemon().spawn()?;
    free(&root)?;
    t.cri.remove(&id)?;
    let events = until(t, &id, "container.removed")?;
    growing(&events)?;
    let removed = of_type(&events, &id, "container.removed")?;
    assert!(number(removed) > last, "no number is given twice: {removed} after {last}");
    let (_, note) = said(t, &["--after", &(last - 1).to_string()])?;
    assert!(note.contains("could not be stored"), "{note:?}");
    t.cri.stop_pod(&pod.id)?;
    Ok(())
});

on_one!(a_full_state_directory_costs_no_event, setup: small_state, |t| {
    t.allow_log(FULL);
    let (pod, id) = t.sleeper(|_| ())?;
    let state = t.settings().state();
    fill(&state)?;
    t.cri.stop(&id, 0)?;
    t.cri.stop_pod(&pod.id)?;
    until(t, &pod.id, "pod.notready")?;
    t.daemon().kill()?;
    t.daemon().spawn()?;
    let events = stored(t, &[])?;
    assert!(types(&events, &id).contains(&"container.exited"), "{events:?}");
    free(&state)
});

fn end_of(mut child: Child) -> Result<(ExitStatus, String)> {
    let status = eventually(WITHIN, "davit events ends", || Ok(child.try_wait()?))?;
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        std::io::Read::read_to_string(&mut stderr, &mut said)?;
    }
    Ok((status, said))
}

on_one!(a_listener_ends_well_whatever_ends_it, |t| {
    let listening =
        |count| eventually(WITHIN, "they listen", || Ok((subscribers(t)? == count).then_some(())));
    let interrupted = listen(t, &[])?;
    listening(1)?;
    let pid = Pid::from_raw(i32::try_from(interrupted.id())?).context("a pid")?;
    kill_process(pid, Signal::INT)?;
    let (status, words) = end_of(interrupted)?;
    assert!(status.success() && words.is_empty(), "{status} {words}");
    // Else the first one could be taken for the second.
    listening(0)?;
    let mut unread = listen(t, &[])?;
    listening(1)?;
    drop(unread.stdout.take());
    pulls(t, 1)?;
    let (status, words) = end_of(unread)?;
    assert!(status.success() && words.is_empty(), "{status} {words}");
    let mut stopped = listen(t, &["--since", "0"])?;
    let mut line = String::new();
    let mut output = BufReader::new(stopped.stdout.take().context("its output")?);
    output.read_line(&mut line)?;
    t.daemon().stop()?;
    let (status, words) = end_of(stopped)?;
    assert_eq!(status.code(), Some(1));
    assert!(words.contains("the daemon has ended (--after 1 goes on from here)"), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");
    t.daemon().spawn()
});

on_one!(the_state_is_json_with_all_there_is, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    let state: Value = serde_json::from_str(&t.davit_ok(&["state"])?)?;
    assert_eq!(state["pods"][&pod.id]["containers"][&id]["pid"], t.pid(&id)?, "{state}");
    assert_eq!(state["counters"]["containers"]["running"], 1);
    assert_eq!(state["config"]["state"], t.settings().state().to_string_lossy().as_ref());
    assert!(state["heap"]["heap"]["usedBytes"].as_u64().is_some(), "{state}");
    assert!(state["tasks"]["aliveTasks"].as_u64().is_some());
    assert_eq!(state["images"].as_array().map(Vec::len), Some(1));
    let refused = t.davit(&["state", "now"])?;
    assert_eq!(refused.status.code(), Some(2));
    let head = Command::new("sh")
        .args(["-c", &format!("{:?} state | head -c 1", t.daemon().davit().get_program())])
        .env("DAVIT_ADDRESS", format!("unix://{}", t.settings().socket().display()))
        .output()?;
    assert_eq!((&*head.stdout, &*head.stderr), (&b"{"[..], &b""[..]));
    Ok(())
});
