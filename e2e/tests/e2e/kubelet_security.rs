//! What a kubelet lets its pods do, and what it gives them: identities, privileges, namespaces, limits.

use davit_e2e::kubelet::{self, Kubelet, shell};
use davit_e2e::prelude::*;
use serde_json::{Value, json};
use std::io::Write as _;

/// The kubelet's own profile directory, below its root.
const PROFILE: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;

fn put_identities(t: &Test, k: &Kubelet<'_>) -> Result<()> {
    let dir = t.dir.join("kubelet/root/seccomp");
    std::fs::create_dir_all(&dir)?;
    std::fs::File::create(dir.join("no-mkdir.json"))?.write_all(PROFILE.as_bytes())?;
    let image = k.image();
    let one = |name: &str, script: &str, context: Value| {
        shell(
            name,
            &image,
            script,
            json!({"securityContext": context, "volumeMounts": [
            {"name": "owned", "mountPath": "/owned"}]}),
        )
    };
    let status = |key: &str| format!("sed -n 's/^{key}:[[:space:]]*//p' /proc/self/status");
    let containers = json!([
        one(
            "user",
            "id -u; id -g; id -G; touch /owned/mine; stat -c %g /owned/mine",
            json!({"runAsUser": 1234})
        ),
        one(
            "group",
            "id -u; id -g",
            json!({"runAsUser": 1234, "runAsGroup": 4321, "runAsNonRoot": true})
        ),
        one(
            "dropped",
            &status("CapEff"),
            json!({"capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}})
        ),
        one(
            "read-only",
            "touch /no 2>&1; touch /owned/yes && echo yes",
            json!({"readOnlyRootFilesystem": true})
        ),
        one("default", &status("Seccomp"), json!({"seccompProfile": {"type": "RuntimeDefault"}})),
        one("none", &status("Seccomp"), json!({"seccompProfile": {"type": "Unconfined"}})),
        one(
            "local",
            "mkdir /no 2>&1",
            json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "no-mkdir.json"}})
        ),
        one("privileged", &status("CapEff"), json!({"privileged": true})),
        one("no-more", &status("NoNewPrivs"), json!({"allowPrivilegeEscalation": false})),
        one("more", &status("NoNewPrivs"), json!({"allowPrivilegeEscalation": true})),
    ]);
    k.put(
        "identities",
        json!({
            "restartPolicy": "Never",
            "volumes": [{"name": "owned", "emptyDir": {}}],
            "securityContext": {"fsGroup": 5678, "supplementalGroups": [777],
                "sysctls": [{"name": "net.ipv4.ping_group_range", "value": "0 0"}]},
            "containers": containers,
        }),
    )
}

fn identities(k: &Kubelet<'_>) -> Result<()> {
    let pod =
        k.until("identities", "has ended", |pod| matches!(pod.phase(), "Failed" | "Succeeded"))?;
    let all = pod.json()["spec"]["containers"].as_array().context("containers")?;
    assert_eq!(all.len(), 10);
    let full = capabilities()?;
    for (name, expected) in [
        // The image's files know more about this user.
        ("user", "1234\n1235\n1235 777 4000 5678\n5678\n"),
        ("group", "1234\n4321\n"),
        ("dropped", "0000000000002000\n"),
        ("read-only", "touch: /no: Read-only file system\nyes\n"),
        ("default", "2\n"),
        ("none", "0\n"),
        ("local", "mkdir: can't create directory '/no': Operation not permitted\n"),
        ("privileged", full.as_str()),
        ("no-more", "1\n"),
        ("more", "0\n"),
    ] {
        assert_eq!(k.logs("identities", name)?, expected, "{name}: {}", pod.ended(name));
    }
    Ok(())
}

/// All that a container can have here: what the test's own process has.
fn capabilities() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    Ok(format!("{}\n", line.context("CapBnd")?.trim()))
}

