//! crictl 1.36, as its users type it: every command that it has.

use davit_e2e::live::Live;
use davit_e2e::prelude::*;
use serde_json::{Value, json};

/// A command of crictl, and what it has to do.
type Step = (&'static str, fn(&Test) -> Result<()>);

/// All commands, in the order of a life: each step finds what those before it have made.
const STEPS: [Step; 34] = [
    ("version", version),
    ("info", info),
    ("config", config),
    ("completion", completion),
    ("runtime-config", runtime_config),
    ("update-runtime-config", update_runtime_config),
    ("metricdescs", metricdescs),
    ("pull", pull),
    ("images", images),
    ("inspecti", inspecti),
    ("imagefsinfo", imagefsinfo),
    ("runp", runp),
    ("pods", pods),
    ("inspectp", inspectp),
    ("create", create),
    ("start", start),
    ("ps", ps),
    ("inspect", inspect),
    ("logs", logs),
    ("exec", exec),
    ("attach", attach),
    ("port-forward", port_forward),
    ("stats", stats),
    ("statsp", statsp),
    ("metricsp", metricsp),
    ("update", update),
    ("checkpoint", checkpoint),
    ("run", run),
    ("events", events),
    ("stop", stop),
    ("rm", rm),
    ("stopp", stopp),
    ("rmp", rmp),
    ("rmi", rmi),
];

on_both!(every_command_does_what_it_says, |t| {
    let tried = STEPS.iter().map(|(name, step)| step(t).with_context(|| format!("crictl {name}")));
    let failed: Vec<String> =
        tried.filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
});

#[test]
fn no_command_of_crictl_is_left_out() -> Result<()> {
    let mut help = std::process::Command::new(davit_e2e::tools::crictl()?);
    let help = davit_e2e::tools::run(help.arg("--help"))?;
    let mut told: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "COMMANDS:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.trim_start().split([' ', ',']).next())
        .filter(|name| *name != "help")
        .collect();
    let mut tried: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
    told.sort_unstable();
    tried.sort_unstable();
    assert_eq!(tried, told);
    Ok(())
}

on_one!(errors_are_readable, |t| {
    let error = |arguments: &[&str]| failure(t, arguments);
    assert!(error(&["inspect", "no-such-container"])?.contains("no-such-container"));
    assert!(error(&["pull", "no/such:image"])?.contains("no/such:image"));
    assert!(error(&["start", "no-such-container"])?.contains("no-such-container"));
    Ok(())
});

/// What a command says that has to fail.
fn failure(t: &Test, arguments: &[&str]) -> Result<String> {
    let error = t.crictl(arguments).err().with_context(|| format!("{arguments:?} succeeded"))?;
    Ok(format!("{error:#}"))
}

fn write(t: &Test, name: &str, value: &Value) -> Result<String> {
    let path = t.dir.join(name);
    serde_json::to_writer(std::fs::File::create(&path)?, value)?;
    Ok(path.to_string_lossy().into_owned())
}

fn pod_file(t: &Test, name: &str) -> Result<String> {
    let logs = t.dir.join("logs").join(name);
    std::fs::create_dir_all(&logs)?;
    let pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "attempt": 0},
        "hostname": name, "log_directory": logs, "labels": {"app": name}, "linux": {},
    });
    write(t, &format!("pod-{name}.json"), &pod)
}

fn container_file(t: &Test, name: &str, script: &str) -> Result<String> {
    let container = json!({
        "metadata": {"name": name, "attempt": 0},
        "image": {"image": "busybox"},
        "command": ["sh", "-c", script], "stdin": true,
        "log_path": format!("{name}.log"), "linux": {},
    });
    write(t, &format!("container-{name}.json"), &container)
}

/// The id of the pod that the steps work with.
fn pod(t: &Test) -> Result<String> {
    t.crictl(&["pods", "--quiet", "--name", "web"])
}

