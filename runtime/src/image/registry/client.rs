//! HTTP clients for one endpoint: one for http, one for https, each made when first needed.
//!
//! Reading the system's certificates takes milliseconds that a registry on loopback need not pay.

use super::error::FetchError;
use crate::error::chain;
use crate::image::hosts::{EndpointPlan, is_loopback};
use reqwest::{Certificate, Client, Identity, Url};
use std::path::Path;
use std::sync::OnceLock;

const USER_AGENT: &str = concat!("davit/", env!("CARGO_PKG_VERSION"));

#[derive(Debug, Default)]
pub(super) struct Clients {
    http: OnceLock<Client>,
    https: OnceLock<Client>,
}

impl Clients {
    /// The client for `url`'s scheme, with the endpoint's certificates: redirects use it, too, as they do with all peers.
    pub(super) fn get(&self, plan: &EndpointPlan, url: &Url) -> Result<Client, FetchError> {
        let cell = if url.scheme() == "https" { &self.https } else { &self.http };
        if let Some(client) = cell.get() {
            return Ok(client.clone());
        }
        let client = if url.scheme() == "https" { https(plan)? } else { http(plan)? };
        Ok(cell.get_or_init(|| client).clone())
    }
}

fn builder(plan: &EndpointPlan) -> reqwest::ClientBuilder {
    let builder = Client::builder()
        .user_agent(USER_AGENT)
        // Redirects are followed by hand: the library would send a mirror's own headers along.
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .http1_only()
        .connect_timeout(plan.dial_timeout);
    // Go's client, which all peers use, never asks a proxy for loopback.
    if is_loopback(plan.host()) { builder.no_proxy() } else { builder }
}

fn http(plan: &EndpointPlan) -> Result<Client, FetchError> {
    builder(plan).tls_certs_only([]).build().map_err(|error| refused(plan, error))
}

fn https(plan: &EndpointPlan) -> Result<Client, FetchError> {
    let mut builder = builder(plan).tls_danger_accept_invalid_certs(plan.skip_verify);
    let mut roots = Vec::new();
    for path in &plan.ca {
        let certificates =
            Certificate::from_pem_bundle(&read(path)?).map_err(|error| unusable(path, &error))?;
        if certificates.is_empty() {
            return Err(FetchError::Certificate {
                path: path.clone(),
                reason: "holds no certificate".to_owned(),
            });
        }
        roots.extend(certificates);
    }
    builder = builder.tls_certs_merge(roots);
    // The library shows one identity. Several are for servers that differ in what they accept; the first is the one that
    // a server without such wishes is shown.
    if let Some((certificate, key)) = plan.client.first() {
        let mut pem = read(certificate)?;
        if key != certificate {
            pem.extend_from_slice(b"\n");
            pem.extend(read(key)?);
        }
        builder = builder
            .identity(Identity::from_pem(&pem).map_err(|error| unusable(certificate, &error))?);
    }
    builder.build().map_err(|error| refused(plan, error))
}

/// A certificate file is small; something else under that name is not read whole.
fn read(path: &Path) -> Result<Vec<u8>, FetchError> {
    use std::io::Read;
    let failed = |error: std::io::Error| FetchError::Certificate {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .map_err(failed)?
        .take(4 << 20)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

fn unusable(path: &Path, error: &reqwest::Error) -> FetchError {
    FetchError::Certificate { path: path.to_owned(), reason: chain(error) }
}

fn refused(plan: &EndpointPlan, error: reqwest::Error) -> FetchError {
    FetchError::Tls { url: plan.url.clone(), reason: chain(&error.without_url()) }
}
