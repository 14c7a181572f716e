//! A kubelet's probes: pods become ready, stop being it, and are restarted, as what runs in them says.

use davit_e2e::kubelet::{self, Kubelet, container, shell};
use davit_e2e::prelude::*;
use serde_json::{Value, json};

/// Looks every second, and believes what it sees at once.
fn probe(how: &Value) -> Value {
    let mut probe = json!({"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5});
    for (key, value) in how.as_object().into_iter().flatten() {
        probe[key] = value.clone();
    }
    probe
}

/// An image with the server of gRPC health checks.
fn health_image(t: &Test) -> Result<String> {
    let program = std::fs::read(davit_e2e::tools::health()?)?;
    let image = t.busybox()?.layer(|layer| {
        layer.program("health", program);
    })?;
    t.push("davit-test/health", &image)
}

/// One container for each kind of probe, all ready; then each in turn is not, and is again.
fn readiness(t: &Test, k: &Kubelet<'_>) -> Result<()> {
    let http = json!({"httpGet": {"port": 8080, "path": "/ready"}});
    let tcp = json!({"tcpSocket": {"port": 8081}});
    let exec = json!({"exec": {"command": ["test", "-e", "/ready"]}});
    let grpc = json!({"grpc": {"port": 5000}});
    let more = |how: &Value| json!({"readinessProbe": probe(how)});
    let image = k.image();
    let serve = "mkdir /www; touch /www/ready; exec httpd -f -p 8080 -h /www";
    let listen = "trap 'exit 0' TERM; while :; do if test -e /deaf; then sleep 0.1; \
        else timeout 1 nc -l -p 8081 >/dev/null; fi; done";
    let wait = "touch /ready; trap 'exit 0' TERM; sleep 1000 & wait";
    let spec = json!({"containers": [
        shell("http", &image, serve, more(&http)),
        shell("tcp", &image, listen, more(&tcp)),
        shell("exec", &image, wait, more(&exec)),
        container("grpc", &health_image(t)?, &["/health", "--http-port=8082"], more(&grpc)),
    ]});
    k.put("ready", spec)?;
    let pod = k.ready("ready")?;
    let toggles = [
        ("http", "rm /www/ready", "touch /www/ready"),
        ("tcp", "touch /deaf", "rm /deaf"),
        ("exec", "rm /ready", "touch /ready"),
        (
            "grpc",
            "wget -qO- 127.0.0.1:8082/make-not-serving",
            "wget -qO- 127.0.0.1:8082/make-serving",
        ),
    ];
    for (name, off, on) in toggles {
        t.exec(pod.id(name), off)?;
        k.until("ready", &format!("is not ready for {name}"), |pod| {
            !pod.ready() && pod.container(name)["ready"] == false
        })?;
        t.exec(pod.id(name), on)?;
    }
    let again = k.ready("ready")?;
    for (name, ..) in toggles {
        assert_eq!((again.id(name), again.restarts(name)), (pod.id(name), 0), "{name}");
    }
    Ok(())
}

/// What fails its liveness probe is stopped as it asks to be, and starts again.
fn put_liveness(t: &Test, k: &Kubelet<'_>) -> Result<()> {
    let image = k.image();
    let dying = "trap 'exit 9' TERM; touch /alive; sleep 2; rm /alive; sleep 1000 & wait";
    let exec = json!({"exec": {"command": ["test", "-e", "/alive"]}, "initialDelaySeconds": 1});
    let grpc = json!({"grpc": {"port": 5001}, "initialDelaySeconds": 1});
    let command = ["/health", "--port=5001", "--http-port=8083", "--delay-unhealthy-sec=3"];
    let slow = "trap 'exit 0' TERM; sleep 3; touch /started; sleep 1000 & wait";
    let started = json!({"exec": {"command": ["test", "-e", "/started"]}, "failureThreshold": 30});
    let never = json!({"exec": {"command": ["false"]}, "failureThreshold": 2});
    k.put(
        "live",
        json!({"containers": [
            shell("exec", &image, dying, json!({"livenessProbe": probe(&exec)})),
            container("grpc", &health_image(t)?, &command, json!({"livenessProbe": probe(&grpc)})),
        ]}),
    )?;
    k.put(
        "started",
        json!({"containers": [shell("main", &image, slow, json!({
            "startupProbe": probe(&started),
            // It would be killed at once if this were asked before.
            "livenessProbe": probe(&json!({"exec": {"command": ["test", "-e", "/started"]}})),
        }))]}),
    )?;
    k.put(
        "late",
        json!({"containers": [shell("main", &image, slow, json!({"startupProbe": probe(&never)}))]}),
    )
}

fn liveness(k: &Kubelet<'_>) -> Result<()> {
    k.until("live", "has been restarted", |pod| {
        pod.restarts("exec") > 0 && pod.restarts("grpc") > 0
    })?;
    let pod = k.until("live", "tells how it ended", |pod| !pod.ended_before("exec").is_null())?;
    assert_eq!(pod.ended_before("exec")["exitCode"], 9, "{pod:?}");
    let pod = k.ready("started")?;
    assert_eq!(pod.restarts("main"), 0, "{pod:?}");
    k.until("late", "has been restarted", |pod| pod.restarts("main") > 0)?;
    Ok(())
}

on_both!(probes_of_every_kind_are_answered, |t| {
    kubelet::run(
        t,
        |_config| (),
        |k| {
            // A container that is restarted too often waits a while.
            k.allow_log("CrashLoopBackOff");
            // What these look into is restarted by others' probes, or ends with the test, while they look.
            k.allow_late(&["test", "-e", "/alive"]);
            k.allow_late(&["test", "-e", "/started"]);
            k.allow_late(&["test", "-e", "/ready"]);
            k.allow_late(&["false"]);
            put_liveness(t, k)?;
            readiness(t, k)?;
            liveness(k)
        },
    )
});
