//! Whether the values of a configuration make sense together.
//!
//! Owns the checks that look at more than one key, each blaming the source that had the last word. Whether one value makes sense by
//! itself is its type's business ([`super::value`]); where the values are used is [`super::effective`]'s. What a listener needs whole is made here.

use super::access::ClientName;
use super::effective::WELL_KNOWN;
use super::layer::{self, Layer};
use super::load::{ConfigError, Sources};
use super::value::{AbsolutePath, HandlerKind, Listen, Name};
use std::path::PathBuf;
use std::time::Duration;

/// What a listener shows and demands: PEM files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tls {
    /// Its certificate chain.
    pub(crate) cert: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// Who signs the clients' certificates; `None`: they need none.
    pub(crate) client_ca: Option<PathBuf>,
    /// Which of those may call; empty: all.
    pub(crate) client_names: Vec<ClientName>,
}

/// One directory for both would mix what a boot must forget with what it must keep.
pub(super) fn directories(full: &Layer, sources: &Sources) -> Result<(), ConfigError> {
    let (Some(root), Some(state)) = (&full.root, &full.state) else { return Ok(()) };
    let (root, state) = (root.as_path(), state.as_path());
    if root.starts_with(state) || state.starts_with(root) {
        return Err(sources.wrong(
            |layer| layer.state.is_some() || layer.root.is_some(),
            "state",
            &state.display(),
            format!("is not apart from root {}: one would hold the other", root.display()),
        ));
    }
    Ok(())
}

pub(super) fn handlers(full: &Layer, sources: &Sources) -> Result<(), ConfigError> {
    for (name, handler) in &full.handlers {
        if handler.kind == Some(HandlerKind::ShimV2) {
            let set =
                |layer: &Layer| layer.handlers.get(name).is_some_and(|own| own.kind.is_some());
            let key = format!("handlers.{name}.kind");
            return Err(sources.wrong(set, &key, &"shim-v2", "is not supported yet: oci is"));
        }
    }
    let Some(default) = &full.default_handler else { return Ok(()) };
    if full.handlers.contains_key(default) || WELL_KNOWN.contains(&default.as_str()) {
        return Ok(());
    }
    let problem = format!(
        "is no handler: those configured are [{}], and crun, runc and youki are known",
        full.handlers.keys().map(Name::as_str).collect::<Vec<_>>().join(", ")
    );
    Err(sources.wrong(|layer| layer.default_handler.is_some(), "default_handler", default, problem))
}

pub(super) fn limits(full: &Layer, sources: &Sources) -> Result<(), ConfigError> {
    let line = full.max_log_line.unwrap_or_default();
    if !(1024..=1 << 20).contains(&line) {
        let set = |layer: &Layer| layer.max_log_line.is_some();
        return Err(sources.wrong(set, "max_log_line", &line, "is not between 1024 and 1048576"));
    }
    let told = full.metrics_interval.map(|every| (every, every.as_duration()));
    if let Some((every, _)) = told.filter(|(_, every)| *every < Duration::from_secs(1)) {
        let set = |layer: &Layer| layer.metrics_interval.is_some();
        return Err(sources.wrong(set, "metrics_interval", &every, "is less than a second"));
    }
    let events = full.events_retain_count.unwrap_or_default();
    if events > 1 << 16 {
        let set = |layer: &Layer| layer.events_retain_count.is_some();
        let problem = "is not between 0 and 65536";
        return Err(sources.wrong(set, "events_retain_count", &events, problem));
    }
    counts(full, sources)?;
    let listen = full.listen.as_deref().unwrap_or_default();
    if listen.is_empty() {
        // The default address is made from it, and only too long a path can't be one.
        let state = full.state.as_ref().map(ToString::to_string).unwrap_or_default();
        let set = |layer: &Layer| layer.state.is_some();
        return Err(sources.wrong(
            set,
            "state",
            &state,
            "is too long for a socket in it: give listen",
        ));
    }
    if listen.len() > 16 {
        let set = |layer: &Layer| layer.listen.is_some();
        return Err(sources.wrong(set, "listen", &listen.len(), "addresses are more than 16"));
    }
    for (at, address) in listen.iter().enumerate() {
        if listen.iter().take(at).any(|earlier| earlier == address) {
            let set = |layer: &Layer| layer.listen.is_some();
            return Err(sources.wrong(set, "listen", address, "is given twice"));
        }
    }
    Ok(())
}

/// A burst that is larger finds the processors busy anyway.
const MOST_AHEAD: u32 = 64;

