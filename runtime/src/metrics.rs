//! How long things take and how often they fail, for Prometheus and for traces.
//!
//! Owns the names, help texts and buckets of what the runtime measures of itself, and nothing that is a state: that is counted in
//! [`crate::counters`]. Every label is of a fixed set and resolved when this is made (those of an OCI runtime's handler at its first pod), so
//! that what is measured costs a few atomic operations and no look-up. Nothing here grows with time.
//!
//! A step of a pod's start is measured from `Step::begin` until what that gave is dropped; it is a span for whoever traces, and nothing to
//! others.

use prometheus::core::Collector;
use prometheus::{Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// In seconds: from a file that is written to a plugin that hangs until its deadline.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];
/// In seconds: from an image that is here already to one of many gigabytes.
const PULL_BUCKETS: [f64; 12] =
    [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];
/// The target of the steps' spans: at a level below every log line's, so that they are made for traces alone.
pub const STEPS: &str = "davit_steps";

/// What the runtime measures of itself.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) steps: Steps,
    seconds: HistogramVec,
    oci_seconds: HistogramVec,
    oci_errors: IntCounterVec,
    oci: Mutex<BTreeMap<String, Arc<OciCalls>>>,
    recovery: Gauge,
    pub(crate) pulls: Arc<Pulls>,
    pub(crate) cni: Arc<CniCalls>,
}

/// The steps of a pod's start, in their order.
#[derive(Debug)]
pub(crate) struct Steps {
    pub(crate) run_queue: Step,
    pub(crate) run_record: Step,
    pub(crate) run_cgroup: Step,
    pub(crate) run_shim: Step,
    pub(crate) run_network: Step,
    pub(crate) run_commit: Step,
    pub(crate) create_queue: Step,
    pub(crate) create_image: Step,
    pub(crate) create_spec: Step,
    pub(crate) create_rootfs: Step,
    pub(crate) create_runtime: Step,
    pub(crate) create_commit: Step,
    pub(crate) start_queue: Step,
    pub(crate) start_runtime: Step,
}

/// One step.
#[derive(Debug)]
pub(crate) struct Step {
    name: &'static str,
    seconds: Histogram,
}

/// A step under way: measured until it is dropped.
#[derive(Debug)]
pub(crate) struct Lap {
    seconds: Histogram,
    began: Instant,
    _span: tracing::Span,
}

/// One kind of call of something that davit does not own.
#[derive(Debug)]
pub(crate) struct Call {
    seconds: Histogram,
    errors: IntCounter,
}

/// The calls of a pod's shim that run the OCI runtime.
#[derive(Debug)]
pub(crate) struct OciCalls {
    pub(crate) create: Call,
    pub(crate) start: Call,
    pub(crate) delete: Call,
    pub(crate) update: Call,
    pub(crate) checkpoint: Call,
    pub(crate) restore: Call,
    pub(crate) pause: Call,
    pub(crate) resume: Call,
}

/// The calls of CNI plugins.
#[derive(Debug)]
pub(crate) struct CniCalls {
    all: (HistogramVec, IntCounterVec),
    pub(crate) add: Call,
    pub(crate) del: Call,
    pub(crate) status: Call,
    pub(crate) gc: Call,
}

/// The pulls of images.
#[derive(Debug)]
pub(crate) struct Pulls {
    seconds: Histogram,
    results: IntCounterVec,
    bytes: IntCounter,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = histograms(
            "davit_pod_start_step_duration_seconds",
            "How long each step of a pod's start took, failed ones included.",
            (&BUCKETS, &["operation", "step"]),
        );
        Self {
            steps: Steps::new(&seconds),
            seconds,
            oci_seconds: histograms(
                "davit_oci_runtime_call_duration_seconds",
                "How long a pod's shim took to run the OCI runtime, failures included.",
                (&BUCKETS, &["handler", "operation"]),
            ),
            oci_errors: counters(
                "davit_oci_runtime_call_errors_total",
                "Runs of the OCI runtime that failed.",
                &["handler", "operation"],
            ),
            oci: Mutex::default(),
            recovery: gauge(
                "davit_recovery_duration_seconds",
                "How long the last start took to take up what was there.",
            ),
            pulls: Arc::default(),
            cni: Arc::default(),
        }
    }
}

