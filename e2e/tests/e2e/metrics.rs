//! The counters and metrics: right wherever they are shown, whatever happened; and read by the tools that people read them with.

use crate::stream_tls::{Authority, secured};
use davit_e2e::cni;
use davit_e2e::prelude::*;
use davit_e2e::prometheus::Prometheus;
use davit_e2e::scrape::{Scrape, get};
use davit_e2e::tools;
use k8s_cri::v1::StatusRequest;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

/// What is done behind davit's back is noticed within that, on a busy machine too.
const NOTICED: Duration = Duration::from_secs(30);
const WITHIN: Duration = Duration::from_secs(30);
const DOCUMENT: &str = include_str!("../../../docs/metrics.md");
const DASHBOARD: &str = include_str!("../../../docs/grafana/davit.json");

fn alerts(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/alerts").join(name)
}

pub(crate) fn with_metrics(settings: &mut Settings) -> Result<()> {
    settings.keys = format!("metrics_listen = \"127.0.0.1:{}\"\n", free_port()?);
    Ok(())
}

pub(crate) fn address(t: &Test) -> Result<SocketAddr> {
    let keys = t.settings().keys;
    Ok(keys.split('"').nth(1).context("an address")?.parse()?)
}

/// What there is, by the words of `davit info`.
type Counted = BTreeMap<&'static str, u64>;

const NAMES: [&str; 6] = ["created", "running", "paused", "stopped", "ready", "not_ready"];

