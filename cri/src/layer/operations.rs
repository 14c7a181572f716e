//! How many calls there were, how they ended and how long they took, by method, for Prometheus.
//!
//! Each method's counters are looked up once, at its first call, and each of its codes likewise: from then on a call costs a few atomic
//! operations. What was never called takes no room in a scrape.

use super::{Concern, Held, Method};
use http::HeaderMap;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tonic::{Code, Status};

/// In seconds: from a list that is read from memory to an image that is pulled.
const BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
    300.0,
];
/// gRPC's codes, from 0 to 16.
const CODES: usize = 17;

/// The operations' counters.
#[derive(Debug, Clone)]
pub(crate) struct Operations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    total: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGaugeVec,
    methods: [OnceLock<OfMethod>; Method::COUNT],
}

/// One method's.
#[derive(Debug)]
struct OfMethod {
    total: [OnceLock<IntCounter>; CODES],
    seconds: Histogram,
    in_flight: IntGauge,
}

impl Operations {
    /// New counters, shown by `registry`, of a daemon that answers `most` calls at once.
    ///
    /// # Errors
    /// The library's, if the registry has metrics of these names already.
    pub(crate) fn new(registry: &Registry, most: usize) -> prometheus::Result<Self> {
        let limit = IntGauge::new("davit_rpc_limit", "How many calls are answered at once.")?;
        limit.set(i64::try_from(most).unwrap_or(i64::MAX));
        registry.register(Box::new(limit))?;
        let inner = Inner {
            total: IntCounterVec::new(
                Opts::new("davit_rpcs_total", "Calls that have ended, by their gRPC code."),
                &["method", "code"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new(
                    "davit_rpc_duration_seconds",
                    "How long calls took, those left out that last for as long as their caller likes.",
                )
                .buckets(BUCKETS.to_vec()),
                &["method"],
            )?,
            in_flight: IntGaugeVec::new(
                Opts::new("davit_rpcs_in_flight", "Calls under way."),
                &["method"],
            )?,
            methods: [const { OnceLock::new() }; Method::COUNT],
        };
        registry.register(Box::new(inner.total.clone()))?;
        registry.register(Box::new(inner.seconds.clone()))?;
        registry.register(Box::new(inner.in_flight.clone()))?;
        Ok(Self(Arc::new(inner)))
    }
}

impl Inner {
    fn of(&self, method: Method) -> Option<&OfMethod> {
        let made = || OfMethod {
            total: [const { OnceLock::new() }; CODES],
            seconds: self.seconds.with_label_values(&[method.name]),
            in_flight: self.in_flight.with_label_values(&[method.name]),
        };
        self.methods.get(method.at).map(|cell| cell.get_or_init(made))
    }

    fn ended(&self, method: Method, code: Code, began: Instant) {
        let Some(counters) = self.of(method) else { return };
        counters.in_flight.dec();
        let cell = usize::try_from(i32::from(code)).ok().and_then(|at| counters.total.get(at));
        if let Some(cell) = cell {
            let made = || self.total.with_label_values(&[method.name, &format!("{code:?}")]);
            cell.get_or_init(made).inc();
        }
        // How long an endless call lasts says nothing about davit.
        if !method.endless {
            counters.seconds.observe(began.elapsed().as_secs_f64());
        }
    }
}

/// One call's share of the counters.
#[derive(Debug)]
pub(crate) struct Operation {
    counters: Operations,
    method: Method,
    began: Instant,
}

impl Concern for Operations {
    type Held = Operation;

    fn begin(&self, method: Method, _: &HeaderMap) -> Result<Operation, Box<Status>> {
        if let Some(counters) = self.0.of(method) {
            counters.in_flight.inc();
        }
        Ok(Operation { counters: self.clone(), method, began: Instant::now() })
    }
}

impl Held for Operation {
    fn end(&mut self, code: Code) {
        self.counters.0.ended(self.method, code, self.began);
    }
}
