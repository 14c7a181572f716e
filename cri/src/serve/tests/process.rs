//! The daemon in a process of its own, since signals, locks and the log are a process's.

use super::*;
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// Holds the command line of the daemon that [`daemon_process`] is to be.
const ROLE: &str = "DAVIT_TEST_SERVE";

/// No test: the daemon that the tests below start. By itself it has no command line, and nothing to do.
#[test]
#[ignore = "it is the daemon of the other tests, which start it themselves"]
fn daemon_process() {
    let Ok(line) = std::env::var(ROLE) else { return };
    let go_on = Arc::new(Notify::new());
    let result = crate::serve::main(&flags(&line), |_, _| async move { Ok(opened(&go_on)) });
    if let Err(error) = result {
        panic!("refused: {}", crate::output::one_line(&error));
    }
}

/// A directory, and the daemon that lives in it.
struct Home {
    dir: tempfile::TempDir,
    notified: UnixDatagram,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let notified = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notified.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let home = Self { dir, notified };
        home.configure("");
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, text: &str) {
        std::fs::File::create(self.path("config.toml"))
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    fn start(&self, more: &str) -> Child {
        let base = self.dir.path().display();
        let line = format!(
            "davit serve --config {base}/config.toml --root {base}/root --state {base}/state \
             --pidfile {base}/pid {more}"
        );
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serve::tests::process::daemon_process", "--ignored", "--nocapture"])
            .env(ROLE, line)
            .env("NOTIFY_SOCKET", self.path("notify"))
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// The next thing that the service manager is told, but for what is only for people.
    fn told(&self) -> String {
        loop {
            let told = self.said();
            if !told.starts_with("STATUS=") {
                return told;
            }
        }
    }

    /// The next thing that the service manager or people are told.
    fn said(&self) -> String {
        let mut buffer = [0; 512];
        let length = self.notified.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Waits until the log holds this.
    async fn logged(&self, text: &str) {
        for _ in 0..1000 {
            if std::fs::read_to_string(self.path("log")).unwrap().contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{text:?} is not in {}", std::fs::read_to_string(self.path("log")).unwrap());
    }
}

fn signal(daemon: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(daemon.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[tokio::test]
async fn a_daemon_lives_from_ready_to_stopping_and_leaves_nothing_in_the_way() {
    let home = Home::new();
    let mut daemon = home.start("");
    assert!(home.told().contains("READY=1"));
    let pid = std::fs::read_to_string(home.path("pid")).unwrap();
    assert_eq!(pid.trim(), daemon.id().unwrap().to_string());
    let channel = connect(&home.path("state/davit.sock")).await;
    let mut davit = DavitClient::new(channel);
    assert_eq!(davit.info(InfoRequest::default()).await.unwrap_err().code(), Code::Unimplemented);

    let second = home.start("").wait().await.unwrap();
    assert!(!second.success());
    home.logged(&format!("is in use by another davit (pid {})", pid.trim())).await;
    // Apart from this daemon in all but the socket.
    let other = Home::new();
    other.configure(&format!("listen = ['unix://{}']", home.path("state/davit.sock").display()));
    assert!(!other.start("").wait().await.unwrap().success());
    other.logged("another process listens on it").await;

    signal(&daemon, Signal::TERM);
    assert!(home.told().contains("STOPPING=1"));
    assert!(daemon.wait().await.unwrap().success());
    for left in ["pid", "state/davit.sock"] {
        assert!(!home.path(left).exists(), "{left} is left");
    }
    let mut again = home.start("");
    assert!(home.told().contains("READY=1"));
    signal(&again, Signal::INT);
    assert!(again.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_reload_is_taken_over_whole_or_not_at_all() {
    let home = Home::new();
    let mut daemon = home.start("");
    assert!(home.told().contains("READY=1"));
    for (text, logged) in [
        ("shim_cgroup = 'other'\nlog_level = 'error'", "shim_cgroup"),
        ("events_retain_count = 3", "keys=\"events_retain_count\""),
        ("log_levle = 'debug'", "log_level"),
        ("log_level = 'debug'", "the new configuration is in effect"),
    ] {
        home.configure(text);
        signal(&daemon, Signal::HUP);
        let reloading = home.told();
        assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="));
        assert!(home.told().contains("READY=1"));
        home.logged(logged).await;
    }
    signal(&daemon, Signal::USR1);
    home.logged("a dump was asked for; it takes `debug`").await;
    home.configure("debug = true");
    signal(&daemon, Signal::HUP);
    home.told();
    home.told();
    signal(&daemon, Signal::QUIT);
    home.logged("state tasks=").await;
    signal(&daemon, Signal::TERM);
    assert!(daemon.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_second_signal_cuts_running_calls_off() {
    let home = Home::new();
    let mut daemon = home.start("");
    assert!(home.told().contains("READY=1"));
    let mut runtime = RuntimeServiceClient::new(connect(&home.path("state/davit.sock")).await);
    let hanging = tokio::spawn(async move { runtime.version(version()).await });
    home.logged("a version is asked for").await;
    signal(&daemon, Signal::TERM);
    home.logged("davit stops calls=1").await;
    let waited = tokio::time::timeout(Duration::from_millis(300), daemon.wait()).await;
    assert!(waited.is_err(), "it did not wait for the call");
    signal(&daemon, Signal::TERM);
    let ended = tokio::time::timeout(Duration::from_secs(5), daemon.wait()).await;
    assert!(ended.unwrap().unwrap().success());
    assert!(hanging.await.unwrap().is_err());
    home.logged("a second signal: calls are cut off").await;
}
