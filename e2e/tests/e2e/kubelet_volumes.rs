//! What a kubelet puts into its pods: volumes, names, addresses, ports and environment.

use davit_e2e::kubelet::{self, Kubelet, shell};
use davit_e2e::prelude::*;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use serde_json::json;
use std::io::{Read as _, Write as _};

/// Every kind of volume that needs no API server.
fn put_volumes(t: &Test, k: &Kubelet<'_>) -> Result<()> {
    let host = t.dir.join("host");
    std::fs::create_dir_all(host.join("dir/below"))?;
    for (name, text) in [("dir/file", "of the host\n"), ("dir/below/deep", "deep\n")] {
        std::fs::File::create(host.join(name))?.write_all(text.as_bytes())?;
    }
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let volumes = json!([
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
        {"name": "host", "hostPath": {"path": host.join("dir"), "type": "Directory"}},
        {"name": "file", "hostPath": {"path": host.join("dir/file"), "type": "File"}},
        {"name": "downward", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "limit", "resourceFieldRef": {"containerName": "main", "resource": "limits.memory"}},
        ]}},
    ]);
    let mounts = json!([
        {"name": "disk", "mountPath": "/disk"},
        {"name": "memory", "mountPath": "/memory"},
        {"name": "host", "mountPath": "/host", "readOnly": true},
        {"name": "file", "mountPath": "/file"},
        {"name": "host", "mountPath": "/sub", "subPath": "below"},
        {"name": "host", "mountPath": "/etc/sub-file", "subPath": "file"},
        {"name": "disk", "mountPath": "/made", "subPathExpr": "$(POD_NAME)"},
        {"name": "downward", "mountPath": "/downward"},
    ]);
    let env = json!([
        {"name": "POD_NAME", "valueFrom": field("metadata.name")},
        {"name": "POD_IP", "valueFrom": field("status.podIP")},
        {"name": "HOST_IP", "valueFrom": field("status.hostIP")},
        {"name": "UID_OF_POD", "valueFrom": field("metadata.uid")},
        {"name": "COMPOSED", "value": "$(POD_NAME)/x"},
    ]);
    let script = "trap 'exit 0' TERM; sleep 1000 & wait";
    let more = json!({"volumeMounts": mounts, "env": env, "workingDir": "/disk",
        "resources": {"limits": {"memory": "64Mi"}}});
    let beside = json!({"volumeMounts": [{"name": "disk", "mountPath": "/other"}]});
    k.put_manifest(
        "volumes",
        json!({"metadata": {"name": "volumes", "labels": {"app": "davit"}}, "spec": {
            "hostname": "named", "subdomain": "below", "volumes": volumes,
            "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["alias.test"]}],
            "dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.53"],
                "searches": ["davit.test"], "options": [{"name": "ndots", "value": "3"}]},
            "containers": [shell("main", &k.image(), script, more), shell("beside", &k.image(), script, beside)],
        }}),
    )
}

fn volumes(t: &Test, k: &Kubelet<'_>) -> Result<()> {
    let pod = k.ready("volumes")?;
    let (main, beside) = (pod.id("main"), pod.id("beside"));
    let ip = t.exec(main, "ip -4 -o addr show eth0 | sed 's/.*inet //; s,/.*,,'")?;
    assert_eq!(pod.ip(), ip);
    for (script, expected) in [
        ("cat /host/file", "of the host"),
        ("cat /file", "of the host"),
        ("cat /sub/deep", "deep"),
        ("cat /etc/sub-file", "of the host"),
        ("touch /host/no 2>&1 || true", "touch: /host/no: Read-only file system"),
        ("echo kept >>/file; cat /host/file", "of the host\nkept"),
        ("cat /downward/labels", "app=\"davit\""),
        ("cat /downward/limit", "67108864"),
        ("echo $POD_IP", &ip),
        ("echo $COMPOSED", &format!("{}/x", k.full_name("volumes"))),
        ("echo $UID_OF_POD", pod.uid()),
        ("touch /made/it; ls /disk", &k.full_name("volumes")),
        ("pwd", "/disk"),
        ("hostname", "named"),
        ("awk '$2 == \"/memory\" {print $3}' /proc/mounts", "tmpfs"),
        ("df -k /memory | awk 'END {print $2}'", "8192"),
        ("grep alias.test /etc/hosts", "192.0.2.7\talias.test"),
        ("grep -c named.below /etc/hosts", "1"),
        ("cat /etc/resolv.conf", "search davit.test\nnameserver 192.0.2.53\noptions ndots:3"),
    ] {
        assert_eq!(t.exec(main, script)?, expected, "{script}");
    }
    t.exec(main, "echo shared >/disk/word")?;
    assert_eq!(t.exec(beside, "cat /other/word")?, "shared");
    Ok(())
}