/// The id of the container that the steps work with.
fn container(t: &Test) -> Result<String> {
    t.crictl(&["ps", "--all", "--quiet", "--name", "main"])
}

fn version(t: &Test) -> Result<()> {
    let printed = t.crictl(&["version"])?;
    for (key, value) in
        [("RuntimeName", "davit"), ("RuntimeApiVersion", "v1"), ("Version", "0.1.0")]
    {
        let told = printed.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        assert_eq!(told.map(str::trim), Some(value), "{printed}");
    }
    Ok(())
}

fn info(t: &Test) -> Result<()> {
    let info = t.crictl_json(&["info"])?;
    let conditions = info["status"]["conditions"].as_array().context("conditions")?;
    assert!(conditions.len() >= 2, "{info}");
    assert!(conditions.iter().all(|condition| condition["status"] == true), "{info}");
    let handlers = info["runtimeHandlers"].as_array().context("handlers")?;
    assert!(handlers.iter().any(|handler| handler["name"] == "runc"), "{info}");
    Ok(())
}

fn config(t: &Test) -> Result<()> {
    let file = t.dir.join("crictl.yaml").to_string_lossy().into_owned();
    std::fs::File::create(&file)?;
    let endpoint = format!("unix://{}", t.settings().socket().display());
    let crictl = |arguments: &[&str]| {
        let mut command = std::process::Command::new(davit_e2e::tools::crictl()?);
        davit_e2e::tools::run(command.args(["--config", &file]).args(arguments))
    };
    crictl(&["config", "--set", &format!("runtime-endpoint={endpoint},timeout=30")])?;
    assert_eq!(crictl(&["config", "--get", "runtime-endpoint"])?.trim(), endpoint);
    assert!(crictl(&["version"])?.contains("davit"), "the file is what leads to davit");
    Ok(())
}

fn completion(t: &Test) -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        assert!(t.crictl(&["completion", shell])?.contains("crictl"));
    }
    Ok(())
}

fn runtime_config(t: &Test) -> Result<()> {
    let printed = t.crictl(&["runtime-config"])?;
    let driver = printed.strip_prefix("cgroup driver:").map(str::trim);
    let systemd = Path::new("/run/systemd/system").is_dir();
    assert_eq!(driver, Some(if systemd { "SYSTEMD" } else { "CGROUPFS" }), "{printed}");
    Ok(())
}

fn update_runtime_config(t: &Test) -> Result<()> {
    t.crictl(&["update-runtime-config", "--pod-cidr", "10.215.0.0/24"])?;
    let refused = failure(t, &["update-runtime-config", "--pod-cidr", "10.215.0.0/99"])?;
    assert!(refused.contains("10.215.0.0/99"), "{refused}");
    Ok(())
}

fn metricdescs(t: &Test) -> Result<()> {
    let told = t.crictl_json(&["metricdescs"])?;
    let told = told["descriptors"].as_array().context("descriptors")?;
    assert!(told.iter().any(|one| one["name"] == "container_memory_usage_bytes"), "{told:?}");
    Ok(())
}

fn pull(t: &Test) -> Result<()> {
    let printed = t.crictl(&["pull", "busybox"])?;
    let id = t.cri.image("busybox")?.context("it is there")?.id;
    assert_eq!(printed, format!("Image is up to date for {id}"));
    Ok(())
}

fn images(t: &Test) -> Result<()> {
    let printed = t.crictl(&["images", "--digests"])?;
    assert!(printed.contains("docker.io/library/busybox") && printed.contains("latest"));
    let told = t.crictl_json(&["images", "--output", "json", "busybox"])?;
    assert_eq!(told["images"][0]["repoTags"], json!(["docker.io/library/busybox:latest"]));
    assert_eq!(t.crictl(&["images", "--quiet", "no-such-image"])?, "");
    Ok(())
}

fn inspecti(t: &Test) -> Result<()> {
    let told = t.crictl_json(&["inspecti", "busybox"])?;
    let id = told["status"]["id"].as_str().context("an id")?;
    assert_eq!(t.crictl_json(&["inspecti", id.get(..20).context("a long one")?])?, told);
    Ok(())
}

