use super::*;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

impl Host {
    fn conf(&self, name: &str, conf: &Value) {
        let dir = self.dir.path().join("net.d");
        std::fs::create_dir_all(&dir).unwrap();
        files::replace(&dir, name, conf.to_string().as_bytes()).unwrap();
    }

    /// A plugin that writes down each call (`calls`: verb; `<verb>.env`, `<verb>.json`: what it was told) and then runs `body`.
    fn plugin(&self, name: &str, body: &str) {
        let (bin, log) = (self.dir.path().join("bin"), self.dir.path().join("log"));
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(&log).unwrap();
        let log = log.display();
        let script = format!(
            "#!/bin/sh\necho {name} $CNI_COMMAND >> {log}/calls\nenv | grep ^CNI_ > {log}/{name}.$CNI_COMMAND.env\n\
             cat > {log}/{name}.$CNI_COMMAND.json\n{body}\n"
        );
        let path = bin.join(format!("{name}.new"));
        File::create(&path).unwrap().write_all(script.as_bytes()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(path, bin.join(name)).unwrap();
    }

    fn log(&self, file: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("log").join(file)).unwrap_or_default()
    }

    fn calls(&self) -> Vec<String> {
        self.log("calls").lines().map(str::to_owned).collect()
    }

    fn told(&self, file: &str) -> Value {
        serde_json::from_str(&self.log(file)).unwrap()
    }

