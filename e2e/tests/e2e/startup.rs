//! The daemon's start, reload and end as its log and the service manager are told of them, in the order of docs/startup.md.

use davit_e2e::prelude::*;
use davit_e2e::registry::write_whole;
use davit_e2e::test::run;
use rustix::process::Signal;
use std::cell::OnceCell;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};

/// How long the service manager waits for the next message.
const WITHIN: Duration = Duration::from_secs(30);
/// A start, by its log.
const START: [&str; 7] = [
    "davit starts version=",
    "listening address=unix://",
    "listening for streams",
    "taken up took=directories ",
    "davit is ready version=",
    "OCI runtime crun ",
    "davit serves address=unix://",
];
/// What the line about what was taken up tells, in the order in which it was done.
const PARTS: [&str; 9] = [
    "directories ",
    "host ",
    "handlers ",
    "images ",
    "events ",
    "network ",
    "pods ",
    "networks ",
    "sweep ",
];

/// A service manager: the socket that `NOTIFY_SOCKET` names.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(settings: &mut Settings) -> Result<Self> {
        let path = settings.dir.join("notify");
        let socket = UnixDatagram::bind(&path).context("listen as a service manager")?;
        socket.set_read_timeout(Some(WITHIN))?;
        settings.env.push(("NOTIFY_SOCKET".to_owned(), path.to_string_lossy().into_owned()));
        Ok(Self(socket))
    }

    /// The next message: its assignments.
    fn told(&self) -> Result<Vec<String>> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).context("the service manager is told nothing")?;
        let text = String::from_utf8(buffer.get(..length).unwrap_or_default().to_vec())?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn expect(&self, message: &[&str]) -> Result<()> {
        let told = self.told()?;
        ensure!(told == message, "the service manager was told {told:?}, not {message:?}");
        Ok(())
    }

    /// Nothing that has not been asked for.
    fn expect_nothing(&self) -> Result<()> {
        self.0.set_nonblocking(true)?;
        let told = self.told();
        self.0.set_nonblocking(false)?;
        ensure!(told.is_err(), "the service manager was told {told:?}");
        Ok(())
    }
}

/// Runs a test whose daemon has a service manager.
fn managed(
    setup: impl FnOnce(&mut Settings) -> Result<()>,
    body: impl FnOnce(&Test, &Manager) -> Result<()>,
) -> Result<()> {
    let manager = OnceCell::new();
    let listen = |settings: &mut Settings| {
        drop(manager.set(Manager::listen(settings)?));
        setup(settings)
    };
    run("crun", listen, |t| body(t, manager.get().context("it listens")?))
}

/// What the daemon's last start has logged.
fn log_of_start(t: &Test) -> Result<String> {
    let log = t.daemon().log();
    let (from, _) = log.rmatch_indices(START[0]).next().context("it has begun to start")?;
    Ok(log.get(from..).unwrap_or_default().to_owned())
}

/// These texts are there, one after the other, each for the first time.
fn in_order(text: &str, parts: &[&str]) -> Result<()> {
    let mut last = 0;
    for part in parts {
        let at = text.find(part).with_context(|| format!("{part:?} is not in {text}"))?;
        ensure!(at >= last, "{part:?} comes too early in {text}");
        last = at;
    }
    Ok(())
}

/// From the launch on: what the manager is told, what the log says by then and in the end.
fn a_start(t: &Test, manager: &Manager) -> Result<()> {
    manager.expect(&["STATUS=takes up what is there"])?;
    manager.expect(&["READY=1", "STATUS=serves"])?;
    let by_then = log_of_start(t)?;
    in_order(&by_then, START.get(..4).unwrap_or_default())?;
    // Whoever comes now is answered.
    t.cri.pods(None)?;
    // An answer may overtake the line that says so.
    let log = eventually(WITHIN, "it says that it serves", || {
        let log = log_of_start(t)?;
        Ok(log.contains(START[6]).then_some(log))
    })?;
    in_order(&log, &START)?;
    let taken_up = log.lines().find(|line| line.contains(START[3])).context("it is there")?;
    in_order(taken_up, &PARTS)?;
    manager.expect_nothing()
}

