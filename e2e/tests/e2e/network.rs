//! The pod network: built in, and by real CNI plugins.

use davit_e2e::cni;
use davit_e2e::prelude::*;
use davit_e2e::registry::Registry;
use k8s_cri::v1::PortMapping;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};

/// What an HTTP server answers with.
pub(crate) fn fetch(address: SocketAddr) -> Result<String> {
    fetch_path(address, "/")
}

/// The same, of what is at this path.
pub(crate) fn fetch_path(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn ip(t: &Test, pod: &Pod) -> Result<IpAddr> {
    let network = t.cri.pod_status(&pod.id)?.network.context("the pod has a network")?;
    Ok(network.ip.parse()?)
}

/// A pod with a web server, and its address.
pub(crate) fn server(t: &Test, name: &str, ports: Vec<PortMapping>) -> Result<(Pod, IpAddr)> {
    let image = t.pull("e2e-test-images/httpd:2.4.39-4")?;
    let pod = t.pod(name, |p| p.port_mappings = ports)?;
    t.run(&pod, "httpd", |c| {
        c.image = Some(davit_e2e::cri::spec(&image));
        c.command.clear();
    })?;
    let ip = ip(t, &pod)?;
    eventually(Duration::from_secs(30), "the server answers", || Ok(fetch((ip, 80).into()).ok()))?;
    Ok((pod, ip))
}

fn port(host_port: u16, host_ip: &str) -> PortMapping {
    PortMapping {
        protocol: 0,
        container_port: 80,
        host_port: i32::from(host_port),
        host_ip: host_ip.to_owned(),
    }
}

on_both!(a_pod_has_an_address_of_the_bridge_that_the_host_reaches, |t| {
    let (pod, ip) = server(t, "web", Vec::new())?;
    let subnet = t.daemon().subnet().to_owned();
    assert!(ip.to_string().starts_with(subnet.trim_end_matches("0/24")), "{ip} is not in {subnet}");
    assert!(fetch((ip, 80).into())?.contains("It works!"));
    let id = t.run(&pod, "inside", |_| ())?;
    assert!(t.exec(&id, "ip -o -4 addr show eth0")?.contains(&ip.to_string()));
    assert!(t.exec(&id, "ip -o addr show lo")?.contains("127.0.0.1/8"));
    assert!(t.exec(&id, "wget -qO- http://127.0.0.1")?.contains("It works!"));
    Ok(())
});

on_one!(pods_reach_each_other_by_address, |t| {
    let (_, ip) = server(t, "web", Vec::new())?;
    let client = t.pod("client", |_| ())?;
    let id = t.run(&client, "main", |_| ())?;
    assert!(t.exec(&id, &format!("timeout 5 wget -qO- http://{ip}"))?.contains("It works!"));
    assert_ne!(self::ip(t, &client)?, ip);
    Ok(())
});

on_one!(a_pod_reaches_the_world_beyond_the_host_in_the_hosts_name, |t| {
    // The host's own address, seen from the pod, stands for the world: no other machine is asked.
    let server = std::net::TcpListener::bind("0.0.0.0:0")?;
    let port = server.local_addr()?.port();
    let pod = t.pod("client", |_| ())?;
    let id = t.run(&pod, "main", |_| ())?;
    let gateway = t.exec(&id, "ip route | awk '$1 == \"default\" {print $3}'")?;
    let accepted = std::thread::spawn(move || server.accept().map(|(_, peer)| peer.ip()));
    t.exec(&id, &format!("nc -w 5 {gateway} {port} < /dev/null"))?;
    let peer = accepted.join().unwrap()?;
    assert_eq!(peer, ip(t, &pod)?);
    Ok(())
});

on_both!(a_host_port_leads_into_the_pod_until_it_stops, |t| {
    let (host_port, local) = (free_port()?, free_port()?);
    let (pod, _) = server(t, "web", vec![port(host_port, ""), port(local, "127.0.0.1")])?;
    for port in [host_port, local] {
        let answer = fetch(([127, 0, 0, 1], port).into())?;
        assert!(answer.contains("It works!"), "{answer}");
    }
    t.cri.stop_pod(&pod.id)?;
    for port in [host_port, local] {
        assert!(fetch(([127, 0, 0, 1], port).into()).is_err(), "port {port} still answers");
    }
    // It is free for the next one.
    server(t, "next", vec![port(host_port, "")])?;
    assert!(fetch(([127, 0, 0, 1], host_port).into())?.contains("It works!"));
    Ok(())
});

on_one!(a_host_port_that_another_pod_has_is_refused, |t| {
    let taken = free_port()?;
    t.pod("web", |p| p.port_mappings = vec![port(taken, "")])?;
    let answer = t.try_pod("late", |p| p.port_mappings = vec![port(taken, "")]);
    let status = answer.err().context("the port was given twice")?;
    assert!(status.message().contains(&taken.to_string()), "{status:?}");
    assert_eq!(t.cri.pods(None)?.len(), 1);
    Ok(())
});

on_one!(addresses_are_given_back, |t| {
    let mut seen = std::collections::BTreeSet::new();
    // A /24 has 253 addresses: one that is not given back shows soon enough in the leases, which the frame searches.
    for round in 0..5 {
        let pods = (0..4)
            .map(|number| t.pod(&format!("pod-{round}-{number}"), |_| ()))
            .collect::<Result<Vec<_>>>()?;
        let addresses =
            pods.iter().map(|pod| ip(t, pod)).collect::<Result<std::collections::BTreeSet<_>>>()?;
        assert_eq!(addresses.len(), 4, "{addresses:?}");
        seen.extend(addresses);
        pods.iter().try_for_each(|pod| t.cri.remove_pod(&pod.id))?;
    }
    Ok(())
});

on_one!(the_runtime_says_that_it_and_its_network_are_ready, |t| {
    let request = k8s_cri::v1::StatusRequest { verbose: true };
    let answer = t.cri.wait(t.cri.runtime().status(request))?;
    let conditions = answer.status.context("a status")?.conditions;
    for name in ["RuntimeReady", "NetworkReady"] {
        let condition =
            conditions.iter().find(|condition| condition.r#type == name).context(name)?;
        assert!(condition.status, "{condition:?}");
    }
    Ok(())
});

on_both!(
    real_plugins_make_the_network_and_lead_host_ports,
    setup: |s| cni::bridge_and_ports(s),
    |t| {
        let host_port = free_port()?;
        let (pod, ip) = server(t, "web", vec![port(host_port, "")])?;
        // Not of davit's own bridge.
        let own = t.daemon().subnet().replace("0/24", "");
        assert!(!ip.to_string().starts_with(&own), "{ip}");
        assert!(fetch(([127, 0, 0, 1], host_port).into())?.contains("It works!"));
        assert!(t.davit_ok(&["info"])?.contains(&t.settings().tag()));
        t.cri.remove_pod(&pod.id)?;
        let leases = davit_e2e::host::names_in(&t.dir.join("ipam").join(t.settings().tag()))?;
        assert!(!leases.contains(&ip.to_string()), "{leases:?}");
        Ok(())
    }
);

/// A plugin that writes down each call and then does what `script` says.
fn plugin(settings: &mut Settings, script: &str) -> Result<()> {
    let dir = settings.dir.join("plugins");
    let text = format!(
        "exec 2>/dev/null\ncat > /dev/null\necho $CNI_COMMAND >> {}/calls\n{script}",
        settings.dir.display()
    );
    davit_e2e::host::script(&dir.join("own"), &text)?;
    settings.cni_bin_dir = dir;
    cni::configure(settings, r#"{"type": "own"}"#)
}

/// The calls of the plugin that make and unmake: others (VERSION, STATUS, GC, CHECK) come as the daemon likes.
fn calls(t: &Test) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(t.dir.join("calls"))?;
    Ok(text.lines().filter(|line| matches!(*line, "ADD" | "DEL")).map(str::to_owned).collect())
}

fn is_ready(t: &Test) -> Result<bool> {
    let request = k8s_cri::v1::StatusRequest { verbose: false };
    let status = t.cri.wait(t.cri.runtime().status(request))?.status.context("a status")?;
    let network = status.conditions.into_iter().find(|one| one.r#type == "NetworkReady");
    Ok(network.context("NetworkReady")?.status)
}

const ANSWER: &str =
    r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.9.9.9/24"}], "interfaces": []}"#;

on_one!(
    without_the_built_in_network_a_node_waits_for_a_configuration,
    setup: |s| {
        // Of the table that the configuration ends with.
        "enabled = false\n".clone_into(&mut s.tables);
        plugin(s, &format!("[ $CNI_COMMAND != ADD ] || echo '{ANSWER}'"))?;
        std::fs::remove_file(cni::file(s)).context("remove the configuration")
    },
    |t| {
        ensure!(!is_ready(t)?, "the node is ready without a network");
        let refused = t.try_pod("early", |_| ()).err().context("a pod had a network")?;
        ensure!(refused.message().contains("the built-in bridge is off"), "{refused:?}");
        cni::configure(&t.settings(), r#"{"type": "own"}"#)?;
        ensure!(is_ready(t)?, "the node is not ready with one");
        let pod = t.pod("late", |_| ())?;
        assert_eq!(ip(t, &pod)?.to_string(), "10.9.9.9");
        Ok(())
    }
);

on_one!(a_pod_cidr_is_that_of_new_pods, |t| {
    let (_early, old) = server(t, "early", Vec::new())?;
    let subnet = t.daemon().subnet().to_owned();
    let cidr = subnet.replace("10.213.", "10.216.");
    t.crictl(&["update-runtime-config", "--pod-cidr", &cidr])?;
    let (late, new) = server(t, "late", Vec::new())?;
    assert!(new.to_string().starts_with(cidr.trim_end_matches("0/24")), "{new} is not in {cidr}");
    ensure!(fetch((old, 80).into())?.contains("It works!"), "the early pod was cut off");
    let inside = t.run(&late, "inside", |_| ())?;
    ensure!(t.exec(&inside, &format!("wget -qO- http://{old}"))?.contains("It works!"));
    let overlaps = subnet.replace("0/24", "128/25");
    let network = k8s_cri::v1::NetworkConfig { pod_cidr: overlaps };
    let request = k8s_cri::v1::UpdateRuntimeConfigRequest {
        runtime_config: Some(k8s_cri::v1::RuntimeConfig { network_config: Some(network) }),
    };
    let told = t.cri.wait(t.cri.runtime().update_runtime_config(request));
    let refused = told.err().context("it was taken")?;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    ensure!(refused.message().contains(&subnet), "{refused:?}");
    // Kept over restarts.
    t.daemon().kill()?;
    t.daemon().spawn()?;
    assert_eq!(ip(t, &late)?, new);
    let (_third, third) = server(t, "third", Vec::new())?;
    assert!(third.to_string().starts_with(cidr.trim_end_matches("0/24")), "{third} not in {cidr}");
    Ok(())
});

on_one!(
    a_plugin_that_fails_is_quoted_and_its_work_undone,
    setup: |s| {
        let error = r#"{"cniVersion": "1.0.0", "code": 123, "msg": "out of addresses"}"#;
        plugin(s, &format!("[ $CNI_COMMAND != ADD ] || {{ echo '{error}'; exit 1; }}"))
    },
    |t| {
        let status = t.try_pod("web", |_| ()).err().context("the failure was not told")?;
        assert!(status.message().contains("out of addresses"), "{status:?}");
        assert!(t.cri.pods(None)?.is_empty());
        assert_eq!(calls(t)?, ["ADD", "DEL"]);
        Ok(())
    }
);

on_one!(
    a_plugin_that_hangs_is_given_up_and_its_work_undone,
    setup: |s| {
        "[timeouts]\ncni = \"1s\"\n".clone_into(&mut s.tables);
        plugin(s, "[ $CNI_COMMAND != ADD ] || { sleep 4324 & sleep 4324; }")
    },
    |t| {
        let begun = std::time::Instant::now();
        assert!(t.try_pod("web", |_| ()).is_err());
        ensure!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
        assert!(t.cri.pods(None)?.is_empty());
        assert_eq!(calls(t)?, ["ADD", "DEL"]);
        Ok(())
    }
);

on_one!(
    a_plugin_that_answers_nonsense_is_refused_and_its_work_undone,
    setup: |s| plugin(s, "[ $CNI_COMMAND != ADD ] || head -c 2000000 /dev/zero | tr '\\0' '{'"),
    |t| {
        assert!(t.try_pod("web", |_| ()).is_err());
        assert!(t.cri.pods(None)?.is_empty());
        assert_eq!(calls(t)?, ["ADD", "DEL"]);
        Ok(())
    }
);

on_one!(
    a_plugin_that_cannot_undo_keeps_no_pod_for_ever,
    setup: |s| {
        let failing = s.dir.join("failing");
        let answer = r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.9.9.9/24"}], "interfaces": []}"#;
        std::fs::File::create(&failing)?;
        plugin(s, &format!("[ $CNI_COMMAND != ADD ] || echo '{answer}'; [ $CNI_COMMAND != DEL ] || ! test -e {}", failing.display()))
    },
    |t| {
        t.allow_log("CNI");
        t.allow_log("network");
        let pod = t.pod("web", |_| ())?;
        assert!(t.cri.stop_pod(&pod.id).is_err(), "a DEL that failed was told as done");
        std::fs::remove_file(t.dir.join("failing"))?;
        t.cri.stop_pod(&pod.id)?;
        t.cri.remove_pod(&pod.id)?;
        Ok(())
    }
);

on_one!(
    a_plugin_that_hangs_over_a_pod_that_is_gone_holds_up_no_start_and_is_asked_again,
    setup: |s| {
        "[timeouts]\ncni = \"30s\"\n".clone_into(&mut s.tables);
        let answer = r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.9.9.9/24"}], "interfaces": []}"#;
        let hangs = s.dir.join("hangs");
        plugin(s, &format!("[ $CNI_COMMAND != ADD ] || echo '{answer}'; [ $CNI_COMMAND != DEL ] || ! test -e {} || sleep 4325", hangs.display()))
    },
    |t| {
        t.allow_log("put aside");
        t.allow_log("network of a pod that is gone");
        t.pull("davit-test/busybox:latest")?;
        let gone = t.pod("gone", |_| ())?;
        let lives = t.pod("lives", |_| ())?;
        let kept = t.settings().root().join("network").join(format!("{}.json", gone.id));
        ensure!(kept.exists(), "{} is not there", kept.display());
        t.daemon().kill()?;
        // Nobody can say any more what pod that was: it is ended, and its network taken down.
        let record = t.settings().state().join("pods").join(&gone.id).join("sandbox.json");
        std::fs::File::create(record)?;
        let hangs = t.dir.join("hangs");
        std::fs::File::create(&hangs)?;
        let begun = std::time::Instant::now();
        t.daemon().spawn()?;
        assert_eq!(t.cri.pod_status(&lives.id)?.state(), PodSandboxState::SandboxReady);
        ensure!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
        // Meanwhile others come and go, and what the pod had stays its own.
        let id = t.run(&t.pod("more", |_| ())?, "main", |_| ())?;
        assert_eq!(t.exec(&id, "echo well")?, "well");
        ensure!(begun.elapsed() < Duration::from_secs(25), "it took {:?}", begun.elapsed());
        assert!(kept.exists());
        eventually(Duration::from_secs(60), "the plugin is given up", || {
            let log = std::fs::read_to_string(t.settings().log())?;
            Ok(log.contains("network of a pod that is gone").then_some(()))
        })?;
        assert!(kept.exists());
        std::fs::remove_file(hangs)?;
        // Behind a DEL that hangs meanwhile, should there be one.
        eventually(Duration::from_secs(60), "the network is taken down", || {
            Ok((!kept.exists()).then_some(()))
        })?;
        Ok(std::fs::remove_dir_all(t.settings().state().join("quarantine"))?)
    }
);

on_one!(a_mirror_that_is_gone_is_passed_over_for_the_next, |t| {
    // The registry's own configuration names one mirror; here a dead one comes before it.
    let dead = format!("http://127.0.0.1:{}", free_port()?);
    let second = Registry::start(t.registry.store().clone())?;
    let text = format!(
        "server = \"https://docker.io\"\n[host.{dead:?}]\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        second.address()
    );
    let path = t.settings().registry_config_dir().join("docker.io/hosts.toml");
    std::fs::File::create(path)?.write_all(text.as_bytes())?;
    t.cri.pull("busybox")?;
    assert!(second.requests().iter().any(|request| request.target.contains("library/busybox")));
    assert!(t.registry.requests().is_empty());
    Ok(())
});