impl Metrics {
    /// Everything, to be registered.
    #[must_use]
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let Self { steps: _, seconds, oci_seconds, oci_errors, oci: _, recovery, pulls, cni } =
            self;
        let (cni_seconds, cni_errors) = &cni.all;
        vec![
            Box::new(seconds.clone()),
            Box::new(oci_seconds.clone()),
            Box::new(oci_errors.clone()),
            Box::new(recovery.clone()),
            Box::new(pulls.seconds.clone()),
            Box::new(pulls.results.clone()),
            Box::new(pulls.bytes.clone()),
            Box::new(cni_seconds.clone()),
            Box::new(cni_errors.clone()),
        ]
    }

    /// The calls of this handler's OCI runtime. Handlers are those of the configuration and of the records, so they are few.
    pub(crate) fn oci(&self, handler: &str) -> Arc<OciCalls> {
        let mut known = self.oci.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            let call =
                |operation| Call::of((&self.oci_seconds, &self.oci_errors), &[handler, operation]);
            Arc::new(OciCalls {
                create: call("create"),
                start: call("start"),
                delete: call("delete"),
                update: call("update"),
                checkpoint: call("checkpoint"),
                restore: call("restore"),
                pause: call("pause"),
                resume: call("resume"),
            })
        };
        Arc::clone(known.entry(handler.to_owned()).or_insert_with(made))
    }

    /// What was there is taken up.
    pub(crate) fn recovered(&self, took: Duration) {
        self.recovery.set(took.as_secs_f64());
    }
}

impl Steps {
    fn new(seconds: &HistogramVec) -> Self {
        let of = |operation: &str, step: &'static str| Step {
            name: step,
            seconds: seconds.with_label_values(&[operation, step]),
        };
        let (run, create, start) = ("RunPodSandbox", "CreateContainer", "StartContainer");
        Self {
            run_queue: of(run, "queue"),
            run_record: of(run, "record"),
            run_cgroup: of(run, "cgroup"),
            run_shim: of(run, "shim"),
            run_network: of(run, "network"),
            run_commit: of(run, "commit"),
            create_queue: of(create, "queue"),
            create_image: of(create, "image"),
            create_spec: of(create, "spec"),
            create_rootfs: of(create, "rootfs"),
            create_runtime: of(create, "runtime"),
            create_commit: of(create, "commit"),
            start_queue: of(start, "queue"),
            start_runtime: of(start, "runtime"),
        }
    }
}

impl Step {
    /// It begins now, for whoever is being served here.
    pub(crate) fn begin(&self) -> Lap {
        Lap {
            seconds: self.seconds.clone(),
            began: Instant::now(),
            _span: tracing::trace_span!(target: STEPS, "step", otel.name = self.name),
        }
    }
}

impl Drop for Lap {
    fn drop(&mut self) {
        self.seconds.observe(self.began.elapsed().as_secs_f64());
    }
}

impl Call {
    fn of((seconds, errors): (&HistogramVec, &IntCounterVec), labels: &[&str]) -> Self {
        Self {
            seconds: seconds.with_label_values(labels),
            errors: errors.with_label_values(labels),
        }
    }

    /// Measures `call`. One that is dropped on its way was not a call.
    pub(crate) async fn measure<T, E>(
        &self,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let began = Instant::now();
        let result = call.await;
        self.seconds.observe(began.elapsed().as_secs_f64());
        if result.is_err() {
            self.errors.inc();
        }
        result
    }
}

impl Default for CniCalls {
    fn default() -> Self {
        let seconds = histograms(
            "davit_cni_call_duration_seconds",
            "How long a CNI plugin took, failures included.",
            (&BUCKETS, &["operation"]),
        );
        let errors = counters(
            "davit_cni_call_errors_total",
            "Calls of CNI plugins that failed.",
            &["operation"],
        );
        let call = |operation| Call::of((&seconds, &errors), &[operation]);
        Self {
            add: call("add"),
            del: call("del"),
            status: call("status"),
            gc: call("gc"),
            all: (seconds, errors),
        }
    }
}

