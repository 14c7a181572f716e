//! SIGHUP: the configuration is read again and taken over whole, or not at all.

use super::tls::{Certificates, Renewal};
use super::{log, notify};
use crate::config::{self, Config, ServeFlags};
use crate::metrics::{DebugOn, Site};
use crate::output;
use std::sync::Arc;

/// What became of a new configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Over,
    Refused,
}

/// The configuration in effect, and where it comes from.
#[derive(Debug)]
pub(crate) struct Reload {
    flags: ServeFlags,
    config: Arc<Config>,
    log: log::Log,
    site: Site,
    certificates: Vec<Certificates>,
}

impl Reload {
    pub(crate) fn new(
        flags: ServeFlags,
        config: Arc<Config>,
        (log, site): (log::Log, Site),
        certificates: Vec<Certificates>,
    ) -> Self {
        Self { flags, config, log, site, certificates }
    }

    /// The configuration in effect.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Reads it again. One that is wrong, or that changes what a running daemon can't, is told of and dropped.
    pub(crate) fn now(&mut self) {
        notify::reloading();
        match config::load(&self.flags) {
            Err(error) => {
                let error = output::one_line(&anyhow::Error::new(error));
                tracing::error!(error, "reload: the configuration is wrong; the old one stays");
                notify::reload_refused();
            }
            Ok(new) => match self.take(new) {
                Taken::Over => notify::ready(),
                Taken::Refused => notify::reload_refused(),
            },
        }
    }

    /// Refused is told of here.
    fn take(&mut self, new: Config) -> Taken {
        let fixed = config::unchangeable(&self.config, &new);
        if !fixed.is_empty() {
            let keys = fixed.join(", ");
            tracing::error!(keys, "reload: these need a restart; the old configuration stays");
            return Taken::Refused;
        }
        // The files' names are the same, but what they hold may be new.
        let read: Result<Vec<_>, _> =
            self.certificates.iter().map(Certificates::read_again).collect();
        match read {
            Ok(renewals) => renewals.into_iter().for_each(Renewal::show),
            Err(error) => {
                let error = output::one_line(&anyhow::Error::new(error));
                tracing::error!(
                    error,
                    "reload: the certificates are wrong; the old configuration stays"
                );
                return Taken::Refused;
            }
        }
        let names = new.tls().map(|tls| tls.client_names.as_slice()).unwrap_or_default();
        self.certificates.iter().for_each(|shown| shown.invite(names));
        self.log.set(new.log_level());
        self.site.set_debug(DebugOn(new.debug()));
        self.config = Arc::new(new);
        tracing::info!("reload: the new configuration is in effect");
        Taken::Over
    }
}
