//! What is asked of a registry besides images: whether it takes somebody's credentials, and what it has.
//!
//! Goes the way of a pull, over the same endpoints with the same care for secrets, but asks the registry itself only: a mirror knows nobody's password.

use super::error::ExplainError;
use super::hosts::{EndpointPlan, endpoints};
use super::registry::{Endpoint, Wanted, same_registry};
use super::{Auth, FetchError, ImageRef, Images, InvalidAuth, InvalidReference};
use serde::Deserialize;

/// Of a catalogue; a registry with more repositories tells them in parts, of which this is the first.
const CATALOGUE_BYTES: u64 = 4 << 20;
/// How many repositories are asked for.
const CATALOGUE_COUNT: u32 = 10_000;

/// Why a registry was not asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It is no registry's name.
    #[error("registry {registry:?}")]
    Name {
        /// As given.
        registry: String,
        /// Why.
        #[source]
        source: InvalidReference,
    },
    /// Its configuration can't be used.
    #[error("the configuration of registry {registry}")]
    Hosts {
        /// Which.
        registry: String,
        /// Why.
        #[source]
        source: super::HostsError,
    },
    /// The credentials can't be.
    #[error(transparent)]
    Auth(#[from] InvalidAuth),
    /// It refused, or can't be reached.
    #[error("{doing} {registry}: {source}")]
    Fetch {
        /// What was asked.
        doing: &'static str,
        /// Whom.
        registry: String,
        /// What it said.
        source: FetchError,
    },
    /// Its catalogue is none.
    #[error("read the catalogue of {registry}")]
    Catalogue {
        /// Whose.
        registry: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// What a registry said to credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcome {
    /// It asked for them and took them.
    Accepted,
    /// It asked nobody for any.
    NotAsked,
}

#[derive(Debug, Deserialize)]
struct Catalogue {
    repositories: Vec<String>,
}

impl Images {
    /// Shows credentials to a registry.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn login(&self, registry: &str, auth: &Auth) -> Result<Welcome, RegistryError> {
        let endpoint = self.origin(registry, auth, "")?;
        let fetch = |source| failed("log in to", registry, source);
        endpoint.whole(&Wanted::Base, CATALOGUE_BYTES).await.map_err(fetch)?;
        Ok(if endpoint.was_asked() { Welcome::Accepted } else { Welcome::NotAsked })
    }

    /// The repositories of a registry, as far as its catalogue's first part tells.
    ///
    /// # Errors
    /// [`RegistryError`]; many registries tell nobody.
    pub async fn catalogue(
        &self,
        registry: &str,
        auth: &Auth,
    ) -> Result<Vec<String>, RegistryError> {
        let endpoint = self.origin(registry, auth, "registry:catalog:*")?;
        let wanted = Wanted::Catalogue { count: CATALOGUE_COUNT };
        let fetch = |source| failed("search in", registry, source);
        let found = endpoint.whole(&wanted, CATALOGUE_BYTES).await.map_err(fetch)?;
        let parsed: Catalogue = serde_json::from_slice(&found.bytes)
            .map_err(|source| RegistryError::Catalogue { registry: registry.to_owned(), source })?;
        Ok(parsed.repositories)
    }

    /// The endpoint that is the registry itself; the last one if its configuration names others only.
    fn origin(&self, registry: &str, auth: &Auth, scope: &str) -> Result<Endpoint, RegistryError> {
        let name = |source| RegistryError::Name { registry: registry.to_owned(), source };
        let image: ImageRef = format!("{registry}/x/x").parse().map_err(name)?;
        if image.registry() != registry && !same_registry(image.registry(), registry) {
            // Without a dot, a port or "localhost" it reads as a part of a repository of docker.io.
            return Err(name(ImageRef::no_registry(registry)));
        }
        let hosts = |source| RegistryError::Hosts { registry: registry.to_owned(), source };
        let plans = endpoints(&self.0.config.certs_dirs, image.registry()).map_err(hosts)?;
        let own = plans.iter().find(|plan| same_registry(plan.host(), registry)).or(plans.last());
        let plan = own.cloned().unwrap_or_else(|| EndpointPlan::origin(image.registry()));
        let credential = auth.credential()?;
        Ok(Endpoint::new(plan, "", credential, self.0.manners.clone()).scoped(scope))
    }

    /// The registry and the repository that an image's name means.
    ///
    /// # Errors
    /// [`ExplainError`]: the name is none.
    pub fn place(image: &str) -> Result<(String, String), ExplainError> {
        let image: ImageRef = image.parse()?;
        Ok((image.registry().to_owned(), image.repository().to_owned()))
    }
}

impl EndpointPlan {
    /// Whether credentials for `registry` are told to it.
    #[must_use]
    pub fn is_of(&self, registry: &str) -> bool {
        same_registry(registry, self.host())
    }
}

fn failed(doing: &'static str, registry: &str, source: FetchError) -> RegistryError {
    RegistryError::Fetch { doing, registry: registry.to_owned(), source }
}
