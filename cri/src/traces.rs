//! Traces: spans of calls and of the steps of a pod's start, sent to a collector by OTLP over gRPC.
//!
//! Off unless the configuration names a collector; then nothing here is made but spans that are disabled at their callsites. Owns what is
//! traced: a call ([`call`]), joined to its caller's trace by `traceparent`, and below it the runtime's steps
//! ([`davit_runtime::metrics::STEPS`]). Their spans have a target and a level of their own, so that the log shows none of them, whatever its level
//! is, and so that no log line gets into a trace.
//!
//! Spans that have ended wait in a queue of a fixed length for a thread of the exporter's. A collector that is away, slow or dead costs the
//! spans that do not fit, and nobody's time.

use davit_runtime::metrics::STEPS;
use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};
use std::time::Duration;
use tonic::Code;
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::registry::LookupSpan;

/// Spans that wait to be sent, some hundred bytes each: those of a hundred pods.
const QUEUE: usize = 2048;
/// How long a collector may take for one message.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the last spans get to be sent when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(2);
const NAME: &str = "davit";

/// Where spans are made into traces; ended by [`Traces::end`].
#[derive(Debug)]
pub(crate) struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// To `collector`, a URL; `share` of the calls whose caller doesn't say. To be called inside the executor. Nothing is connected to yet.
    ///
    /// # Errors
    /// The library's, for what is no URL.
    pub(crate) fn start(collector: &str, share: f64) -> anyhow::Result<Self> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(collector)
            .with_timeout(PATIENCE)
            .build()?;
        let batches = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let version = opentelemetry::KeyValue::new("service.version", crate::VERSION);
        let resource = Resource::builder().with_service_name(NAME).with_attribute(version).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))))
            .with_resource(resource)
            .build();
        Ok(Self { provider })
    }

    /// What makes traces of the spans of this module, and of nothing else.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let layer: OpenTelemetryLayer<S, SdkTracer> =
            tracing_opentelemetry::layer().with_tracer(self.provider.tracer(NAME));
        let ours = |metadata: &Metadata<'_>| metadata.is_span() && metadata.target() == STEPS;
        layer
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(ours).and(LevelFilter::TRACE))
    }

    /// Sends what waits, as far as the collector takes it in time.
    pub(crate) fn end(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FAREWELL) {
            tracing::debug!(%error, "the last traces were not sent");
        }
    }
}

/// The span of a call, in its caller's trace if it has one. Disabled if nobody traces.
pub(crate) fn call(
    line: &tracing::Span,
    method: &'static str,
    headers: &HeaderMap,
) -> tracing::Span {
    let span = tracing::trace_span!(
        target: STEPS,
        parent: line,
        "rpc",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        rpc.system = "grpc",
        rpc.method = method,
        rpc.grpc.status_code = tracing::field::Empty,
    );
    if !span.is_disabled() {
        let caller = TraceContextPropagator::new().extract(&Headers(headers));
        // It fails only for a span that nobody traces.
        drop(span.set_parent(caller));
    }
    span
}

/// Notes how a call has ended.
pub(crate) fn ended(span: &tracing::Span, code: Code) {
    if span.is_disabled() {
        return;
    }
    span.record("rpc.grpc.status_code", i32::from(code));
    if code != Code::Ok {
        span.record("otel.status_code", "ERROR");
    }
}

/// Headers, as the library reads them.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