/// The built-in network as the kernel has it: the bridge's number, and the rules.
fn network(t: &Test) -> Result<(String, String)> {
    let tag = t.settings().tag();
    let index = std::fs::read_to_string(format!("/sys/class/net/{tag}/ifindex"))?;
    let mut nft = Command::new("nft");
    nft.args(["list", "table", "inet", &tag]);
    Ok((index, davit_e2e::tools::run(&mut nft)?))
}

/// Between the kernel's clock before and after, as `systemctl reload` demands.
fn monotonic(told: &[String], before: Duration) -> Result<()> {
    let micros = told.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    let at = Duration::from_micros(micros.context("it has the time")?.parse()?);
    ensure!(before <= at + Duration::from_micros(1) && at <= now()?, "{before:?}, {told:?}");
    Ok(())
}

fn now() -> Result<Duration> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Ok(Duration::new(now.tv_sec.try_into()?, now.tv_nsec.try_into()?))
}

fn reload(t: &Test, manager: &Manager, status: &str) -> Result<()> {
    let before = now()?;
    t.daemon().signal(Signal::HUP)?;
    let told = manager.told()?;
    ensure!(told.first().is_some_and(|first| first == "RELOADING=1"), "{told:?}");
    monotonic(&told, before)?;
    manager.expect(&["READY=1", &format!("STATUS={status}")])
}

#[test]
fn a_start_a_reload_and_an_end_go_in_their_order() -> Result<()> {
    managed(
        |_| Ok(()),
        |t, manager| {
            a_start(t, manager)?;
            let (_, first) = t.sleeper(|_| ())?;
            let pod = t.pod("second", |_| ())?;
            let second = t.run(&pod, "second", |_| ())?;
            let (pids, network_before) = ([t.pid(&first)?, t.pid(&second)?], network(t)?);

            t.daemon().kill()?;
            t.daemon().spawn()?;
            a_start(t, manager)?;
            assert_eq!([t.pid(&first)?, t.pid(&second)?], pids);
            eventually(WITHIN, "the network is what it was", || {
                Ok((network(t)? == network_before).then_some(()))
            })?;

            reload(t, manager, "serves")?;
            let config = t.settings().config();
            let right = std::fs::read_to_string(&config)?;
            t.allow_log("the configuration is wrong; the old one stays");
            write_whole(&config, format!("no_such_key = 1\n{right}").as_bytes())?;
            let refused = "serves with the old configuration: the new one was refused, see the log";
            reload(t, manager, refused)?;
            write_whole(&config, right.as_bytes())?;
            reload(t, manager, "serves")?;

            t.daemon().stop()?;
            manager.expect(&["STOPPING=1", "STATUS=stops; calls under way: 0"])?;
            manager.expect_nothing()?;
            let end = log_of_start(t)?;
            in_order(&end, &[START[6], "davit stops", "davit ends; containers run on"])?;
            t.daemon().spawn()?;
            a_start(t, manager)?;
            assert_eq!([t.pid(&first)?, t.pid(&second)?], pids);
            Ok(())
        },
    )
}

