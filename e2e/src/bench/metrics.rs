//! What looking at davit costs: a scrape of a full node, and the start of a pod with metrics, events and traces, in turns with one without.
//!
//! Owns the two daemons: one that nobody looks at, and one that is scraped twice a second, whose events are listened to, and that
//! sends each call and each step to a collector.

use super::figures::Metric;
use super::lane::{Lane, Subject};
use super::measure::{Bench, LISTS, in_flight, millis};
use super::pods::{self, Network};
use crate::collector::Collector;
use crate::host::{eventually, free_port, pause};
use crate::registry::Registry;
use crate::scrape::Scrape;
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two scrapes: thirty times as often as usual.
const SCRAPES: Duration = Duration::from_millis(500);

/// How long spans may take to come.
const SENT: Duration = Duration::from_secs(30);

/// A daemon that is looked at.
#[derive(Debug)]
struct Observed {
    subject: Subject,
    metrics: SocketAddr,
    collector: Collector,
}

impl Observed {
    fn start(runtime: &str, registry: &Registry) -> Result<Self> {
        let port = || Ok::<_, anyhow::Error>(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)));
        let (metrics, traces) = (port()?, port()?);
        let subject = Subject::start_with(Lane::DavitBridge, runtime, registry, |settings| {
            writeln!(settings.keys, "metrics_listen = \"{metrics}\"")?;
            Ok(writeln!(settings.tables, "[tracing]\nendpoint = \"http://{traces}\"")?)
        })?;
        let collector = Collector::start(&subject.cri, traces)?;
        Ok(Self { subject, metrics, collector })
    }
}

impl Bench {
    /// See the module.
    pub(super) fn metrics(&mut self, registry: &Registry) -> Result<()> {
        let runtime = self.options.runtime.clone();
        let plain = Subject::start(Lane::DavitBridge, &runtime, registry)?;
        let observed = Observed::start(&runtime, registry)?;
        self.observed_starts(&plain, &observed)?;
        plain.finish()?;
        self.scrapes(&observed)?;
        observed.subject.finish()
    }

    /// Pods of the one and of the other, in turns; which of them comes first changes too.
    fn observed_starts(&mut self, plain: &Subject, observed: &Observed) -> Result<()> {
        let request = k8s_cri::v1::GetEventsRequest {};
        let cri = &observed.subject.cri;
        let events = cri.wait(cri.runtime().get_container_events(request));
        let mut events = events.context("GetContainerEvents")?;
        for subject in [plain, &observed.subject] {
            // The first pod makes bridge, table and parent cgroups.
            pods::remove(subject, &pods::run(subject, Network::Own)?)?;
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let listener = scope.spawn(|| {
                let mut heard = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    let next = events.message();
                    let next = cri.block_on(async { tokio::time::timeout(SCRAPES, next).await });
                    heard += u64::from(matches!(next, Ok(Ok(Some(_)))));
                }
                heard
            });
            let scraper = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    Scrape::take(observed.metrics)?;
                    pause(SCRAPES);
                }
                Ok::<_, anyhow::Error>(())
            });
            let measured = self.pairs(plain, &observed.subject);
            done.store(true, Ordering::Relaxed);
            let heard =
                listener.join().map_err(|_panic| anyhow::anyhow!("the listener panicked"))?;
            scraper.join().map_err(|_panic| anyhow::anyhow!("the scraper panicked"))??;
            measured?;
            ensure!(heard > 0, "no event was heard");
            Ok::<_, anyhow::Error>(())
        })?;
        // They go in batches, seconds apart.
        eventually(SENT, "a span is sent", || {
            Ok((!observed.collector.spans().is_empty()).then_some(()))
        })
    }

    fn pairs(&mut self, plain: &Subject, observed: &Subject) -> Result<()> {
        self.begin()?;
        for turn in 0..self.options.block * 2 {
            let start = |subject: &Subject| {
                let begun = Instant::now();
                let running = pods::run(subject, Network::Own)?;
                let took = millis(begun);
                pods::remove(subject, &running)?;
                Ok::<_, anyhow::Error>(took)
            };
            let (without, with) = if turn % 2 == 0 {
                let without = start(plain)?;
                (without, start(observed)?)
            } else {
                let with = start(observed)?;
                (start(plain)?, with)
            };
            self.add(plain, Metric::UnobservedStart, without);
            self.add(plain, Metric::ObservedStart, with);
            self.add(plain, Metric::ObservedShare, 100.0 * with / without);
        }
        Ok(())
    }

    /// A node as full as it can be, in the host's network.
    fn scrapes(&mut self, observed: &Observed) -> Result<()> {
        let (subject, count) = (&observed.subject, self.options.full);
        let running = in_flight(count, |_| pods::run(subject, Network::Host))?;
        pause(self.options.settle);
        self.begin()?;
        for _ in 0..LISTS {
            let begun = Instant::now();
            let scrape = Scrape::take(observed.metrics)?;
            self.add(subject, Metric::Scrape, millis(begun));
            let counted = scrape.value("davit_containers{state=\"running\"}")?;
            ensure!(counted.to_string() == count.to_string(), "{counted} containers of {count}");
        }
        in_flight(count, |index| {
            pods::remove(subject, running.get(index).context("a pod that was not started")?)
        })?;
        Ok(())
    }
}