/// None of them may be nothing, which would stand still, nor so much that it is no limit.
fn counts(full: &Layer, sources: &Sources) -> Result<(), ConfigError> {
    type Get = fn(&layer::Limits) -> Option<u32>;
    let keys: [(&str, Get); 3] = [
        ("limits.connections", |limits| limits.connections),
        ("limits.calls", |limits| limits.calls),
        ("limits.creations", |limits| limits.creations),
    ];
    for (key, get) in keys {
        let count = get(&full.limits).unwrap_or_default();
        if !(1..=1 << 16).contains(&count) {
            let set = |layer: &Layer| get(&layer.limits).is_some();
            return Err(sources.wrong(set, key, &count, "is not between 1 and 65536"));
        }
    }
    let ahead = full.limits.pods_ahead.unwrap_or_default();
    if ahead > MOST_AHEAD {
        let set = |layer: &Layer| layer.limits.pods_ahead.is_some();
        return Err(sources.wrong(set, "limits.pods_ahead", &ahead, "is not between 0 and 64"));
    }
    Ok(())
}

/// Whoever reaches a listener is root on this node: beyond loopback only somebody with a certificate may.
pub(super) fn tls(full: &Layer, sources: &Sources) -> Result<Option<Tls>, ConfigError> {
    let layer::Tls { cert, key, client_ca, client_names } = &full.tls;
    if client_names.as_ref().is_some_and(Vec::is_empty) {
        let set = |layer: &Layer| layer.tls.client_names.is_some();
        let problem = "names nobody: leave it out if everybody may call whose certificate client_ca has signed";
        return Err(sources.wrong(set, "tls.client_names", &"[]", problem));
    }
    let client_names = client_names.clone().unwrap_or_default();
    if let (Some(cert), Some(key), Some(client_ca)) = (cert, key, client_ca) {
        let client_ca = Some(pem(client_ca));
        return Ok(Some(Tls { cert: pem(cert), key: pem(key), client_ca, client_names }));
    }
    let file = cert.as_ref().or(key.as_ref()).or(client_ca.as_ref()).map(ToString::to_string);
    // Names alone would let everybody in who is meant to be kept out.
    if let Some(given) = file.or_else(|| client_names.first().map(ToString::to_string)) {
        let set = |layer: &Layer| layer.tls != layer::Tls::default();
        return Err(sources.wrong(
            set,
            "tls",
            &given,
            "is not enough: cert, key and client_ca go together",
        ));
    }
    for address in full.listen.as_deref().unwrap_or_default() {
        match address {
            Listen::Tcp(tcp) if !tcp.ip().is_loopback() => {
                return Err(sources.wrong(
                    |layer| layer.listen.is_some(),
                    "listen",
                    address,
                    "is not loopback and so demands mutual TLS: give tls.cert, tls.key and tls.client_ca",
                ));
            }
            Listen::Tcp(_) | Listen::Unix(_) => {}
        }
    }
    Ok(None)
}

/// Here the token in a call's URL says who comes, so clients may do without a certificate, and the address is the operator's choice.
pub(super) fn streaming_tls(full: &Layer, sources: &Sources) -> Result<Option<Tls>, ConfigError> {
    let layer::StreamingTls { cert, key, client_ca } = &full.streaming_tls;
    let set = |layer: &Layer| layer.streaming_tls != layer::StreamingTls::default();
    let files = [cert, key, client_ca].map(Option::as_ref);
    one_sided(files, |given, problem| sources.wrong(set, "streaming_tls", given, problem))
}

/// Whoever comes may read the numbers and nothing else, so the same holds here.
pub(super) fn metrics_tls(full: &Layer, sources: &Sources) -> Result<Option<Tls>, ConfigError> {
    let layer::MetricsTls { cert, key, client_ca } = &full.metrics_tls;
    let set = |layer: &Layer| layer.metrics_tls != layer::MetricsTls::default();
    let files = [cert, key, client_ca].map(Option::as_ref);
    one_sided(files, |given, problem| sources.wrong(set, "metrics_tls", given, problem))
}

/// A certificate and its key, or neither; clients need none unless somebody is named who signs theirs.
fn one_sided(
    [cert, key, client_ca]: [Option<&AbsolutePath>; 3],
    wrong: impl FnOnce(&AbsolutePath, &'static str) -> ConfigError,
) -> Result<Option<Tls>, ConfigError> {
    if let (Some(cert), Some(key)) = (cert, key) {
        let client_ca = client_ca.map(pem);
        let client_names = Vec::new();
        return Ok(Some(Tls { cert: pem(cert), key: pem(key), client_ca, client_names }));
    }
    match cert.or(key).or(client_ca) {
        None => Ok(None),
        Some(given) => Err(wrong(given, "is not enough: cert and key go together")),
    }
}

fn pem(path: &AbsolutePath) -> PathBuf {
    path.as_path().to_owned()
}
