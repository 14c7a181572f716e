//! crictl 1.36, as its users type it.

use davit_e2e::prelude::*;
use serde_json::{Value, json};

fn write(t: &Test, name: &str, value: &Value) -> Result<String> {
    let path = t.dir.join(name);
    serde_json::to_writer(std::fs::File::create(&path)?, value)?;
    Ok(path.to_string_lossy().into_owned())
}

fn pod_file(t: &Test) -> Result<String> {
    let logs = t.dir.join("logs");
    std::fs::create_dir_all(&logs)?;
    let pod = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": t.settings().tag(), "attempt": 0},
        "hostname": "web", "log_directory": logs, "labels": {"app": "web"}, "linux": {},
    });
    write(t, "pod.json", &pod)
}

fn container_file(t: &Test) -> Result<String> {
    let container = json!({
        "metadata": {"name": "main", "attempt": 0},
        "image": {"image": "busybox"},
        "command": ["sh", "-c", "trap 'exit 0' TERM; echo started; while :; do sleep 0.1; done"],
        "log_path": "main.log", "linux": {},
    });
    write(t, "container.json", &container)
}

on_both!(a_pod_from_start_to_end, |t| {
    t.crictl(&["pull", "busybox"])?;
    let (pod_file, container_file) = (pod_file(t)?, container_file(t)?);
    let pod = t.crictl(&["runp", &pod_file])?;
    t.watch(&pod);
    let id = t.crictl(&["create", &pod, &container_file, &pod_file])?;
    t.watch(&id);
    assert_eq!(t.crictl(&["start", &id])?, id);
    assert_eq!(t.crictl(&["exec", "--sync", &id, "sh", "-c", "echo $(hostname)"])?, "web");
    assert!(t.crictl(&["exec", "--sync", &id, "false"]).is_err());
    eventually(Duration::from_secs(5), "the log shows", || {
        Ok((t.crictl(&["logs", &id])? == "started").then_some(()))
    })?;
    assert!(t.crictl(&["ps"])?.contains("main"));
    assert!(t.crictl(&["pods"])?.contains("web"));
    assert!(t.crictl(&["images"])?.contains("docker.io/library/busybox"));
    assert!(t.crictl(&["logs", &id[..13]])?.contains("started"));
    t.crictl(&["stop", "--timeout", "10", &id])?;
    assert!(t.crictl(&["ps", "-a"])?.contains("Exited"));
    t.crictl(&["rm", &id])?;
    t.crictl(&["stopp", &pod])?;
    assert!(t.crictl(&["pods"])?.contains("NotReady"));
    t.crictl(&["rmp", &pod])?;
    t.crictl(&["rmi", "busybox"])?;
    assert!(
        t.crictl_json(&["images", "-o", "json"])?["images"].as_array().is_none_or(Vec::is_empty)
    );
    Ok(())
});

on_one!(everything_can_be_inspected, |t| {
    t.crictl(&["pull", "busybox"])?;
    let (pod_file, container_file) = (pod_file(t)?, container_file(t)?);
    let pod = t.crictl(&["runp", &pod_file])?;
    let id = t.crictl(&["create", &pod, &container_file, &pod_file])?;
    t.crictl(&["start", &id])?;
    let container = t.crictl_json(&["inspect", &id])?;
    assert_eq!(container["status"]["id"], id.as_str());
    assert_eq!(container["status"]["state"], "CONTAINER_RUNNING");
    assert!(container["info"]["pid"].as_u64().is_some_and(|pid| pid > 1), "{container}");
    let sandbox = t.crictl_json(&["inspectp", &pod])?;
    assert_eq!(sandbox["status"]["state"], "SANDBOX_READY");
    assert_eq!(sandbox["status"]["labels"]["app"], "web");
    assert!(sandbox["status"]["network"]["ip"].as_str().is_some_and(|ip| !ip.is_empty()));
    let image = t.crictl_json(&["inspecti", "busybox"])?;
    assert_eq!(image["status"]["id"], container["status"]["imageId"]);
    let info = t.crictl_json(&["info"])?;
    let conditions = info["status"]["conditions"].as_array().context("conditions")?;
    assert!(conditions.iter().all(|condition| condition["status"] == true), "{info}");
    assert!(t.crictl(&["version"])?.contains("davit"));
    t.crictl(&["imagefsinfo"])?;
    let listed = t.crictl_json(&["ps", "-o", "json", "--pod", &pod])?;
    assert_eq!(listed["containers"][0]["id"], id.as_str());
    t.crictl(&["stats", "-o", "json"])?;
    t.crictl(&["rmp", "-f", &pod])?;
    Ok(())
});

on_one!(errors_are_readable, |t| {
    let error = |arguments: &[&str]| -> Result<String> {
        Ok(format!(
            "{:#}",
            t.crictl(arguments).err().with_context(|| format!("{arguments:?} succeeded"))?
        ))
    };
    assert!(error(&["inspect", "no-such-container"])?.contains("no-such-container"));
    assert!(error(&["pull", "no/such:image"])?.contains("no/such:image"));
    assert!(error(&["start", "no-such-container"])?.contains("no-such-container"));
    Ok(())
});
