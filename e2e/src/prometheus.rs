//! A Prometheus server of a test's own.
//!
//! Owns its process, its directory and its port of loopback; ends it when it is dropped. Asks it by its HTTP API, as Grafana does.

use crate::host::{eventually, free_port};
use crate::registry::write_whole;
use crate::scrape::get;
use crate::tools;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long it may take to be ready.
const START: Duration = Duration::from_secs(60);

/// It runs as long as this lives.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts one in `dir` that scrapes `target` once a second, under the job `davit`, and evaluates the rules of `rules` as often.
    ///
    /// # Errors
    /// If it is not installed, or is not ready in time.
    pub fn start(dir: &Path, target: SocketAddr, rules: &Path) -> Result<Self> {
        let program = tools::installed("prometheus")?;
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
            rule_files: [{:?}]\nscrape_configs:\n- job_name: davit\n  \
            static_configs: [{{targets: [\"{target}\"]}}]\n",
            rules.display().to_string()
        );
        write_whole(&dir.join("prometheus.yml"), config.as_bytes())?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let log = File::create(dir.join("prometheus.log")).context("make Prometheus' log")?;
        let child = Command::new(program)
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start prometheus")?;
        let server = Self { child, address };
        eventually(START, "Prometheus is ready", || {
            Ok(get(address, "/-/ready").ok().filter(|(status, _)| *status == 200).map(drop))
        })?;
        Ok(server)
    }

    /// The `data` of an answer of the API.
    ///
    /// # Errors
    /// If it refuses, with its words.
    pub fn ask(&self, path: &str) -> Result<Value> {
        let (status, body) = get(self.address, path)?;
        let answer: Value = serde_json::from_slice(&body)
            .with_context(|| format!("{path}: {}", String::from_utf8_lossy(&body)))?;
        let well = answer.get("status").and_then(Value::as_str) == Some("success");
        match answer.get("data") {
            Some(data) if status == 200 && well => Ok(data.clone()),
            Some(_) | None => bail!("{path}: {status}: {answer}"),
        }
    }

    /// What a query gives now: each sample's labels and value.
    ///
    /// # Errors
    /// If it is none.
    pub fn query(&self, query: &str) -> Result<Vec<(Value, f64)>> {
        let data = self.ask(&format!("/api/v1/query?query={}", escaped(query)))?;
        let samples = data.get("result").and_then(Value::as_array).context("a result")?;
        samples
            .iter()
            .map(|sample| {
                let value = sample.pointer("/value/1").and_then(Value::as_str);
                let labels = sample.get("metric").context("its labels")?;
                Ok((labels.clone(), value.context("a value")?.parse()?))
            })
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// As it stands in a URL.
fn escaped(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}
