//! `crictl port-forward`.

use crate::stream::{Crictl, Frames, TRANSPORTS, stage};
use davit_e2e::prelude::*;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Instant;

/// crictl that forwards, and the port of this host where it listens.
struct Forwarding {
    child: Child,
    port: u16,
}

impl Forwarding {
    fn start(t: &Test, transport: &str, pod: &str, port: u16) -> Result<Self> {
        let arguments = ["port-forward", "--transport", transport, pod, &format!(":{port}")];
        let mut command = Crictl::new(t)?.command(&arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let line = lines.next().context("crictl says where it listens")??;
        // The rest would fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let local = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
        let port = local.with_context(|| line.clone())?.parse()?;
        Ok(Self { child, port })
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    }

    fn fetch(&self) -> Result<String> {
        let mut stream = self.connect()?;
        write!(stream, "GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A pod with a web server.
fn server(t: &Test, name: &str) -> Result<Pod> {
    let image = t.pull("e2e-test-images/httpd:2.4.39-4")?;
    let pod = t.pod(name, |_| ())?;
    let id = t.run(&pod, "httpd", |c| {
        c.image = Some(davit_e2e::cri::spec(&image));
        c.command.clear();
    })?;
    eventually(Duration::from_secs(30), "the server answers", || {
        Ok(t.exec(&id, "wget -qO- http://127.0.0.1 | grep -c works").ok())
    })?;
    Ok(pod)
}

on_both!(a_port_of_a_pod_is_reached, |t| {
    let pod = server(t, "web")?;
    for transport in TRANSPORTS {
        let forwarding = Forwarding::start(t, transport, &pod.id, 80)?;
        for _ in 0..5 {
            assert!(forwarding.fetch()?.contains("It works!"), "{transport}");
        }
        // Many at once.
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..20).map(|_| scope.spawn(|| forwarding.fetch())).collect();
            all.into_iter().try_for_each(|one| {
                ensure!(one.join().unwrap()?.contains("It works!"), "{transport}");
                Ok(())
            })
        })?;
    }
    Ok(())
});

on_one!(a_port_of_a_pod_in_the_hosts_network_is_reached, |t| {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            stream?.write_all(b"the host")?;
        }
        anyhow::Ok(())
    });
    let pod = t.pod("host", |p| namespaces(p).network = 2)?;
    for transport in TRANSPORTS {
        let forwarding = Forwarding::start(t, transport, &pod.id, port)?;
        assert_eq!(forwarding.fetch()?, "the host", "{transport}");
    }
    Ok(())
});

on_both!(whoever_closes_first_loses_nothing, |t| {
    let pod = t.pod("pod", |_| ())?;
    // One that speaks and closes, and one that hears everything before it answers.
    let id = t.run(&pod, "main", |c| {
        c.command = sh("nc -ll -p 8001 -e sh -c 'echo early' & nc -ll -p 8002 -e sh -c 'wc -c' & trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done");
    })?;
    eventually(Duration::from_secs(30), "both listen", || {
        let listening = t.exec(&id, "netstat -ltn")?;
        Ok((listening.contains(":8001") && listening.contains(":8002")).then_some(()))
    })?;
    for transport in TRANSPORTS {
        let forwarding = Forwarding::start(t, transport, &pod.id, 8001)?;
        for _ in 0..20 {
            let mut stream = forwarding.connect()?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            assert_eq!(text, "early\n", "{transport}");
        }
        drop(forwarding);
        let forwarding = Forwarding::start(t, transport, &pod.id, 8002)?;
        let mut stream = forwarding.connect()?;
        stream.write_all(&vec![b'x'; 5 << 20])?;
        stream.shutdown(Shutdown::Write)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        assert_eq!(text.trim(), (5 << 20).to_string(), "{transport}");
    }
    Ok(())
});

on_one!(a_port_where_nobody_listens_is_told_and_harms_no_other, |t| {
    let pod = server(t, "web")?;
    for transport in TRANSPORTS {
        let mut silent = Forwarding::start(t, transport, &pod.id, 9)?;
        let mut text = String::new();
        silent.connect()?.read_to_string(&mut text).ok();
        assert_eq!(text, "");
        silent.child.kill()?;
        let mut errors = String::new();
        silent.child.stderr.take().context("stderr")?.read_to_string(&mut errors)?;
        assert!(errors.contains("refused"), "{transport}: {errors}");
        assert!(Forwarding::start(t, transport, &pod.id, 80)?.fetch()?.contains("It works!"));
    }
    Ok(())
});

on_one!(channels_reach_the_ports_that_the_call_names, |t| {
    let pod = server(t, "web")?;
    let mut frames = Frames::open(&stage(t).forward(&pod.id, &[80])?, "v4.channel.k8s.io")?;
    frames.send(0, b"GET / HTTP/1.0\r\n\r\n")?;
    let mut said = Vec::new();
    // First come the ports, the lower byte first, for the data before the errors.
    let ports = [frames.next()?, frames.next()?];
    assert_eq!(ports, [(2, vec![0, 80, 0]), (2, vec![1, 80, 0])]);
    while let Ok((2, bytes)) = frames.next() {
        assert_eq!(bytes[0], 0);
        said.extend_from_slice(&bytes[1..]);
    }
    assert!(String::from_utf8_lossy(&said).contains("It works!"));
    Ok(())
});

on_one!(a_forwarding_leaves_nothing_and_bytes_go_fast, |t| {
    let pod = t.pod("pod", |_| ())?;
    let id = t.run(&pod, "main", |c| {
        c.command = sh("nc -ll -p 8000 -e dd if=/dev/zero bs=1M count=1024 & trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done");
    })?;
    eventually(Duration::from_secs(30), "it listens", || {
        Ok(t.exec(&id, "netstat -ltn")?.contains(":8000").then_some(()))
    })?;
    let before = stage(t).descriptors()?;
    for transport in TRANSPORTS {
        let forwarding = Forwarding::start(t, transport, &pod.id, 8000)?;
        let begun = Instant::now();
        let (mut stream, mut buffer, mut count) = (forwarding.connect()?, vec![0; 1 << 18], 0_u64);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => count += u64::try_from(read)?,
                // A read with a time limit is not taken up again after a signal: another test's child has ended.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        assert_eq!(count, 1 << 30, "{transport}");
        let rate = 1.073_741_824 / begun.elapsed().as_secs_f64();
        println!("{transport}: 1 GiB from a port: {rate:.2} GB/s");
        let own = stage(t).own_memory()? >> 10;
        ensure!(own < 100, "the daemon has {own} MiB of its own");
    }
    eventually(Duration::from_secs(30), "no descriptor is left", || {
        Ok((stage(t).descriptors()? <= before + 2).then_some(()))
    })
});