fn by_info(t: &Test) -> Result<Counted> {
    let told: Value = serde_json::from_str(&t.davit_ok(&["info", "--format", "json"])?)?;
    let counters = &told["counters"];
    let one = |name| {
        let part = if name == "ready" || name == "not_ready" { "sandboxes" } else { "containers" };
        Ok((name, counters[part][name].as_u64().with_context(|| format!("{name} in {told}"))?))
    };
    NAMES.into_iter().map(one).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small")]
fn by_metrics(t: &Test) -> Result<Counted> {
    let scrape = Scrape::take(address(t)?)?;
    let one = |name| {
        let part = if name == "ready" || name == "not_ready" { "pods" } else { "containers" };
        Ok((name, scrape.value(&format!("davit_{part}{{state=\"{name}\"}}"))? as u64))
    };
    NAMES.into_iter().map(one).collect()
}

fn by_status(t: &Test) -> Result<Counted> {
    let status = t.cri.wait(t.cri.runtime().status(StatusRequest { verbose: true }))?;
    let told: Value = serde_json::from_str(status.info.get("counters").context("counters")?)?;
    let one = |name| {
        let value = match name {
            "ready" => &told["sandboxes"]["ready"],
            "not_ready" => &told["sandboxes"]["notReady"],
            _ => &told["containers"][name],
        };
        Ok((name, value.as_u64().with_context(|| format!("{name} in {told}"))?))
    };
    NAMES.into_iter().map(one).collect()
}

/// Counted one by one, from what CRI lists. It has no word for a paused container: the test knows how many there are.
fn recount(t: &Test, paused: u64) -> Result<Counted> {
    let containers = t.cri.containers(None)?;
    let of = |state: ContainerState| {
        let found = containers.iter().filter(|container| container.state() == state);
        found.count() as u64
    };
    let pods = t.cri.pods(None)?;
    let ready = pods.iter().filter(|pod| pod.state() == PodSandboxState::SandboxReady).count();
    Ok([
        ("created", of(ContainerState::ContainerCreated)),
        ("running", of(ContainerState::ContainerRunning).saturating_sub(paused)),
        ("paused", paused),
        ("stopped", of(ContainerState::ContainerExited)),
        ("ready", ready as u64),
        ("not_ready", pods.len() as u64 - ready as u64),
    ]
    .into())
}

/// All four say the same; soon, where something was done behind davit's back.
fn agree(t: &Test, what: &str, paused: u64) -> Result<Counted> {
    eventually(NOTICED, what, || {
        let counted = recount(t, paused)?;
        Ok((by_metrics(t)? == counted).then_some(()))
    })
    .with_context(|| format!("{:?} is told, {:?} there is", by_metrics(t), recount(t, paused)))?;
    let counted = recount(t, paused)?;
    assert_eq!(by_info(t)?, counted, "{what}: davit info");
    assert_eq!(by_status(t)?, counted, "{what}: the verbose Status");
    Ok(counted)
}

/// Runs the OCI runtime by hand, as its own user would.
pub(crate) fn by_hand(t: &Test, arguments: &[&str]) -> Result<()> {
    let settings = t.settings();
    let mut command = Command::new(tools::oci_runtime(&settings.handler)?);
    command.arg("--root").arg(settings.state().join("oci").join(&settings.handler));
    tools::run(command.args(arguments)).map(drop)
}

on_both!(the_counters_are_right_everywhere_whatever_is_done_and_after_a_kill, setup: with_metrics, |t| {
    t.pull("davit-test/busybox:latest")?;
    let web = t.pod("web", |_| ())?;
    let other = t.pod("other", |_| ())?;
    let running = t.run(&web, "running", |_| ())?;
    let paused = t.run(&web, "paused", |_| ())?;
    t.create(&web, "created", |_| ())?;
    let ended = t.run(&other, "ended", |c| c.command = sh("exit 3"))?;
    t.wait_for_exit(&ended)?;
    t.cri.stop_pod(&other.id)?;
    agree(t, "at first", 0)?;
    by_hand(t, &["pause", &paused])?;
    let counted = agree(t, "paused by hand", 1)?;
    let all: Vec<u64> = NAMES.iter().map(|name| counted[name]).collect();
    assert_eq!(all, [1, 1, 1, 1, 1, 1], "{counted:?}");
    let shims = || Scrape::take(address(t)?)?.value("davit_shims");
    eventually(NOTICED, "the stopped pod's shim is gone", || Ok((shims()? == 1.0).then_some(())))?;
    for round in ["after a kill", "after another"] {
        t.daemon().kill()?;
        t.daemon().spawn()?;
        agree(t, round, 1)?;
    }
    t.daemon().kill()?;
    by_hand(t, &["resume", &paused])?;
    t.daemon().spawn()?;
    agree(t, "resumed while davit was away", 0)?;
    by_hand(t, &["kill", &running, "KILL"])?;
    t.wait_for_exit(&running)?;
    agree(t, "killed by hand", 0)?;
    t.davit_ok(&["pause", &paused])?;
    agree(t, "paused by davit", 1)?;
    by_hand(t, &["resume", &paused])?;
    agree(t, "and resumed by hand", 0)?;
    for pod in [&web, &other] {
        t.cri.stop_pod(&pod.id)?;
        t.cri.remove_pod(&pod.id)?;
    }
    let counted = agree(t, "all gone", 0)?;
    assert!(counted.values().all(|count| *count == 0), "{counted:?}");
    Ok(())
});

/// Makes davit do each thing once that it measures.
fn load(t: &Test, round: usize) -> Result<()> {
    let image = t.pull("davit-test/busybox:latest")?;
    let pod = t.pod(&format!("load-{round}"), |_| ())?;
    let id = t.run(&pod, "c", |_| ())?;
    assert_eq!(t.exec(&id, "echo well")?, "well");
    assert_eq!(t.cri.status("nobody").unwrap_err().code(), Code::NotFound);
    assert!(t.cri.pull(&t.registry.reference("davit-test/nothing:here")).is_err());
    let missing = t.try_create(&pod, "bad", |c| c.image = Some(davit_e2e::cri::spec("nothing")));
    assert!(missing.is_err());
    t.cri.stop(&id, 0)?;
    t.cri.stop_pod(&pod.id)?;
    t.cri.remove_pod(&pod.id)?;
    t.cri.remove_image(&image)?;
    Ok(())
}

/// The rows of the table of all metrics: name and type.
fn documented() -> Result<BTreeSet<(String, String)>> {
    let (_, section) = DOCUMENT.split_once("## All metrics").context("the table is there")?;
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.filter_map(|row| {
        let (name, rest) = row.split_once("` | ")?;
        Some((name.to_owned(), rest.split(' ').next()?.to_owned()))
    });
    Ok(rows.filter(|(name, _)| !name.starts_with("Davit")).collect())
}

on_one!(every_metric_is_documented_and_promtool_finds_nothing_wrong, setup: with_metrics, |t| {
    load(t, 0)?;
    let scrape = Scrape::take(address(t)?)?;
    assert_eq!(scrape.types(), documented()?);
    let mut promtool = Command::new(tools::installed("promtool")?);
    let mut promtool = promtool.args(["check", "metrics"]);
    promtool = promtool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn()?;
    child.stdin.take().context("its input")?.write_all(scrape.text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "promtool: {}", tools::describe(&output));
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "", "promtool has something to say");
    Ok(())
});