    /// bridge + host-local + portmap, as many nodes have it.
    fn real_chain(&self) -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "real",
            "plugins": [
                {
                    "type": "bridge", "bridge": "cni-t0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                    "ipam": {
                        "type": "host-local", "dataDir": self.dir.path().join("host-local"),
                        "ranges": [[{"subnet": "10.77.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        })
    }

    fn host_local(&self) -> Vec<String> {
        let dir = self.dir.path().join("host-local/real");
        let mut leases = if dir.exists() { names(&dir) } else { Vec::new() };
        leases.retain(|name| name.starts_with("10."));
        leases
    }

    /// No process of this test's plugins is left.
    fn assert_no_process(&self) {
        let bin = self.dir.path().join("bin");
        let needle = bin.as_os_str().as_encoded_bytes();
        let left = || {
            let entries = std::fs::read_dir("/proc").unwrap().flatten();
            let commands = entries
                .map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default());
            commands
                .filter(|command| command.windows(needle.len()).any(|window| window == needle))
                .count()
        };
        // Killed processes are gone when the kernel gets to it.
        let end = Instant::now() + Duration::from_secs(5);
        while left() > 0 {
            assert!(Instant::now() < end, "{} processes of {}", left(), bin.display());
            std::thread::yield_now();
        }
    }
}

fn one_plugin(version: &str, kind: &str) -> Value {
    json!({"cniVersion": version, "name": "test", "plugins": [{"type": kind}]})
}

const GOOD: &str =
    r#"[ $CNI_COMMAND = ADD ] && echo '{"ips":[{"address":"10.1.1.2/24"}]}'; exit 0"#;

#[test]
fn the_real_plugins_attach_publish_and_detach() {
    let (host, one, two) = (Host::new(), Netns::new(), Netns::new());
    host.conf("10-real.conflist", &host.real_chain());
    host.daemon(host.config(), async |network| {
        let (mut a, b) = (attachment(&one.path()), attachment(&two.path()));
        a.port_mappings = vec![published(Protocol::Tcp, 8080, 80)];
        let first = network.attach(a.clone()).await.unwrap();
        let second = network.attach(b.clone()).await.unwrap();
        assert_eq!(network.status().name, "cni:real");
        assert!(network.status().ready, "{:?}", network.status());
        assert!(first.mac.is_some());
        assert_eq!(
            reach(&two, &one, 80, (&first.ips[0].to_string(), 80)),
            second.ips[0].to_string()
        );
        assert_eq!(reach(&host.world, &one, 80, (HOST_IP, 8080)), WORLD_IP);
        assert_eq!(reach(&one, &one, 80, ("127.0.0.1", 80)), "127.0.0.1", "lo is up");
        assert_eq!(network.set_pod_cidr("10.5.0.0/24").await.unwrap(), PodCidrOutcome::CniDecides);
        for pod in [&a, &b, &a] {
            network.detach(&pod.id, None).await.unwrap();
        }
    });
    assert_eq!(host.host_local(), Vec::<String>::new());
    assert_eq!(host.links("veth"), Vec::<String>::new());
    assert!(!host.ruleset().contains("dnat to"), "{}", host.ruleset());
    host.assert_empty();
}

#[test]
fn a_pod_is_detached_as_it_was_attached_although_configuration_and_namespace_are_gone() {
    let (host, one) = (Host::new(), Netns::new());
    host.conf("10-real.conflist", &host.real_chain());
    let mut a = attachment(&one.path());
    a.port_mappings = vec![published(Protocol::Tcp, 8080, 80)];
    host.daemon(host.config(), async |network| {
        network.attach(a.clone()).await.unwrap();
    });
    assert_eq!(host.host_local().len(), 1);
    std::fs::remove_file(host.dir.path().join("net.d/10-real.conflist")).unwrap();
    drop(one);
    host.daemon(host.config(), async |network| {
        assert_eq!(network.status().name, "bridge");
        network.detach(&a.id, None).await.unwrap();
    });
    assert_eq!(host.host_local(), Vec::<String>::new());
    assert!(!host.ruleset().contains("dnat to"), "{}", host.ruleset());
    host.assert_empty();
}

#[test]
fn recovery_detaches_the_dead_from_cni() {
    let (host, one, two) = (Host::new(), Netns::new(), Netns::new());
    host.conf("10-real.conflist", &host.real_chain());
    let (a, b) = (attachment(&one.path()), attachment(&two.path()));
    host.daemon(host.config(), async |network| {
        network.attach(a.clone()).await.unwrap();
        network.attach(b.clone()).await.unwrap();
    });
    host.daemon(host.config(), async |network| {
        let report = network.recover(std::slice::from_ref(&a.id)).await;
        assert_eq!(report.detached, std::slice::from_ref(&b.id));
        assert_eq!(host.host_local().len(), 1);
        network.detach(&a.id, None).await.unwrap();
    });
    assert_eq!(host.host_local(), Vec::<String>::new());
    host.assert_empty();
}

#[test]
fn plugins_are_told_what_the_spec_says() {
    let (host, pod) = (Host::new(), Netns::new());
    host.plugin("first", r#"[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.1.2/24"}],"dns":{"x":1}}'; exit 0"#);
    host.plugin("second", GOOD);
    host.conf(
        "10.conflist",
        &json!({"cniVersion": "1.0.0", "name": "test", "plugins": [
            {"type": "first", "own": {"a": [1]}},
            {"type": "second", "capabilities": {"portMappings": true, "dns": false, "cgroupPath": true}},
        ]}),
    );
    let mut a = attachment(&pod.path());
    a.port_mappings = vec![published(Protocol::Udp, 53, 5353)];
    a.dns = Some(DnsConfig::default());
    a.cgroup_path = Some("/x".into());
    host.daemon(host.config(), async |network| {
        network.attach(a.clone()).await.unwrap();
        network.detach(&a.id, None).await.unwrap();
    });
    assert_eq!(host.calls(), ["first ADD", "second ADD", "second DEL", "first DEL"]);
    assert_eq!(
        host.told("first.ADD.json"),
        json!({"type": "first", "own": {"a": [1]}, "name": "test", "cniVersion": "1.0.0"})
    );
    let ports = json!([{"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": ""}]);
    let mut want = json!({
        "type": "second", "name": "test", "cniVersion": "1.0.0",
        "runtimeConfig": {"portMappings": ports, "cgroupPath": "/x"},
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.1.1.2/24"}], "dns": {"x": 1}},
    });
    assert_eq!(host.told("second.ADD.json"), want);
    // DEL: what the last plugin said, and the capabilities as at ADD.
    want["prevResult"] = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.1.2/24"}]});
    assert_eq!(host.told("second.DEL.json"), want);
    assert_eq!(host.told("first.DEL.json")["prevResult"], want["prevResult"]);
    let env = host.log("first.ADD.env");
    let lines: Vec<&str> = env.lines().collect();
    for want in [
        "CNI_COMMAND=ADD".to_owned(),
        "CNI_IFNAME=eth0".to_owned(),
        format!("CNI_CONTAINERID={}", a.id),
        format!("CNI_NETNS={}", pod.path().display()),
        format!("CNI_PATH={}:/usr/lib/cni", host.dir.path().join("bin").display()),
    ] {
        assert!(lines.contains(&want.as_str()), "{want} in {env}");
    }
    assert!(
        env.contains("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod;"),
        "{env}"
    );
    host.assert_empty();
}

#[test]
fn after_a_failed_add_every_plugin_gets_del_and_the_error_has_its_words() {
    let (host, pod) = (Host::new(), Netns::new());
    host.plugin("first", GOOD);
    host.plugin("second", r#"[ $CNI_COMMAND = DEL ] || { echo '{"code":111,"msg":"no luck","details":"at all"}'; exit 1; }"#);
    host.plugin("third", GOOD);
    let all = json!([{"type": "first"}, {"type": "second"}, {"type": "third"}]);
    host.conf("10.conflist", &json!({"cniVersion": "0.4.0", "name": "test", "plugins": all}));
    host.daemon(host.config(), async |network| {
        let error = network.attach(attachment(&pod.path())).await.unwrap_err();
        assert!(error.undo.is_none(), "{error:?}");
        let text = chain(&error);
        for want in ["ADD", "second", "test", "111", "no luck: at all"] {
            assert!(text.contains(want), "{want} in {text}");
        }
        let AttachCause::Plugin(error) = error.cause else { panic!("{:?}", error.cause) };
        assert_eq!((error.plugin.as_str(), error.verb), ("second", Verb::Add));
    });
    assert_eq!(host.calls(), ["first ADD", "second ADD", "third DEL", "second DEL", "first DEL"]);
    host.assert_empty();
}

#[test]
fn a_plugin_that_never_ends_is_killed_with_all_its_children() {
    let (host, pod) = (Host::new(), Netns::new());
    // The child has the script's path among its arguments: it is looked for afterwards.
    host.plugin(
        "hang",
        r#"[ $CNI_COMMAND = DEL ] && exit 0; trap '' TERM; sh -c 'sleep 300; :' "$0" & sleep 300"#,
    );
    host.conf("10.conflist", &one_plugin("1.0.0", "hang"));
    let config = NetworkConfig { cni_timeout: Duration::from_secs(3), ..host.config() };
    host.daemon(config, async |network| {
        let start = Instant::now();
        let error = network.attach(attachment(&pod.path())).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
        let AttachCause::Plugin(plugin) = &error.cause else { panic!("{error:?}") };
        assert!(
            matches!(plugin.failure, PluginFailure::Child(ChildError::Deadline(_))),
            "{plugin:?}"
        );
        assert!(error.undo.is_none());
    });
    assert_eq!(host.calls(), ["hang ADD", "hang DEL"]);
    host.assert_no_process();
    host.assert_empty();
}

#[test]
fn a_plugin_that_leaves_a_child_with_its_pipes_is_not_waited_for() {
    let (host, pod) = (Host::new(), Netns::new());
    host.plugin("daemonic", &format!("sleep 5 & {GOOD}"));
    host.conf("10.conflist", &one_plugin("1.0.0", "daemonic"));
    host.daemon(host.config(), async |network| {
        let (a, start) = (attachment(&pod.path()), Instant::now());
        network.attach(a.clone()).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        network.detach(&a.id, None).await.unwrap();
    });
    host.assert_empty();
}

#[test]
fn output_that_is_no_result_or_without_end_is_an_error_and_del_is_run() {
    for (body, want) in [
        ("echo hello", "no CNI result"),
        ("true", "no CNI result"),
        ("echo '[]'", "no CNI result"),
        ("echo '{\"ips\":[]}'", "no IP address"),
        ("echo '{\"ips\":[{\"address\":\"x\"}]}'", "\"x\""),
        ("head -c 10000000 /dev/zero", "more than 1048576 bytes"),
        ("yes", "more than 1048576 bytes"),
        ("echo oops >&2; exit 3", "oops"),
        ("head -c 10000000 /dev/zero | tr '\\0' x >&2; exit 1", "xxx"),
        ("kill -9 $$", "signal"),
    ] {
        let (host, pod) = (Host::new(), Netns::new());
        host.plugin("bad", &format!("[ $CNI_COMMAND = DEL ] && exit 0; {body}"));
        host.conf("10.conflist", &one_plugin("1.0.0", "bad"));
        host.daemon(host.config(), async |network| {
            let error = network.attach(attachment(&pod.path())).await.unwrap_err();
            let text = chain(&error);
            assert!(text.contains(want), "{body}: {text}");
            assert!(text.len() < 5000, "{}", text.len());
            assert!(error.undo.is_none());
        });
        assert_eq!(host.calls(), ["bad ADD", "bad DEL"], "{body}");
        host.assert_no_process();
        host.assert_empty();
    }
}

#[test]
fn a_failed_del_is_told_and_tried_again_and_stops_no_other() {
    let (host, pod) = (Host::new(), Netns::new());
    host.plugin("first", GOOD);
    host.plugin("second", r#"[ $CNI_COMMAND = DEL ] && { echo stuck >&2; exit 1; }; echo '{"ips":[{"address":"10.1.1.2/24"}]}'"#);
    host.conf("10.conflist", &json!({"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "first"}, {"type": "second"}]}));
    host.daemon(host.config(), async |network| {
        let a = attachment(&pod.path());
        network.attach(a.clone()).await.unwrap();
        let error = network.detach(&a.id, None).await.unwrap_err();
        assert!(chain(&error).contains("stuck") && chain(&error).contains("DEL"), "{error:?}");
        assert_eq!(host.calls()[2..], ["second DEL", "first DEL"]);
        assert_eq!(host.records().len(), 1);
        let report = network.recover(&[]).await;
        assert_eq!((report.failed.len(), host.records().len()), (1, 1));
        host.plugin("second", "exit 0");
        network.detach(&a.id, None).await.unwrap();
    });
    host.assert_empty();
}

#[test]
fn a_missing_plugin_makes_the_node_not_ready_until_it_appears() {
    let (host, pod) = (Host::new(), Netns::new());
    host.conf("10.conflist", &one_plugin("1.0.0", "late"));
    host.daemon(host.config(), async |network| {
        let status = network.status();
        assert!(!status.ready && status.message.contains("late"), "{status:?}");
        assert_eq!(status.reason, "NetworkPluginNotReady");
        let error = network.attach(attachment(&pod.path())).await.unwrap_err();
        let AttachCause::Plugin(plugin) = &error.cause else { panic!("{error:?}") };
        assert!(matches!(plugin.failure, PluginFailure::NotFound(_)));
        host.plugin("late", GOOD);
        assert!(network.status().ready);
    });
}

#[test]
fn the_configuration_is_followed_as_it_comes_changes_and_goes() {
    let host = Host::new();
    host.plugin("p", GOOD);
    host.daemon(host.config(), async |network| {
        assert_eq!(network.status().name, "bridge");
        host.conf("20.conflist", &one_plugin("1.0.0", "../../bin/sh"));
        let status = network.status();
        assert!(!status.ready && status.message.contains("../../bin/sh"), "{status:?}");
        let refused = network.attach(attachment(Path::new("/x"))).await.unwrap_err();
        assert!(matches!(refused.cause, AttachCause::NotReady(_)), "{refused:?}");
        host.conf("30.conflist", &one_plugin("1.0.0", "p"));
        let status = network.status();
        assert!(
            status.ready && status.name == "cni:test" && status.message.contains("20.conflist"),
            "{status:?}"
        );
        let mut other = one_plugin("1.0.0", "p");
        other["name"] = json!("other");
        host.conf("10.conflist", &other);
        assert_eq!(network.status().name, "cni:other");
        std::fs::remove_dir_all(host.dir.path().join("net.d")).unwrap();
        assert_eq!(network.status().name, "bridge");
    });
    let mut config = host.config();
    config.bridge.enabled = false;
    host.daemon(config, async |network| {
        let status = network.status();
        assert!(!status.ready && status.reason == "NetworkPluginNotReady", "{status:?}");
    });
    host.assert_empty();
}

#[test]
fn the_plugins_own_status_is_told_and_never_waited_for() {
    let host = Host::new();
    host.plugin("sick", r#"[ $CNI_COMMAND = STATUS ] && { sleep 0.3; echo '{"code":50,"msg":"not today"}'; exit 1; }"#);
    host.conf("10.conflist", &one_plugin("1.1.0", "sick"));
    host.daemon(host.config(), async |network| {
        assert!(network.status().ready, "nothing is known against it yet");
        let end = Instant::now() + Duration::from_secs(10);
        while network.status().ready {
            assert!(Instant::now() < end, "never told");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(network.status().message.contains("not today"), "{:?}", network.status());
    });
    assert_eq!(host.calls(), ["sick STATUS"], "asked once, not each time");
    assert!(!host.log("sick.STATUS.env").contains("CNI_CONTAINERID"));
}

#[test]
fn garbage_collection_names_the_living() {
    let (host, one, two) = (Host::new(), Netns::new(), Netns::new());
    host.plugin("p", GOOD);
    host.conf("10.conflist", &one_plugin("1.1.0", "p"));
    let (a, b) = (attachment(&one.path()), attachment(&two.path()));
    host.daemon(host.config(), async |network| {
        network.attach(a.clone()).await.unwrap();
        network.attach(b.clone()).await.unwrap();
        let report = network.recover(std::slice::from_ref(&a.id)).await;
        assert!(report.gc.is_empty(), "{report:?}");
        network.detach(&a.id, None).await.unwrap();
    });
    let valid = &host.told("p.GC.json")["cni.dev/valid-attachments"];
    assert_eq!(*valid, json!([{"containerID": a.id, "ifname": "eth0"}]));
    host.assert_empty();
}

/// In which a plugin's DEL fails for as long as there is a file `broken`.
const BREAKS: &str = r#"case $CNI_COMMAND in
ADD) echo '{"ips":[{"address":"10.1.1.2/24"}]}';;
DEL) [ ! -e ${0%/*}/broken ];;
esac"#;

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_pod_whose_plugin_is_gone_ends_and_its_network_is_taken_down_when_the_plugin_is_back() {
    let (host, pod) = (Host::new(), Netns::new());
    host.plugin("own", GOOD);
    host.conf("10.conflist", &one_plugin("1.0.0", "own"));
    host.daemon(host.config(), async |network| {
        let a = attachment(&pod.path());
        network.attach(a.clone()).await.unwrap();
        let bin = host.dir.path().join("bin");
        std::fs::rename(bin.join("own"), bin.join("away")).unwrap();
        assert!(network.detach(&a.id, None).await.is_err());
        network.detach_ending(&a.id, None).await.unwrap();
        assert_eq!(host.records().len(), 1, "it is owed");
        std::fs::rename(bin.join("away"), bin.join("own")).unwrap();
        until("it is taken down", || host.records().is_empty()).await;
        assert_eq!(host.calls(), ["own ADD", "own DEL"]);
    });
    host.assert_empty();
}

#[test]
fn a_plugin_that_fails_keeps_the_pod_for_a_while_and_no_longer() {
    let (host, pod) = (Host::new(), Netns::new());
    host.plugin("own", BREAKS);
    host.conf("10.conflist", &one_plugin("1.0.0", "own"));
    host.daemon(host.config(), async |network| {
        let a = attachment(&pod.path());
        network.attach(a.clone()).await.unwrap();
        let broken = host.dir.path().join("bin/broken");
        File::create(&broken).unwrap();
        for _ in 0..3 {
            assert!(network.detach_ending(&a.id, None).await.is_err());
        }
        network.inner.owed.has_failed_for_long(&a.id);
        for _ in 0..3 {
            network.detach_ending(&a.id, None).await.unwrap();
        }
        std::fs::remove_file(&broken).unwrap();
        until("it is taken down", || host.records().is_empty()).await;
    });
    host.assert_empty();
}

#[test]
fn networks_that_are_owed_are_tried_a_few_at_a_time_however_many_there_are() {
    let (host, pod) = (Host::new(), Netns::new());
    host.plugin("own", BREAKS);
    host.conf("10.conflist", &one_plugin("1.0.0", "own"));
    host.daemon(host.config(), async |network| {
        let all: Vec<Attachment> = (0..30).map(|_| attachment(&pod.path())).collect();
        for one in &all {
            network.attach(one.clone()).await.unwrap();
        }
        let broken = host.dir.path().join("bin/broken");
        File::create(&broken).unwrap();
        let begun = Instant::now();
        network.owe(all.iter().map(|one| one.id.clone()));
        let tries = || host.calls().iter().filter(|call| *call == "own DEL").count();
        until("each was tried twice", || tries() >= 60).await;
        let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
        assert!(tries() <= (seconds + 1) * owed::SIDE_BY_SIDE, "{} in {seconds} s", tries());
        std::fs::remove_file(&broken).unwrap();
        until("all are taken down", || host.records().is_empty()).await;
    });
    host.assert_empty();
}

#[test]
fn a_plugin_that_outlives_its_daemon_is_ended_before_del() {
    let (host, pod) = (Host::new(), Netns::new());
    host.plugin("own", GOOD);
    host.conf("10.conflist", &one_plugin("1.0.0", "own"));
    let a = attachment(&pod.path());
    let lease = host.dir.path().join("lease");
    host.daemon(host.config(), async |network| {
        let record = network.inner.plan(&a).unwrap();
        network.inner.records.save(&record).unwrap();
    });
    let late = format!("sleep 2; touch {}", lease.display());
    let mut orphan = Command::new("sh")
        .args(["-c", &late])
        .envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", a.id.as_str())])
        .spawn()
        .unwrap();
    host.daemon(host.config(), async |network| {
        let report = network.recover(&[]).await;
        assert_eq!(report.detached, std::slice::from_ref(&a.id));
    });
    assert!(!orphan.wait().unwrap().success());
    assert!(!lease.exists());
    assert_eq!(host.calls(), ["own DEL"]);
    host.assert_empty();
}

#[test]
fn garbage_collection_has_one_deadline_for_all_plugins() {
    let (host, pod) = (Host::new(), Netns::new());
    host.plugin("slow", &format!("[ $CNI_COMMAND = GC ] && sleep 300; {GOOD}"));
    let all = json!([{"type": "slow"}, {"type": "slow"}, {"type": "slow"}]);
    host.conf("10.conflist", &json!({"cniVersion": "1.1.0", "name": "test", "plugins": all}));
    let config = NetworkConfig { cni_timeout: Duration::from_secs(4), ..host.config() };
    host.daemon(config, async |network| {
        let begun = Instant::now();
        let report = network.recover(&[]).await;
        assert_eq!(report.gc.len(), 3, "{report:?}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        let a = attachment(&pod.path());
        network.attach(a.clone()).await.unwrap();
        network.detach(&a.id, None).await.unwrap();
    });
    host.assert_empty();
}
