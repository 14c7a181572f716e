//! The log: lines on standard error, which systemd's journal takes, at a level that can be changed.

use crate::config::LogLevel;
use crate::traces::Traces;
use anyhow::Context;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

/// The running log.
#[derive(Debug)]
pub(crate) struct Log(reload::Handle<Targets, Registry>);

/// Starts it, and what is traced beside it.
///
/// # Errors
/// If there is one already.
pub(crate) fn start(level: LogLevel, traces: Option<&Traces>) -> anyhow::Result<Log> {
    let (filter, handle) = reload::Layer::new(filter(level));
    let registry = tracing_subscriber::registry();
    match traces {
        // The filter is everybody's: what it leaves out is never made.
        None => registry.with(filter).with(lines()).try_init(),
        Some(traces) => registry.with(lines().with_filter(filter)).with(traces.layer()).try_init(),
    }
    .context("start the log")?;
    Ok(Log(handle))
}

fn lines<S>() -> impl Layer<S> + Send + Sync
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false)
}

impl Log {
    /// Another level from now on.
    pub(crate) fn set(&self, level: LogLevel) {
        // It fails only if the subscriber is gone, and then there is nobody to tell.
        drop(self.0.reload(filter(level)));
    }
}

/// davit's own lines at this level. The libraries' are one step behind: their debug lines tell every frame of a connection, and could
/// tell what a call is made with.
fn filter(level: LogLevel) -> Targets {
    let (own, others) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::INFO),
        LogLevel::Trace => (LevelFilter::TRACE, LevelFilter::DEBUG),
    };
    // At trace, h2's debug lines would drown all others.
    let h2 = others.min(LevelFilter::INFO);
    let targets = Targets::new().with_default(others).with_target("h2", h2);
    // By the beginning of their names: the runtime's, too.
    targets.with_target("davit", own)
}
