//! Registries, for `davit login`, `search` and `image explain`: asked by the daemon, which alone knows how each is to be reached.

use super::status::plain_status;
use crate::auth_file::{self, AuthFile};
use davit_proto::admin::{
    ExplainRequest, ExplainResponse, ExplainedEndpoint, LoginRequest, LoginResponse, SearchRequest,
    SearchResponse,
};
use davit_runtime::Runtime;
use davit_runtime::image::{Auth, Capability, EndpointPlan, Images, Welcome};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tonic::Status;

/// Repositories that one answer names.
const FOUND: usize = 1000;

/// The credentials that the daemon has for pulls that bring none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keyring {
    path: Option<Arc<Path>>,
}

impl Keyring {
    /// Of this file; read anew for each pull, so that a change needs no restart.
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        Self { path: path.map(Into::into) }
    }

    /// What comes with the request, else what the file has.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: the file can't be read. To go on without would only be told as a refusal by the registry.
    pub(super) fn complete(&self, auth: Auth, image: &str) -> Result<Auth, Status> {
        let Some(path) = self.path.as_ref().filter(|_| auth == Auth::default()) else {
            return Ok(auth);
        };
        // A name that is none is told by the pull.
        let Ok((registry, repository)) = Images::place(image) else { return Ok(auth) };
        let file = AuthFile::read(path)
            .map_err(|error| Status::failed_precondition(davit_runtime::error::chain(&error)))?;
        Ok(file.find(&registry, &repository).unwrap_or_default())
    }
}

pub(super) async fn login(
    runtime: &Runtime,
    request: LoginRequest,
) -> Result<LoginResponse, Status> {
    let LoginRequest { registry, username, password } = request;
    if username.is_empty() {
        return Err(Status::invalid_argument("username: empty"));
    }
    let auth = Auth { username, password, ..Auth::default() };
    let welcome = runtime.images().login(&registry, &auth).await;
    let welcome = welcome.map_err(|error| plain_status(&error))?;
    Ok(LoginResponse { asked: welcome == Welcome::Accepted })
}

pub(super) async fn search(
    runtime: &Runtime,
    keyring: &Keyring,
    request: SearchRequest,
) -> Result<SearchResponse, Status> {
    let SearchRequest { registry, term, username, password } = request;
    let auth = Auth { username, password, ..Auth::default() };
    let auth = keyring.complete(auth, &format!("{registry}/x/x"))?;
    let found = runtime.images().catalogue(&registry, &auth).await;
    let mut repositories = found.map_err(|error| plain_status(&error))?;
    repositories.retain(|name| name.contains(&term));
    let more = repositories.len() > FOUND;
    repositories.truncate(FOUND);
    Ok(SearchResponse { repositories, more })
}

pub(super) fn explain(
    runtime: &Runtime,
    keyring: &Keyring,
    request: ExplainRequest,
) -> Result<ExplainResponse, Status> {
    let ExplainRequest { image, username } = request;
    let failed = |error| plain_status(&error);
    let plans = runtime.images().explain(&image).map_err(failed)?;
    let (registry, repository) = Images::place(&image).map_err(failed)?;
    let kept = keyring.complete(Auth::default(), &image)?;
    let of_file = auth_file::user(&kept).unwrap_or_default();
    let endpoints = plans.iter().map(|plan| endpoint(plan, &registry, [&username, &of_file]));
    let endpoints = endpoints.collect();
    Ok(ExplainResponse { registry, repository, endpoints })
}

fn endpoint(plan: &EndpointPlan, registry: &str, users: [&String; 2]) -> ExplainedEndpoint {
    let path = |path: &PathBuf| path.display().to_string();
    let user = if plan.is_of(registry) {
        users.into_iter().find(|user| !user.is_empty()).cloned().unwrap_or_default()
    } else {
        String::new()
    };
    ExplainedEndpoint {
        url: plan.url.clone(),
        resolves: plan.can(Capability::Resolve),
        pulls: plan.can(Capability::Pull),
        told_registry: plan.namespace.clone().unwrap_or_default(),
        ca: plan.ca.iter().map(path).collect(),
        client_certificates: plan.client.iter().map(|(certificate, _)| path(certificate)).collect(),
        skip_verify: plan.skip_verify,
        // Values may be secrets.
        headers: plan.headers.iter().map(|(name, _)| name.clone()).collect(),
        source: plan.source.as_ref().map(path).unwrap_or_default(),
        is_registry: plan.is_of(registry),
        user,
    }
}