/// The host's namespaces, or the pod's, shared.
fn put_namespaces(k: &Kubelet<'_>) -> Result<()> {
    let script = "trap 'exit 0' TERM; sleep 1000 & wait";
    let image = k.image();
    let two = json!([
        shell("main", &image, script, json!({})),
        shell("beside", &image, script, json!({}))
    ]);
    k.put("host-pid", json!({"hostPID": true, "containers": two}))?;
    k.put("host-ipc", json!({"hostIPC": true, "containers": two}))?;
    k.put("shared-pid", json!({"shareProcessNamespace": true, "containers": two}))?;
    k.put("own", json!({"containers": two}))
}

fn namespaces_are_right(t: &Test, k: &Kubelet<'_>) -> Result<()> {
    let of_host = |kind: &str| -> Result<String> {
        Ok(std::fs::read_link(format!("/proc/self/ns/{kind}"))?.to_string_lossy().into_owned())
    };
    for (name, pid, ipc, together) in [
        ("host-pid", true, false, true),
        ("host-ipc", false, true, false),
        ("shared-pid", false, false, true),
        ("own", false, false, false),
    ] {
        let pod = k.ready(name)?;
        let inside = |container: &str, kind: &str| {
            t.exec(pod.id(container), &format!("readlink /proc/self/ns/{kind}"))
        };
        assert_eq!(inside("main", "pid")? == of_host("pid")?, pid, "{name}");
        assert_eq!(inside("main", "ipc")? == of_host("ipc")?, ipc, "{name}");
        assert_eq!(inside("main", "ipc")?, inside("beside", "ipc")?, "{name}");
        assert_eq!(inside("main", "pid")? == inside("beside", "pid")?, together, "{name}");
    }
    Ok(())
}

on_one!(identities_privileges_and_namespaces_are_as_the_manifest_says, |t| {
    kubelet::run(
        t,
        |_config| (),
        |k| {
            put_identities(t, k)?;
            put_namespaces(k)?;
            // The kubelet finds out that a user's name is no number when it makes the container.
            k.allow_log("CreateContainerConfigError");
            let user = t.registry.reference("davit-test/user:name");
            let context = json!({"securityContext": {"runAsNonRoot": true}});
            k.put("named", json!({"containers": [shell("main", &user, "true", context)]}))?;
            identities(k)?;
            namespaces_are_right(t, k)?;
            k.until("named", "is refused", |pod| {
                pod.container("main")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
            })?;
            Ok(())
        },
    )
});

fn sized(k: &Kubelet<'_>, cpu: &str, memory: &str) -> Value {
    let resources = json!({"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": cpu, "memory": memory}});
    let script = "trap 'exit 0' TERM; sleep 1000 & wait";
    json!({
        // With a uid of its own, a changed manifest is the same pod changed, not another pod.
        "metadata": {"name": "sized", "uid": "5f0e8e9c-0000-4000-8000-0000000051ed"},
        "spec": {"containers": [shell("main", &k.image(), script, json!({"resources": resources}))]},
    })
}

/// CPU quota in percent of a CPU, and memory in MiB.
fn limits(t: &Test, id: &str) -> Result<(u64, u64)> {
    let pid = t.pid(id)?;
    let quota = cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
    let quota: u64 = quota.split(' ').next().context("a quota")?.parse()?;
    let memory: u64 =
        cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max")?.parse()?;
    Ok((quota / 1000, memory >> 20))
}

on_one!(limits_are_set_and_change_while_the_pod_runs, |t| {
    kubelet::run(
        t,
        |_config| (),
        |k| {
            k.put_manifest("sized", sized(k, "200m", "64Mi"))?;
            let pod = k.ready("sized")?;
            let id = pod.id("main").to_owned();
            assert_eq!(limits(t, &id)?, (20, 64));
            let shares = cgroup_value(t.pid(&id)?, "cpu", "cpu.shares", "cpu.weight")?;
            assert!(matches!(shares.as_str(), "102" | "4" | "17"), "{shares}");
            k.put_manifest("sized", sized(k, "500m", "96Mi"))?;
            let pod = k.until("sized", "tells its new size", |pod| {
                pod.container("main")["resources"]["limits"]["memory"] == "96Mi"
            })?;
            assert_eq!((pod.id("main"), pod.restarts("main")), (id.as_str(), 0), "{pod:?}");
            assert_eq!(limits(t, &id)?, (50, 96));
            Ok(())
        },
    )
});