fn imagefsinfo(t: &Test) -> Result<()> {
    let told = t.crictl_json(&["imagefsinfo"])?;
    let filesystem = &told["status"]["imageFilesystems"][0];
    let used: u64 = filesystem["usedBytes"]["value"].as_str().context("bytes")?.parse()?;
    assert!(used > 1 << 20, "{told}");
    let place = filesystem["fsId"]["mountpoint"].as_str().context("a place")?;
    assert!(Path::new(place).starts_with(t.settings().root()), "{told}");
    Ok(())
}

fn runp(t: &Test) -> Result<()> {
    let id = t.crictl(&["runp", &pod_file(t, "web")?])?;
    t.watch(&id);
    assert_eq!(t.cri.pod_status(&id)?.state(), PodSandboxState::SandboxReady);
    Ok(())
}

fn pods(t: &Test) -> Result<()> {
    let printed = t.crictl(&["pods"])?;
    assert!(printed.contains("web") && printed.contains("Ready"), "{printed}");
    let listed = |arguments: &[&str]| t.crictl(&[&["pods", "--quiet"], arguments].concat());
    let id = pod(t)?;
    assert_eq!(listed(&["--label", "app=web", "--state", "ready"])?, id);
    assert_eq!(listed(&["--id", id.get(..13).context("a long one")?])?, id);
    assert_eq!(listed(&["--state", "notready"])?, "");
    assert_eq!(listed(&["--label", "app=another"])?, "");
    Ok(())
}

fn inspectp(t: &Test) -> Result<()> {
    let told = t.crictl_json(&["inspectp", &pod(t)?])?;
    assert_eq!(told["status"]["state"], "SANDBOX_READY");
    assert_eq!(told["status"]["labels"]["app"], "web");
    assert!(told["status"]["network"]["ip"].as_str().is_some_and(|ip| !ip.is_empty()), "{told}");
    Ok(())
}

fn create(t: &Test) -> Result<()> {
    let script = "trap 'exit 7' TERM; echo started; while read line; do echo got $line; done";
    let file = container_file(t, "main", script)?;
    let id = t.crictl(&["create", &pod(t)?, &file, &pod_file(t, "web")?])?;
    t.watch(&id);
    assert_eq!(t.cri.status(&id)?.state(), ContainerState::ContainerCreated);
    Ok(())
}

fn start(t: &Test) -> Result<()> {
    let id = container(t)?;
    assert_eq!(t.crictl(&["start", &id])?, id);
    assert_eq!(t.cri.status(&id)?.state(), ContainerState::ContainerRunning);
    Ok(())
}

fn ps(t: &Test) -> Result<()> {
    let printed = t.crictl(&["ps"])?;
    assert!(printed.contains("main") && printed.contains("Running"), "{printed}");
    let told = t.crictl_json(&["ps", "--output", "json", "--pod", &pod(t)?])?;
    assert_eq!(told["containers"][0]["id"], container(t)?.as_str());
    assert_eq!(t.crictl(&["ps", "--quiet", "--state", "exited"])?, "");
    Ok(())
}

fn inspect(t: &Test) -> Result<()> {
    let id = container(t)?;
    let told = t.crictl_json(&["inspect", id.get(..13).context("a long one")?])?;
    assert_eq!(told["status"]["id"], id.as_str());
    assert_eq!(told["status"]["state"], "CONTAINER_RUNNING");
    assert_eq!(told["info"]["pid"], t.pid(&id)?);
    assert_eq!(told["status"]["imageId"], t.crictl_json(&["inspecti", "busybox"])?["status"]["id"]);
    Ok(())
}

fn logs(t: &Test) -> Result<()> {
    let id = container(t)?;
    eventually(Duration::from_secs(30), "the log shows", || {
        Ok((t.crictl(&["logs", &id])? == "started").then_some(()))
    })?;
    assert_eq!(t.crictl(&["logs", "--tail", "0", &id])?, "");
    assert!(t.crictl(&["logs", "--timestamps", &id])?.ends_with("Z started"));
    Ok(())
}