fn http(port: u16) -> Result<String> {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    // The kernel would wait for two minutes for an answer that never comes.
    let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A pod on the host's network, and one with a port of the host.
fn put_networks(k: &Kubelet<'_>) -> Result<[u16; 2]> {
    let ports = [free_port()?, free_port()?];
    let serve = |port: u16, word: &str| {
        format!("mkdir /www; echo {word} >/www/index.html; exec httpd -f -p {port} -h /www")
    };
    let host = shell("main", &k.image(), &serve(ports[0], "of-the-host"), json!({}));
    k.put("host-network", json!({"hostNetwork": true, "containers": [host]}))?;
    let port = json!({"ports": [{"containerPort": 80, "hostPort": ports[1]}]});
    let mapped = shell("main", &k.image(), &serve(80, "mapped"), port);
    k.put("host-port", json!({"containers": [mapped]}))?;
    Ok(ports)
}

fn networks(t: &Test, k: &Kubelet<'_>, ports: [u16; 2]) -> Result<()> {
    for (name, port, word) in
        [("host-network", ports[0], "of-the-host"), ("host-port", ports[1], "mapped")]
    {
        let pod = k.ready(name)?;
        let mut last = None;
        let text = eventually(Duration::from_secs(20), "the port answers", || {
            Ok(http(port).map_err(|error| last = Some(error)).ok())
        })
        .with_context(|| format!("{name}, port {port}: {last:?}"))?;
        assert!(text.ends_with(&format!("{word}\n")), "{name}: {text:?}");
        let names = t.exec(pod.id("main"), "ls /sys/class/net")?;
        assert_eq!(
            names.contains("eth0"),
            name == "host-port" || Path::new("/sys/class/net/eth0").exists()
        );
    }
    Ok(())
}

on_one!(volumes_names_and_ports_are_as_the_manifest_says, |t| {
    kubelet::run(
        t,
        |_config| (),
        |k| {
            // It cleans up two volumes at once, and one takes away what the other is about to.
            k.allow_log("volume-subpaths: no such file or directory");
            put_volumes(t, k)?;
            let ports = put_networks(k)?;
            volumes(t, k)?;
            networks(t, k, ports)
        },
    )
});

/// A directory that is a mount of its own, shared: what a kubelet's volumes lie on where systemd runs the host.
struct Shared(PathBuf);

impl Shared {
    fn make(path: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&path)?;
        mount(c"tmpfs", &path, c"tmpfs", MountFlags::empty(), None)?;
        let shared = Self(path);
        mount_change(&shared.0, MountPropagationFlags::SHARED)?;
        Ok(shared)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for name in ["of-container", "of-host"] {
            let _ = unmount(self.0.join(name), UnmountFlags::DETACH);
        }
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

on_both!(mounts_travel_as_a_volumes_propagation_says, |t| {
    let shared = Shared::make(t.dir.join("shared"))?;
    kubelet::run(
        t,
        |_config| (),
        |k| {
            let wait = "trap 'exit 0' TERM; sleep 1000 & wait";
            let make = "mkdir /volume/of-container && mount -t tmpfs tmpfs /volume/of-container && \
                echo inside >/volume/of-container/word; trap 'exit 0' TERM; sleep 1000 & wait";
            let with = |propagation: &str, privileged: bool| {
                json!({
                    "securityContext": {"privileged": privileged},
                    "volumeMounts": [{"name": "shared", "mountPath": "/volume", "mountPropagation": propagation}],
                })
            };
            let image = k.image();
            k.put(
                "travel",
                json!({
                    "volumes": [{"name": "shared", "hostPath": {"path": shared.0}}],
                    "containers": [
                        shell("both", &image, make, with("Bidirectional", true)),
                        shell("from-host", &image, wait, with("HostToContainer", false)),
                        shell("none", &image, wait, with("None", false)),
                    ],
                }),
            )?;
            let pod = k.ready("travel")?;
            let word = shared.0.join("of-container/word");
            eventually(Duration::from_secs(30), "the container's mount is the host's too", || {
                Ok(word.exists().then_some(()))
            })?;
            let seen = "cat /volume/of-container/word 2>/dev/null || echo nothing";
            assert_eq!(t.exec(pod.id("from-host"), seen)?, "inside");
            std::fs::create_dir(shared.0.join("of-host"))?;
            mount(c"tmpfs", shared.0.join("of-host"), c"tmpfs", MountFlags::empty(), None)?;
            std::fs::File::create(shared.0.join("of-host/word"))?.write_all(b"outside\n")?;
            let seen = "cat /volume/of-host/word 2>/dev/null || echo nothing";
            for (name, expected) in
                [("both", "outside"), ("from-host", "outside"), ("none", "nothing")]
            {
                assert_eq!(t.exec(pod.id(name), seen)?, expected, "{name}");
            }
            Ok(())
        },
    )
});