on_one!(no_name_that_somebody_chose_is_a_label, setup: with_metrics, |t| {
    let hostile = "a\"b\\c\nd{x=\"y\"} 7";
    let pod = t.pod("web", |p| {
        p.labels.insert("app".to_owned(), hostile.to_owned());
        p.annotations.insert("note".to_owned(), hostile.to_owned());
    })?;
    t.run(&pod, "c", |c| {
        c.annotations.insert("note".to_owned(), hostile.to_owned());
    })?;
    // Refused or not: it comes out nowhere.
    drop(t.try_pod("x", |p| {
        if let Some(metadata) = &mut p.metadata {
            hostile.clone_into(&mut metadata.name);
        }
    }));
    let before = Scrape::take(address(t)?)?;
    assert!(!before.text.contains("a\"b") && !before.text.contains("c\\nd"), "{}", before.text);
    // Nothing grows with the number of pods, nor with that of scrapes.
    for round in 0..3 {
        let more = t.pod(&format!("more-{round}"), |_| ())?;
        t.cri.stop_pod(&more.id)?;
        t.cri.remove_pod(&more.id)?;
    }
    let once = Scrape::take(address(t)?)?.len();
    for _ in 0..50 {
        assert_eq!(Scrape::take(address(t)?)?.len(), once);
    }
    Ok(())
});

#[test]
fn the_alert_rules_are_right_and_fire_as_they_should() -> Result<()> {
    let promtool = tools::installed("promtool")?;
    tools::run(Command::new(&promtool).args(["check", "rules"]).arg(alerts("davit.yml")))?;
    tools::run(Command::new(&promtool).args(["test", "rules"]).arg(alerts("davit.test.yml")))?;
    let rules = std::fs::read_to_string(alerts("davit.yml"))?;
    let tested = std::fs::read_to_string(alerts("davit.test.yml"))?;
    let names: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(tested.contains(&format!("alertname=\"{name}\"")), "{name} is not tested");
        assert!(DOCUMENT.contains(&format!("| `{name}` |")), "{name} is not documented");
    }
    Ok(())
}

