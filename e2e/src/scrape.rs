//! What a scrape of the metrics gives, over the plainest of HTTP.

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(75);

/// `GET`: the status and the body.
///
/// # Errors
/// If nobody answers there, or what answers is no HTTP.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no head")?;
    let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.get(end.saturating_add(4)..).unwrap_or_default().to_vec();
    Ok((status.with_context(|| format!("no status in {head}"))?, body))
}

/// All samples of one moment.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// As it came.
    pub text: String,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    /// Scrapes.
    ///
    /// # Errors
    /// If it is refused, or has a line that is no sample.
    pub fn take(address: SocketAddr) -> Result<Self> {
        let (status, body) = get(address, "/metrics")?;
        let text = String::from_utf8(body).context("read metrics as text")?;
        if status != 200 {
            bail!("GET /metrics: {status}: {text}");
        }
        let mut samples = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').with_context(|| format!("read {line:?}"))?;
            samples.insert(name.to_owned(), value.parse()?);
        }
        Ok(Self { text, samples })
    }

    /// The value of a sample, by its name with its labels.
    ///
    /// # Errors
    /// If it is not there.
    pub fn value(&self, name: &str) -> Result<f64> {
        self.samples.get(name).copied().with_context(|| format!("{name} is not in {}", self.text))
    }

    /// How many samples there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The metrics' names and types.
    #[must_use]
    pub fn types(&self) -> BTreeSet<(String, String)> {
        let lines = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let pairs = lines.filter_map(|line| line.split_once(' '));
        pairs.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
    }
}
