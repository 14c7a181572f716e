//! A kubelet as the node's keeper: figures, events, logs, images, and restarts that no pod notices.

use davit_e2e::kubelet::{self, Kubelet, Pod as StaticPod, shell};
use davit_e2e::prelude::*;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// Everything of a pod comes from davit: figures, metrics, events, lists in parts.
fn all_from_davit(config: &mut Value) {
    config["featureGates"] = json!({
        "PodAndContainerStatsFromCRI": true,
        "EventedPLEG": true,
        "CRIListStreaming": true,
    });
    config["containerLogMaxSize"] = json!("8Ki");
    config["containerLogMaxFiles"] = json!(100);
    config["containerLogMonitorInterval"] = json!("3s");
}

fn number(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("{value} is no number"))
}

/// What `/stats/summary` says of a pod.
fn summary(k: &Kubelet<'_>, pod: &StaticPod) -> Result<Value> {
    let summary = k.api.json("/stats/summary")?;
    let pods = summary["pods"].as_array().context("pods")?;
    let found = pods.iter().find(|one| one["podRef"]["uid"] == pod.uid());
    found.cloned().with_context(|| format!("{} is not in {summary}", pod.name()))
}

fn figures(t: &Test, k: &Kubelet<'_>) -> Result<()> {
    let pod = k.ready("busy")?;
    t.exec(pod.id("main"), "dd if=/dev/zero of=/grown bs=1M count=20 2>/dev/null; sync /grown")?;
    t.exec(pod.id("main"), "dd if=/dev/zero of=/dev/shm/held bs=1M count=30 2>/dev/null")?;
    // Its own figures come with a walk of the writable layer that is some seconds old.
    let told = eventually(Duration::from_secs(40), "the figures follow", || {
        let told = summary(k, &pod)?;
        let grown = told["containers"][0]["rootfs"]["usedBytes"].as_u64().unwrap_or(0) >= 20 * MIB;
        let rate = told["containers"][0]["cpu"]["usageNanoCores"].as_u64().unwrap_or(0) > 0;
        Ok((grown && rate).then_some(told))
    })?;
    let main = &told["containers"][0];
    let limit =
        number(&main["memory"]["availableBytes"])? + number(&main["memory"]["workingSetBytes"])?;
    assert_eq!(limit, 128 * MIB, "{told}");
    assert!(number(&main["memory"]["usageBytes"])? >= 30 * MIB, "{told}");
    assert!(number(&main["cpu"]["usageCoreNanoSeconds"])? > 1_000_000, "{told}");
    assert!(number(&main["logs"]["usedBytes"])? > 0, "{told}");
    assert!(
        number(&told["cpu"]["usageCoreNanoSeconds"])?
            >= number(&main["cpu"]["usageCoreNanoSeconds"])? / 2
    );
    assert!(number(&told["memory"]["workingSetBytes"])? > 0, "{told}");
    assert!(number(&told["process_stats"]["process_count"])? >= 1, "{told}");
    assert_eq!(told["network"]["name"], "eth0", "{told}");
    assert!(number(&told["network"]["rxBytes"])? > 0, "{told}");
    let node = k.api.json("/stats/summary")?["node"].clone();
    let images = &node["runtime"]["imageFs"];
    assert!(number(&images["usedBytes"])? > MIB && number(&images["capacityBytes"])? > 0, "{node}");
    Ok(())
}

/// The values of a metric of one container.
fn metric(text: &str, name: &str, pod: &str) -> Option<f64> {
    let labels = [
        format!("pod=\"{pod}\""),
        "container=\"main\"".to_owned(),
        format!("namespace=\"{}\"", kubelet::NAMESPACE),
    ];
    let fits = |line: &&str| {
        line.starts_with(&format!("{name}{{"))
            && labels.iter().all(|label| line.contains(label.as_str()))
    };
    let line = text.lines().find(fits)?;
    line.rsplit('}').next()?.split_whitespace().next()?.parse().ok()
}

fn metrics(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.ready("busy")?;
    let text = k.api.read_only("/metrics/cadvisor")?.body;
    for (name, least) in [
        ("container_memory_working_set_bytes", 30e6),
        ("container_spec_memory_limit_bytes", 128e6),
        ("container_processes", 1.0),
        ("container_start_time_seconds", 1e9),
        ("container_cpu_user_seconds_total", 0.0),
    ] {
        let value = metric(&text, name, pod.name()).with_context(|| format!("{name} in {text}"))?;
        assert!(value >= least, "{name}: {value}");
    }
    let own = k.api.read_only("/metrics")?.body;
    let told = |name: &str| own.lines().any(|line| line.starts_with(name) && !line.ends_with(" 0"));
    assert!(told("kubelet_evented_pleg_connection_success_count"), "no events are listened to");
    Ok(())
}

