//! The network against the real kernel, real nft and real plugins. Each test plays the host in a network namespace of its own, so
//! that nothing of the machine's is touched and what is left over can be counted.

mod bridge;
mod cni;

use super::*;
use crate::sandbox::{DnsConfig, PortMapping, Protocol, SandboxKey};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

/// A pod that asks for nothing.
pub(super) fn attachment(netns: &Path) -> Attachment {
    Attachment {
        id: SandboxId::random().unwrap(),
        key: SandboxKey {
            namespace: "default".into(),
            name: "pod".into(),
            uid: "uid".into(),
            attempt: 0,
        },
        netns: netns.to_owned(),
        port_mappings: Vec::new(),
        dns: None,
        annotations: BTreeMap::new(),
        labels: BTreeMap::new(),
        cgroup_path: None,
    }
}

fn published(protocol: Protocol, host: u16, container: u16) -> PortMapping {
    PortMapping { protocol, container_port: container, host_port: Some(host), host_ip: None }
}

fn succeed(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().unwrap();
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A pinned network namespace.
struct Netns {
    name: String,
}

impl Netns {
    fn new() -> Self {
        let name = format!("davit-t-{}", &SandboxId::random().unwrap().as_str()[..12]);
        succeed("ip", &["netns", "add", &name]);
        Self { name }
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `work` on a thread inside.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let pin = File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(pin.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    fn ip(&self, args: &[&str]) -> String {
        succeed("ip", &[&["-n", &self.name], args].concat())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        succeed("ip", &["netns", "del", &self.name]);
    }
}

/// A host with an uplink to a world of one other machine, `198.51.100.9`.
struct Host {
    netns: Netns,
    world: Netns,
    dir: tempfile::TempDir,
}

const HOST_IP: &str = "198.51.100.1";
const WORLD_IP: &str = "198.51.100.9";

impl Host {
    fn new() -> Self {
        let (netns, world) = (Netns::new(), Netns::new());
        netns.ip(&[
            "link",
            "add",
            "up0",
            "type",
            "veth",
            "peer",
            "name",
            "up0",
            "netns",
            &world.name,
        ]);
        for (netns, addr) in [(&netns, HOST_IP), (&world, WORLD_IP)] {
            netns.ip(&["addr", "add", &format!("{addr}/24"), "dev", "up0"]);
            netns.ip(&["link", "set", "up0", "up"]);
            netns.ip(&["link", "set", "lo", "up"]);
        }
        netns.ip(&["route", "add", "default", "via", WORLD_IP]);
        Self { netns, world, dir: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> NetworkConfig {
        NetworkConfig {
            cni_conf_dir: self.dir.path().join("net.d"),
            cni_bin_dirs: vec![self.dir.path().join("bin"), PathBuf::from("/usr/lib/cni")],
            cni_timeout: Duration::from_secs(20),
            ..NetworkConfig::new(self.dir.path().join("state"))
        }
    }

    /// Plays the daemon: a runtime all of whose threads are in the host's namespace.
    fn daemon<T: Send>(
        &self,
        config: NetworkConfig,
        work: impl AsyncFnOnce(Network) -> T + Send,
    ) -> T {
        self.netns.inside(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let network = Network::open(config, Arc::default()).await.unwrap();
                work(network).await
            })
        })
    }

    fn state(&self, file: &str) -> PathBuf {
        self.dir.path().join("state").join(file)
    }

    fn records(&self) -> Vec<String> {
        names(&self.state("")).into_iter().filter(|name| name.ends_with(".json")).collect()
    }

    fn links(&self, prefix: &str) -> Vec<String> {
        let all = self.netns.ip(&["-o", "link"]);
        let name =
            |line: &str| line.split(": ").nth(1).unwrap().split('@').next().unwrap().to_owned();
        all.lines().map(name).filter(|name| name.starts_with(prefix)).collect()
    }

    fn ruleset(&self) -> String {
        self.netns.inside(|| succeed("nft", &["list", "ruleset"]))
    }

    /// No pod has left anything.
    fn assert_empty(&self) {
        assert_eq!(self.links("dv"), Vec::<String>::new());
        assert_eq!(self.records(), Vec::<String>::new());
        assert_eq!(names(&self.state("leases")), Vec::<String>::new());
        assert!(!self.ruleset().contains("elements"), "{}", self.ruleset());
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A test beside this one that forks just then holds a copy of the last listener until its child's exec closes it.
fn listen(port: u16) -> TcpListener {
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        match TcpListener::bind(("0.0.0.0", port)) {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse
                    && std::time::Instant::now() < deadline =>
            {
                std::thread::yield_now();
            }
            bound => return bound.unwrap(),
        }
    }
}

/// Answers one TCP client with its own address as seen here.
fn serve_tcp(netns: &Netns, port: u16) -> std::thread::JoinHandle<()> {
    let listener = netns.inside(|| listen(port));
    std::thread::spawn(move || {
        let (mut client, peer) = listener.accept().unwrap();
        client.write_all(peer.ip().to_string().as_bytes()).unwrap();
    })
}

fn ask_tcp(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

/// Asks from `from`, with a server in `to` for it; who the server says it was.
fn reach(from: &Netns, to: &Netns, listen: u16, at: (&str, u16)) -> String {
    let server = serve_tcp(to, listen);
    let said = from.inside(|| ask_tcp(SocketAddr::new(at.0.parse().unwrap(), at.1)));
    let said = said.unwrap_or_else(|error| panic!("reach {at:?}: {error}"));
    server.join().unwrap();
    said
}
