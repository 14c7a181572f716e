//! A kubelet's pods from their beginning to their end: what runs first, what runs again, and what is told of it.

use davit_e2e::kubelet::{self, Kubelet, container, shell};
use davit_e2e::prelude::*;
use serde_json::json;

/// Containers before the others, one of them failing at first, and one that stays beside them.
fn put_init(k: &Kubelet<'_>) -> Result<()> {
    let image = k.image();
    let mount = json!({"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]});
    let volumes = json!([{"name": "shared", "emptyDir": {}}]);
    let one = "test -e /shared/tried || { touch /shared/tried; exit 1; }; echo one >>/shared/trace";
    let side = "echo side >>/shared/trace; touch /ready; \
        trap 'echo side-end >>/shared/trace; exit 0' TERM; sleep 1000 & wait";
    let beside = json!({
        "restartPolicy": "Always",
        "startupProbe": {"exec": {"command": ["test", "-e", "/ready"]}, "periodSeconds": 1},
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
    });
    k.put(
        "init",
        json!({
            "volumes": volumes,
            "initContainers": [
                shell("one", &image, one, mount.clone()),
                shell("two", &image, "echo two >>/shared/trace", mount.clone()),
            ],
            "containers": [shell("main", &image, "cat /shared/trace; exec sleep 1000", mount.clone())],
        }),
    )?;
    k.put(
        "beside",
        json!({
            "restartPolicy": "Never",
            "volumes": volumes,
            "initContainers": [shell("side", &image, side, beside)],
            "containers": [shell("main", &image, "cat /shared/trace; sleep 2", mount)],
        }),
    )
}

fn init(t: &Test, k: &Kubelet<'_>) -> Result<()> {
    let pod = k.ready("init")?;
    assert_eq!(pod.restarts("one"), 1, "{pod:?}");
    assert_eq!(pod.ended("two")["exitCode"], 0, "{pod:?}");
    assert_eq!(k.logs("init", "main")?, "one\ntwo\n");
    let pod = k.until("beside", "has ended", |pod| pod.phase() == "Succeeded")?;
    assert_eq!(k.logs("beside", "main")?, "side\n");
    assert_eq!(pod.ended("main")["exitCode"], 0, "{pod:?}");
    let side = k.until("beside", "is all over", |pod| !pod.ended("side").is_null())?;
    assert_eq!(side.ended("side")["exitCode"], 0, "{side:?}");
    let main = t.cri.status(pod.id("main"))?;
    let end = t.cri.status(pod.id("side"))?.finished_at;
    assert!(end >= main.finished_at, "the one beside goes last");
    Ok(())
}

/// Every restart policy, with each end.
fn put_ends(k: &Kubelet<'_>) -> Result<()> {
    let image = k.image();
    let one = |policy: &str, script: &str, more| {
        json!({"restartPolicy": policy, "containers": [shell("main", &image, script, more)],
            "volumes": [{"name": "shared", "emptyDir": {}}]})
    };
    let mount = json!({"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]});
    k.put("crash", one("Always", "exit 3", json!({})))?;
    let twice = "test -e /shared/tried || { touch /shared/tried; exit 4; }";
    k.put("on-failure", one("OnFailure", twice, mount))?;
    k.put("succeeded", one("Never", "exit 0", json!({})))?;
    let message = "echo in the file >/dev/termination-log; echo in the log; exit 7";
    k.put("failed", one("Never", message, json!({})))?;
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    k.put("fallback", one("Never", "echo in the log; exit 8", fallback.clone()))?;
    k.put("no-fallback", one("Never", "echo in the log", fallback))?;
    let limit = json!({"resources": {"limits": {"memory": "24Mi"}}});
    let greedy = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"];
    k.put(
        "greedy",
        json!({"restartPolicy": "Never", "containers": [container("main", &image, &greedy, limit)]}),
    )?;
    k.put(
        "no-program",
        json!({"restartPolicy": "Never",
            "containers": [container("main", &image, &["/no/such/program"], json!({}))]}),
    )?;
    let nowhere = k.test.registry.reference("davit-test/no-such:1");
    k.put("no-image", json!({"containers": [shell("main", &nowhere, "true", json!({}))]}))
}

fn ends(k: &Kubelet<'_>) -> Result<()> {
    let ended =
        |name: &str, phase: &str| k.until(name, &format!("is {phase}"), |pod| pod.phase() == phase);
    let pod = ended("on-failure", "Succeeded")?;
    assert_eq!(pod.restarts("main"), 1, "{pod:?}");
    let pod = ended("succeeded", "Succeeded")?;
    assert_eq!(pod.ended("main")["reason"], "Completed", "{pod:?}");
    for (name, phase, code, reason, message) in [
        ("failed", "Failed", 7, "Error", "in the file\n"),
        ("fallback", "Failed", 8, "Error", "in the log\n"),
        ("greedy", "Failed", 137, "OOMKilled", ""),
    ] {
        let pod = ended(name, phase)?;
        let end = pod.ended("main");
        assert_eq!((&end["exitCode"], &end["reason"]), (&json!(code), &json!(reason)), "{pod:?}");
        assert_eq!(end["message"].as_str().unwrap_or_default(), message, "{pod:?}");
    }
    let pod = ended("no-fallback", "Succeeded")?;
    assert!(pod.ended("main")["message"].is_null(), "{pod:?}");
    let waits = |name: &str, reason: &str| {
        k.until(name, &format!("waits: {reason}"), |pod| {
            pod.container("main")["state"]["waiting"]["reason"] == reason
        })
    };
    waits("no-image", "ImagePullBackOff")?;
    // The OCI runtime makes the process as the container is created: that is where it says no.
    let pod = waits("no-program", "CreateContainerError")?;
    let told = pod.container("main")["state"]["waiting"]["message"].as_str().unwrap_or_default();
    assert!(told.contains("/no/such/program"), "{pod:?}");
    k.until("crash", "was restarted twice", |pod| pod.restarts("main") >= 2)?;
    let pod = waits("crash", "CrashLoopBackOff")?;
    assert_eq!(pod.ended_before("main")["exitCode"], 3, "{pod:?}");
    Ok(())
}

on_one!(pods_begin_and_end_as_their_policies_say, |t| {
    kubelet::run(
        t,
        |_config| (),
        |k| {
            for expected in ["CrashLoopBackOff", "no-such", "no-program", "/no/such/program"] {
                k.allow_log(expected);
            }
            // The probe of the container beside the others, which ends after them.
            k.allow_late(&["test", "-e", "/ready"]);
            put_init(k)?;
            put_ends(k)?;
            init(t, k)?;
            ends(k)
        },
    )
});

/// A pod that writes down on the host what happens to it.
fn traced(k: &Kubelet<'_>, dir: &Path, script: &str, grace: u32) -> serde_json::Value {
    let hook = |word: &str| json!({"exec": {"command": ["sh", "-c", format!("echo {word} >>/trace/trace")]}});
    let more = json!({
        "lifecycle": {"postStart": hook("post-start"), "preStop": hook("pre-stop")},
        "volumeMounts": [{"name": "trace", "mountPath": "/trace"}],
    });
    json!({
        "terminationGracePeriodSeconds": grace,
        "volumes": [{"name": "trace", "hostPath": {"path": dir, "type": "DirectoryOrCreate"}}],
        "containers": [shell("main", &k.image(), script, more)],
    })
}

on_one!(a_pod_that_is_taken_away_ends_in_order_and_in_time, |t| {
    kubelet::run(
        t,
        |_config| (),
        |k| {
            let (polite, stubborn) = (t.dir.join("polite"), t.dir.join("stubborn"));
            let script = "trap 'echo term >>/trace/trace; exit 9' TERM; sleep 1000 & wait";
            k.put("polite", traced(k, &polite, script, 30))?;
            let script =
                "trap 'echo term >>/trace/trace' TERM; while :; do sleep 1000 & wait; done";
            k.put("stubborn", traced(k, &stubborn, script, 3))?;
            let ids = [
                k.ready("polite")?.id("main").to_owned(),
                k.ready("stubborn")?.id("main").to_owned(),
            ];
            let begun = std::time::Instant::now();
            k.remove("polite")?;
            k.remove("stubborn")?;
            for (id, limit) in ids.iter().zip([10, 15]) {
                eventually(Duration::from_secs(limit), "the container has ended", || {
                    let known = t.cri.containers(None)?;
                    let runs = |c: &k8s_cri::v1::Container| {
                        c.id == *id && c.state() == ContainerState::ContainerRunning
                    };
                    Ok((!known.iter().any(runs)).then_some(()))
                })?;
            }
            assert!(begun.elapsed() >= Duration::from_secs(3), "the grace period was cut");
            for dir in [&polite, &stubborn] {
                let trace = std::fs::read_to_string(dir.join("trace"))?;
                assert_eq!(trace, "post-start\npre-stop\nterm\n", "{}", dir.display());
            }
            Ok(())
        },
    )
});