fn exec(t: &Test) -> Result<()> {
    let id = container(t)?;
    assert_eq!(t.crictl(&["exec", "--sync", &id, "sh", "-c", "echo $(hostname)"])?, "web");
    assert!(t.crictl(&["exec", "--sync", &id, "false"]).is_err());
    for transport in ["spdy", "websocket"] {
        let streamed = |words: &[&str]| {
            t.crictl_command(
                &[&["exec", "--interactive", "--transport", transport, &id], words].concat(),
            )
        };
        let mut echo = Live::start(&mut streamed(&["sh", "-c", "cat; echo end >&2"])?)?;
        echo.say("to and fro\n")?;
        echo.wait_for("to and fro")?;
        assert_eq!(echo.finish()?, "to and fro\nend\n", "{transport}");
        let failed = streamed(&["sh", "-c", "exit 5"])?.output()?;
        assert!(!failed.status.success(), "{transport}");
        assert!(String::from_utf8_lossy(&failed.stderr).contains("exit code 5"), "{failed:?}");
    }
    Ok(())
}

fn attach(t: &Test) -> Result<()> {
    let id = container(t)?;
    for transport in ["spdy", "websocket"] {
        let attach = ["attach", "--stdin", "--transport", transport, &id];
        let mut attached = Live::start(&mut t.crictl_command(&attach)?)?;
        attached.say(&format!("{transport}\n"))?;
        attached.wait_for(&format!("got {transport}\n"))?;
    }
    assert_eq!(t.cri.status(&id)?.state(), ContainerState::ContainerRunning);
    Ok(())
}

fn port_forward(t: &Test) -> Result<()> {
    let id = container(t)?;
    t.exec(
        &id,
        "mkdir -p /tmp/www && echo forwarded > /tmp/www/index.html && httpd -p 8080 -h /tmp/www",
    )?;
    for transport in ["spdy", "websocket"] {
        let port = free_port()?;
        let ports = format!("{port}:8080");
        let forward = ["port-forward", "--transport", transport, &pod(t)?, &ports];
        let mut forwarder = Live::start(&mut t.crictl_command(&forward)?)?;
        forwarder.wait_for(&format!("127.0.0.1:{port} -> 8080"))?;
        let answer = crate::network::fetch(([127, 0, 0, 1], port).into())?;
        assert!(answer.ends_with("forwarded\n"), "{transport}: {answer}");
    }
    Ok(())
}

fn stats(t: &Test) -> Result<()> {
    let id = container(t)?;
    let told = t.crictl_json(&["stats", "--output", "json", &id])?;
    assert_eq!(told["stats"][0]["attributes"]["id"], id.as_str(), "{told}");
    let memory = told["stats"][0]["memory"]["workingSetBytes"]["value"].as_str();
    assert!(memory.is_some_and(|bytes| bytes.parse::<u64>().is_ok_and(|bytes| bytes > 0)));
    assert!(t.crictl(&["stats"])?.contains("main"));
    Ok(())
}

fn statsp(t: &Test) -> Result<()> {
    let id = pod(t)?;
    let told = t.crictl_json(&["statsp", "--output", "json", "--id", &id])?;
    assert_eq!(told["stats"][0]["attributes"]["id"], id.as_str(), "{told}");
    assert!(t.crictl(&["statsp"])?.contains("web"));
    Ok(())
}

fn metricsp(t: &Test) -> Result<()> {
    let told = t.crictl_json(&["metricsp"])?;
    assert_eq!(told["podMetrics"][0]["podSandboxId"], pod(t)?.as_str(), "{told}");
    let of_container = &told["podMetrics"][0]["containerMetrics"][0];
    assert_eq!(of_container["containerId"], container(t)?.as_str(), "{told}");
    Ok(())
}