#[test]
fn a_watchdog_is_given_signs_of_life() -> Result<()> {
    let watchdog = |settings: &mut Settings| {
        settings.env.push(("WATCHDOG_USEC".to_owned(), "200000".to_owned()));
        Ok(())
    };
    managed(watchdog, |t, manager| {
        let mut signs = 0;
        let mut ready = false;
        while !(ready && signs >= 5) {
            let told = manager.told()?;
            ready |= told.iter().any(|line| line == "READY=1");
            signs += usize::from(told == ["WATCHDOG=1"]);
        }
        ensure!(t.daemon().log().contains("the service manager wants signs of life limit=200ms"));
        // None by who is stopped, and again once it goes on.
        t.daemon().signal(Signal::STOP)?;
        let pid = t.daemon().pid().context("it lives")?;
        eventually(WITHIN, "it is stopped", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            Ok(stat.contains(") T ").then_some(()))
        })?;
        manager.0.set_nonblocking(true)?;
        while manager.told().is_ok() {}
        manager.0.set_nonblocking(false)?;
        pause(Duration::from_millis(600));
        manager.expect_nothing()?;
        t.daemon().signal(Signal::CONT)?;
        manager.expect(&["WATCHDOG=1"])
    })
}

#[test]
fn a_start_that_fails_says_why_to_the_service_manager_too() -> Result<()> {
    managed(
        |_| Ok(()),
        |t, manager| {
            a_start(t, manager)?;
            let second = serve(t, "exec \"$0\" \"$@\"")?;
            ensure!(!second.status.success(), "{second:?}");
            let told = manager.told()?;
            ensure!(
                told.len() == 1 && told.iter().all(|line| line.starts_with("STATUS=")),
                "{told:?}"
            );
            ensure!(
                told.iter().all(|line| line.contains("is in use by another davit")),
                "{told:?}"
            );
            Ok(())
        },
    )
}

on_one!(sockets_that_somebody_else_has_made_are_refused, |t| {
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec 3< /dev/null; exec \"$0\" \"$@\"";
    let refused = serve(t, script)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success(), "{said}");
    ensure!(said.contains("LISTEN_FDS: 1 sockets were passed"), "{said}");
    // Somebody else's are none of its business.
    let other = serve(t, "export LISTEN_PID=1 LISTEN_FDS=1; exec \"$0\" \"$@\"")?;
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    ensure!(said.contains("is in use by another davit"), "{said}");
    Ok(())
});

/// Another daemon on the same directories, by a script that is given its command line; it must end by itself.
fn serve(t: &Test, script: &str) -> Result<Output> {
    let settings = t.settings();
    let davit = t.daemon().davit();
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(davit.get_program()).arg("serve");
    command.arg("--config").arg(settings.config());
    command.arg("--root").arg(settings.root()).arg("--state").arg(settings.state());
    command.envs(settings.env);
    command.output().context("run another daemon")
}

on_one!(
    the_counters_are_logged_as_often_as_is_wanted,
    setup: |settings| {
        settings.keys = "metrics_interval = \"1s\"\n".to_owned();
        Ok(())
    },
    |t| {
        let told = |t: &Test| -> Option<serde_json::Value> {
            let log = t.daemon().log();
            let line = log.lines().rev().find_map(|line| line.split_once(" counters counters="));
            serde_json::from_str(line?.1).ok()
        };
        let nothing = eventually(WITHIN, "the counters are logged", || Ok(told(t)))?;
        assert_eq!(nothing.pointer("/containers/running"), Some(&0.into()), "{nothing}");
        let (_, id) = t.sleeper(|_| ())?;
        let running = |counters: &serde_json::Value| counters.pointer("/containers/running").cloned();
        let wait = |what: &str, state: &str| {
            eventually(WITHIN, what, || {
                let counters = told(t).context("they were logged")?;
                let count = counters.pointer(&format!("/containers/{state}")).cloned();
                Ok((count == Some(1.into())).then_some(counters))
            })
        };
        let counters = wait("one runs", "running")?;
        assert_eq!(counters.pointer("/sandboxes/ready"), Some(&1.into()), "{counters}");
        ensure!(counters.pointer("/openFds").and_then(serde_json::Value::as_u64) > Some(3));
        t.cri.stop(&id, 0)?;
        let counters = wait("one has stopped", "stopped")?;
        assert_eq!(running(&counters), Some(0.into()));
        Ok(())
    }
);