/// A log that is turned over again and again has every line, in the files and in what follows them.
fn logs(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.ready("chatty")?;
    let path = k.path("containerLogs", "chatty", "main");
    let tail = k.api.get(&format!("{path}?tailLines=3"))?;
    let numbers: Vec<u64> = tail.body.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.len() == 3 && numbers.is_sorted(), "{tail:?}");
    let stamped = k.api.get(&format!("{path}?tailLines=1&timestamps=true"))?;
    assert!(stamped.body.starts_with("20"), "{stamped:?}");
    let all = k.api.follow(&format!("{path}?follow=true"), |text| text.ends_with("end\n"))?;
    // It begins where the file begins that is written at that moment.
    let numbers: Vec<u64> = all.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.len() > 500, "{}", numbers.len());
    assert!(
        numbers.windows(2).all(|two| two[1] == two[0] + 1),
        "a line is missing to those who follow"
    );
    let dir = k.log_dir("chatty", pod.uid(), "main");
    let mut files = davit_e2e::host::names_in(&dir)?;
    assert!(files.len() >= 3, "{files:?}");
    files.retain(|name| name != "0.log");
    files.push("0.log".to_owned());
    let mut text = String::new();
    for name in &files {
        let path = dir.join(name);
        if name.ends_with(".gz") {
            text += &davit_e2e::tools::run(std::process::Command::new("zcat").arg(&path))?;
        } else {
            text += &std::fs::read_to_string(&path)?;
        }
    }
    let lines = davit_e2e::test::parse_log(&text)?;
    let numbers: Vec<u64> = lines.iter().filter_map(|line| line.content.parse().ok()).collect();
    assert_eq!(numbers, (1..=2000).collect::<Vec<u64>>(), "in {files:?}");
    Ok(())
}

on_one!(figures_events_and_logs_come_from_davit, |t| {
    kubelet::run(t, all_from_davit, |k| {
        let image = k.image();
        let limit = json!({"resources": {"limits": {"memory": "128Mi"}}});
        let busy = "trap 'exit 0' TERM; echo begun; while :; do i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; sleep 0.1; done";
        k.put("busy", json!({"containers": [shell("main", &image, busy, limit)]}))?;
        let chatty = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo $i; usleep 2000; done; echo end; sleep 1000";
        k.put("chatty", json!({"containers": [shell("main", &image, chatty, json!({}))]}))?;
        // A short life is seen, too: nobody looks at lists every second now.
        k.put("short", json!({"restartPolicy": "Never", "containers": [shell("main", &image, "sleep 1; exit 5", json!({}))]}))?;
        let pod = k.until("short", "has failed", |pod| pod.phase() == "Failed")?;
        assert_eq!(pod.ended("main")["exitCode"], 5);
        logs(k)?;
        figures(t, k)?;
        metrics(k)
    })
});

/// Container ids and restarts of all pods.
fn state(k: &Kubelet<'_>, names: &[&str]) -> Result<Vec<(String, u64)>> {
    names
        .iter()
        .map(|name| {
            let pod = k.ready(name)?;
            Ok((pod.id("main").to_owned(), pod.restarts("main")))
        })
        .collect()
}

on_one!(restarts_of_kubelet_and_daemon_are_noticed_by_no_pod, |t| {
    kubelet::run(
        t,
        |_config| (),
        |k| {
            let probe =
                json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 5});
            let more = json!({"livenessProbe": probe, "readinessProbe": probe});
            let script = "trap 'exit 0' TERM; sleep 1000 & wait";
            let names = ["one", "two", "three"];
            for name in names {
                k.put(
                    name,
                    json!({"containers": [shell("main", &k.image(), script, more.clone())],
                "hostNetwork": name == "three"}),
                )?;
            }
            // Each ends with the test, or where it is removed, while it is probed every second.
            k.allow_late(&["true"]);
            let before = state(k, &names)?;
            k.stop()?;
            k.spawn()?;
            assert_eq!(state(k, &names)?, before, "after a restart of the kubelet");
            // While there is no daemon, probes fail to run and lists fail.
            for expected in [
                "connection refused",
                "code = Unavailable",
                "connect: no such file",
                "error reading from server",
                "PLEG is not healthy",
                "container runtime is down",
                "Container runtime sanity check failed",
            ] {
                k.allow_log(expected);
            }
            for kill in [false, true] {
                if kill {
                    t.daemon().kill()?;
                } else {
                    t.daemon().stop()?;
                }
                // Long enough for each probe to be asked.
                pause(Duration::from_millis(2500));
                t.daemon().spawn()?;
                // Long enough for the kubelet to look at every pod again.
                pause(Duration::from_secs(3));
                assert_eq!(state(k, &names)?, before, "killed: {kill}");
            }
            // Work goes on: a pod that comes now, and one that goes.
            k.put("new", json!({"containers": [shell("main", &k.image(), script, json!({}))]}))?;
            k.ready("new")?;
            k.remove("one")?;
            eventually(Duration::from_secs(20), "the pod has gone", || {
                Ok(k.pod("one")?.is_none().then_some(()))
            })
        },
    )
});

on_one!(what_is_unused_goes_when_the_disk_is_full, |t| {
    kubelet::run(
        t,
        |config| config["imageMinimumGCAge"] = json!("1ms"),
        |k| {
            // All static pods are critical: nothing but images and dead containers can be taken away.
            for expected in ["cannot evict a critical pod", "no pods are active to evict"] {
                k.allow_log(expected);
            }
            let (unused, used) = (t.pull("davit-test/user:uid")?, k.image());
            k.put(
                "user",
                json!({"containers": [shell("main", &used, "exec sleep 1000", json!({}))]}),
            )?;
            let before = k.ready("user")?;
            k.stop()?;
            // No disk is that empty: it looks for what it can do without as soon as it runs.
            k.configure(|config| config["evictionHard"] = json!({"nodefs.available": "99.9%"}));
            k.spawn()?;
            eventually(Duration::from_secs(90), "the unused image has gone", || {
                Ok(t.cri.image(&unused)?.is_none().then_some(()))
            })?;
            assert!(t.cri.image(&used)?.is_some(), "an image in use is kept");
            let after = k.ready("user")?;
            assert_eq!((after.id("main"), after.restarts("main")), (before.id("main"), 0));
            Ok(())
        },
    )
});