/// The dashboard's queries, for a node and a time that are here.
fn dashboard() -> Result<Vec<String>> {
    let board: Value = serde_json::from_str(DASHBOARD)?;
    let panels = board["panels"].as_array().context("panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets
        .map(|target| {
            let query = target["expr"].as_str().context("an expression")?;
            Ok(query.replace("$instance", ".*").replace("$__rate_interval", "1m"))
        })
        .collect()
}

/// The selectors of a query, each asking for its labels' names only: whether there is such a series, whatever its values are.
fn series(query: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in query.match_indices("davit_").chain(query.match_indices("process_")) {
        let rest = &query[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
        let labels = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        let labels = labels.unwrap_or_default().split("\",").filter(|label| !label.is_empty());
        let label = |label: &str| {
            let end = label.find(['=', '!']).unwrap_or(label.len());
            format!("{}!=\"\"", &label[..end])
        };
        let labels: Vec<String> = labels.map(label).collect();
        found.insert(format!("count({name}{{{}}})", labels.join(",")));
    }
    found
}

fn with_metrics_and_plugins(settings: &mut Settings) -> Result<()> {
    with_metrics(settings)?;
    cni::bridge_and_ports(settings)
}

on_one!(a_prometheus_scrapes_davit_and_every_query_of_dashboard_and_alerts_has_data, setup: with_metrics_and_plugins, |t| {
    let server = Prometheus::start(&t.dir.join("prometheus"), address(t)?, &alerts("davit.yml"))?;
    load(t, 0)?;
    let scrapes = || -> Result<Option<f64>> {
        let found = server.query("count_over_time(up{job=\"davit\"}[10m])")?;
        Ok(found.first().map(|one| one.1))
    };
    let further = |what: &str| -> Result<()> {
        let before = scrapes()?.unwrap_or(0.0);
        eventually(WITHIN, what, || Ok(scrapes()?.filter(|now| *now >= before + 3.0).map(drop)))
    };
    further("it scrapes")?;
    // A rate is the difference between two scrapes.
    load(t, 1)?;
    further("it scrapes on")?;
    let targets = server.ask("/api/v1/targets")?;
    let target = &targets["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()), "{target}");
    assert_eq!(server.query("up{job=\"davit\"}")?.first().map(|one| one.1), Some(1.0));
    let queries = dashboard()?;
    assert!(queries.len() > 20, "{queries:?}");
    for query in &queries {
        let samples = server.query(query).with_context(|| query.clone())?;
        ensure!(samples.iter().any(|(_, value)| value.is_finite()), "{query} gives {samples:?}");
    }
    let rules = server.ask("/api/v1/rules")?;
    let rules = rules["groups"][0]["rules"].as_array().context("rules")?.clone();
    assert!(rules.len() > 10, "{rules:?}");
    for rule in &rules {
        let query = rule["query"].as_str().context("a query")?;
        server.query(query).with_context(|| query.to_owned())?;
        eventually(WITHIN, query, || Ok((server_rule(&server, &rule["name"])?["health"] == "ok").then_some(())))?;
        for series in series(query) {
            ensure!(!server.query(&series)?.is_empty(), "{query}: {series} gives nothing");
        }
    }
    let firing = server.query("ALERTS{alertstate=\"firing\"}")?;
    ensure!(firing.is_empty(), "nothing is wrong, and yet {firing:?}");
    Ok(())
});

/// A rule as the server has it by now.
fn server_rule(server: &Prometheus, name: &Value) -> Result<Value> {
    let rules = server.ask("/api/v1/rules")?;
    let rules = rules["groups"][0]["rules"].as_array().context("rules")?;
    rules.iter().find(|rule| rule["name"] == *name).cloned().context("the rule is there")
}

/// A davit whose start takes a while: it asks an OCI runtime who it is that takes its time.
fn slow_to_start(settings: &mut Settings) -> Result<()> {
    with_metrics(settings)?;
    settings.keys.push_str("debug = true\n");
    let slow = settings.dir.join("slow");
    let real = tools::oci_runtime("crun")?;
    let script = format!(
        "#!/bin/sh\n[ ! -e {}/hold ] || sleep 3\nexec {} \"$@\"\n",
        settings.dir.display(),
        real.display()
    );
    std::fs::File::create(&slow)?.write_all(script.as_bytes())?;
    std::fs::set_permissions(&slow, std::fs::Permissions::from_mode(0o755))?;
    settings.tables = format!("[handlers.slow]\npath = {slow:?}\n");
    Ok(())
}

on_one!(who_asks_hears_whether_davit_lives_and_whether_it_is_ready, setup: slow_to_start, |t| {
    let address = address(t)?;
    let status = |path: &str| -> Result<u16> { Ok(get(address, path)?.0) };
    // The socket takes connections before anything is taken up.
    eventually(WITHIN, "it is ready", || Ok((status("/readyz")? == 200).then_some(())))?;
    assert_eq!(status("/healthz")?, 200);
    t.daemon().stop()?;
    std::fs::File::create(t.dir.join("hold"))?;
    // Otherwise it knows the program by its looks and does not ask again.
    std::fs::remove_file(t.settings().state().join("handlers.json"))?;
    t.daemon().launch()?;
    eventually(WITHIN, "it listens", || Ok(status("/healthz").ok()))?;
    assert_eq!((status("/healthz")?, status("/readyz")?, status("/metrics")?), (200, 503, 503));
    eventually(WITHIN, "it is ready", || Ok((status("/readyz")? == 200).then_some(())))?;
    assert_eq!(status("/metrics")?, 200);
    // Debugging is asked for, and this is loopback.
    for (path, word) in [("/debug/tasks", "aliveTasks"), ("/debug/heap", "usedBytes")] {
        let (status, body) = get(address, path)?;
        let told: Value = serde_json::from_slice(&body)?;
        assert_eq!(status, 200, "{path}");
        assert!(told.to_string().contains(word), "{told}");
    }
    let (taken, profile) = get(address, "/debug/profile?seconds=1")?;
    assert_eq!(taken, 200, "{}", String::from_utf8_lossy(&profile));
    for path in ["/debug/profile?seconds=100", "/debug/nothing", "/nothing"] {
        assert!([400, 404].contains(&status(path)?), "{path}");
    }
    // Not any more once the configuration says no.
    let config = t.settings().config();
    let text = std::fs::read_to_string(&config)?.replace("debug = true\n", "");
    std::fs::File::create(&config)?.write_all(text.as_bytes())?;
    t.daemon().signal(Signal::HUP)?;
    eventually(WITHIN, "no debugging", || Ok((status("/debug/tasks")? == 404).then_some(())))?;
    std::fs::remove_file(t.dir.join("hold"))?;
    Ok(())
});

fn with_tls(settings: &mut Settings) -> Result<()> {
    with_metrics(settings)?;
    Authority::new()?.renew(&settings.dir)?;
    let (cert, key) = (settings.dir.join("cert.pem"), settings.dir.join("key.pem"));
    settings.tables = format!("[metrics_tls]\ncert = {cert:?}\nkey = {key:?}\n");
    Ok(())
}

on_one!(metrics_come_over_tls_and_not_without_it_where_there_is_a_certificate, setup: with_tls, |t| {
    let address = address(t)?;
    let ask = || -> Result<String> {
        let mut stream = secured(t, &address.to_string())?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    t.cri.list_images()?;
    assert!(ask()?.contains("davit_pods{state=\"ready\"} 0"));
    assert!(get(address, "/metrics").is_err(), "plain HTTP is answered");
    // Another certificate, from the next connection on.
    Authority::new()?.renew(&t.dir)?;
    assert!(ask().is_err(), "the old one is of an authority that is not trusted any more");
    t.daemon().signal(Signal::HUP)?;
    eventually(WITHIN, "the new certificate is shown", || Ok(ask().ok()))?;
    Ok(())
});
