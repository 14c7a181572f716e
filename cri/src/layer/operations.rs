//! How many calls there were, how they ended and how long they took, by method, for Prometheus.

use super::{Concern, Held, Method};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};
use std::time::Instant;
use tonic::{Code, Status};

/// In seconds: from a list that is read from memory to an image that is pulled.
const BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
    300.0,
];

/// The operations' counters.
#[derive(Debug, Clone)]
pub(crate) struct Operations {
    total: IntCounterVec,
    errors: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGaugeVec,
}

impl Operations {
    /// New counters, shown by `registry`.
    ///
    /// # Errors
    /// The library's, if the registry has metrics of these names already.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter =
            |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let method = ["method"];
        let this = Self {
            total: counter("davit_cri_operations_total", "Calls that have ended.", &method)?,
            errors: counter(
                "davit_cri_operations_errors_total",
                "Calls that have ended with an error, by its gRPC code.",
                &["method", "code"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new("davit_cri_operations_seconds", "How long calls took.")
                    .buckets(BUCKETS.to_vec()),
                &method,
            )?,
            in_flight: IntGaugeVec::new(
                Opts::new("davit_cri_operations_in_flight", "Calls under way."),
                &method,
            )?,
        };
        registry.register(Box::new(this.total.clone()))?;
        registry.register(Box::new(this.errors.clone()))?;
        registry.register(Box::new(this.seconds.clone()))?;
        registry.register(Box::new(this.in_flight.clone()))?;
        Ok(this)
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

    fn begin(&self, method: Method) -> Result<Operation, Box<Status>> {
        self.in_flight.with_label_values(&[method.name]).inc();
        Ok(Operation { counters: self.clone(), method, began: Instant::now() })
    }
}

impl Held for Operation {
    fn end(&mut self, code: Code) {
        let name = self.method.name;
        self.counters.in_flight.with_label_values(&[name]).dec();
        self.counters.total.with_label_values(&[name]).inc();
        if code != Code::Ok {
            let code = format!("{code:?}");
            self.counters.errors.with_label_values(&[name, code.as_str()]).inc();
        }
        // How long an endless call lasts says nothing about davit.
        if !self.method.endless {
            self.counters
                .seconds
                .with_label_values(&[name])
                .observe(self.began.elapsed().as_secs_f64());
        }
    }
}