impl Default for Pulls {
    fn default() -> Self {
        let results = counters("davit_image_pulls_total", "Pulls that have ended.", &["result"]);
        for result in ["ok", "error"] {
            // Shown from the start, so that a rate has something to begin with.
            drop(results.with_label_values(&[result]));
        }
        let seconds = histograms(
            "davit_image_pull_duration_seconds",
            "How long pulls took that succeeded, those with nothing to fetch included.",
            (&PULL_BUCKETS, &[]),
        );
        let bytes = counters(
            "davit_image_pull_bytes_total",
            "Bytes of layers that registries have sent, compressed as they were.",
            &[],
        );
        Self {
            seconds: seconds.with_label_values::<&str>(&[]),
            results,
            bytes: bytes.with_label_values::<&str>(&[]),
        }
    }
}

impl Pulls {
    /// A registry has sent so much of a layer.
    pub(crate) fn received(&self, bytes: usize) {
        self.bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// A pull has ended that took so long.
    pub(crate) fn ended<T, E>(&self, took: Duration, result: &Result<T, E>) {
        let name = match result {
            Ok(_) => {
                self.seconds.observe(took.as_secs_f64());
                "ok"
            }
            Err(_) => "error",
        };
        self.results.with_label_values(&[name]).inc();
    }
}

#[expect(clippy::expect_used, reason = "the names are constants, and every test makes them all")]
fn histograms(name: &str, help: &str, (buckets, labels): (&[f64], &[&str])) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    HistogramVec::new(options, labels).expect("a name as Prometheus has them")
}

#[expect(clippy::expect_used, reason = "the names are constants, and every test makes them all")]
fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("a name as Prometheus has them")
}

#[expect(clippy::expect_used, reason = "the names are constants, and every test makes them all")]
fn gauge(name: &str, help: &str) -> Gauge {
    Gauge::new(name, help).expect("a name as Prometheus has them")
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Registry, TextEncoder};

    fn shown(metrics: &Metrics) -> String {
        let registry = Registry::new();
        for collector in metrics.collectors() {
            registry.register(collector).unwrap();
        }
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    #[tokio::test]
    async fn what_is_measured_is_shown_under_its_labels() {
        let metrics = Metrics::default();
        drop(metrics.steps.run_network.begin());
        metrics.oci("crun").create.measure(async { Err::<(), _>("no") }).await.unwrap_err();
        metrics.oci("crun").start.measure(async { Ok::<_, ()>(1) }).await.unwrap();
        metrics.pulls.received(17);
        metrics.pulls.ended(Duration::from_secs(2), &Ok::<_, ()>(()));
        metrics.recovered(Duration::from_millis(500));
        let text = shown(&metrics);
        for line in [
            r#"davit_pod_start_step_duration_seconds_count{operation="RunPodSandbox",step="network"} 1"#,
            r#"davit_pod_start_step_duration_seconds_count{operation="StartContainer",step="runtime"} 0"#,
            r#"davit_oci_runtime_call_duration_seconds_count{handler="crun",operation="create"} 1"#,
            r#"davit_oci_runtime_call_errors_total{handler="crun",operation="create"} 1"#,
            r#"davit_oci_runtime_call_errors_total{handler="crun",operation="start"} 0"#,
            r#"davit_cni_call_duration_seconds_count{operation="add"} 0"#,
            "davit_image_pull_bytes_total 17",
            r#"davit_image_pulls_total{result="ok"} 1"#,
            r#"davit_image_pulls_total{result="error"} 0"#,
            "davit_image_pull_duration_seconds_sum 2",
            "davit_recovery_duration_seconds 0.5",
        ] {
            assert!(text.contains(line), "{line} is missing from {text}");
        }
    }

    #[test]
    fn a_handlers_calls_are_made_once() {
        let metrics = Metrics::default();
        assert!(Arc::ptr_eq(&metrics.oci("runc"), &metrics.oci("runc")));
    }

    #[test]
    fn a_handler_of_any_name_comes_out_escaped() {
        let metrics = Metrics::default();
        metrics.oci("a\"b\nc\\d");
        let text = shown(&metrics);
        assert!(text.contains(r#"handler="a\"b\nc\\d""#), "{text}");
    }
}