fn update(t: &Test) -> Result<()> {
    let id = container(t)?;
    assert_eq!(t.crictl(&["update", "--memory", "67108864", "--cpu-share", "512", &id])?, id);
    let told = t.crictl_json(&["inspect", &id])?;
    let linux = &told["status"]["resources"]["linux"];
    assert_eq!(
        (&linux["memoryLimitInBytes"], &linux["cpuShares"]),
        (&json!("67108864"), &json!("512"))
    );
    Ok(())
}

/// CRIU doesn't work everywhere: where it doesn't, the answer says so, and the container goes on.
fn checkpoint(t: &Test) -> Result<()> {
    let id = container(t)?;
    let archive = t.dir.join("checkpoint.tar");
    let export = format!("--export={}", archive.display());
    match t.crictl(&["checkpoint", &export, &id]) {
        Ok(printed) => {
            assert_eq!(printed, id);
            assert!(std::fs::metadata(&archive)?.len() > 0);
        }
        Err(error) => {
            let text = format!("{error:#}").to_lowercase();
            assert!(text.contains("criu"), "{text}");
            assert!(!archive.exists(), "half an archive was left");
        }
    }
    assert_eq!(t.cri.status(&id)?.state(), ContainerState::ContainerRunning);
    Ok(())
}

fn run(t: &Test) -> Result<()> {
    let file = container_file(t, "second", "exec sleep 1000")?;
    let id = t.crictl(&["run", &file, &pod_file(t, "other")?])?;
    t.watch(&id);
    assert_eq!(t.cri.status(&id)?.state(), ContainerState::ContainerRunning);
    let other = t.crictl(&["pods", "--quiet", "--name", "other"])?;
    t.watch(&other);
    t.crictl(&["rmp", "--force", &other])?;
    assert!(t.cri.status(&id).is_err());
    Ok(())
}

fn events(t: &Test) -> Result<()> {
    let mut events = Live::start(&mut t.crictl_command(&["events", "--output", "json"])?)?;
    // It says nothing before the first event, and those before it listens are not told.
    eventually(Duration::from_secs(30), "a pod's beginning is told", || {
        let id = t.crictl(&["runp", &pod_file(t, "eventful")?])?;
        t.crictl(&["rmp", "--force", &id])?;
        t.watch(&id);
        let told = events.printed();
        // Its removal alone: it began to listen in between.
        Ok((told.contains(&id) && told.contains("CONTAINER_CREATED_EVENT")).then_some(()))
    })?;
    events.wait_for("CONTAINER_DELETED_EVENT")
}

fn stop(t: &Test) -> Result<()> {
    let id = container(t)?;
    assert_eq!(t.crictl(&["stop", "--timeout", "10", &id])?, id);
    assert_eq!(t.cri.status(&id)?.exit_code, 7);
    assert!(t.crictl(&["ps", "--all"])?.contains("Exited"));
    Ok(())
}

fn rm(t: &Test) -> Result<()> {
    let id = container(t)?;
    assert_eq!(t.crictl(&["rm", &id])?, id);
    assert_eq!(container(t)?, "");
    Ok(())
}

fn stopp(t: &Test) -> Result<()> {
    let id = pod(t)?;
    assert_eq!(t.crictl(&["stopp", &id])?, format!("Stopped sandbox {id}"));
    assert!(t.crictl(&["pods"])?.contains("NotReady"));
    Ok(())
}

fn rmp(t: &Test) -> Result<()> {
    let id = pod(t)?;
    assert_eq!(t.crictl(&["rmp", &id])?, format!("Removed sandbox {id}"));
    assert_eq!(pod(t)?, "");
    Ok(())
}

fn rmi(t: &Test) -> Result<()> {
    let printed = t.crictl(&["rmi", "busybox"])?;
    assert!(printed.contains("Deleted: docker.io/library/busybox:latest"), "{printed}");
    assert_eq!(t.crictl(&["images", "--quiet"])?, "");
    Ok(())
}
