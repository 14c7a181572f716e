//! A collector of traces of a test's own: OTLP over gRPC, on loopback.
//!
//! Owns what was sent, in the order it came. Its messages are those of OpenTelemetry's own definitions.

use crate::cri::Cri;
use anyhow::{Context, Result};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::{Request, Response, Status};

/// See the module. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Collector {
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// One that listens at `address`, on the executor of `cri` and for as long as that is there.
    ///
    /// # Errors
    /// If the address can't be had.
    pub fn start(cri: &Cri, address: SocketAddr) -> Result<Self> {
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        let listener = cri.block_on(tokio::net::TcpListener::bind(address));
        let listener = listener.with_context(|| format!("listen on {address}"))?;
        cri.block_on(async {
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let service = TowerToHyperService::new(service.clone());
                    let connection = http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::spawn(connection);
                }
            });
        });
        Ok(collector)
    }

    /// All spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.iter().cloned()).collect()
    }

    /// The attributes that say who sent them, as `name=value`.
    #[must_use]
    pub fn senders(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let attributes =
            resources.filter_map(|one| one.resource.as_ref()).flat_map(|one| &one.attributes);
        let text = |value: Option<&opentelemetry_proto::tonic::common::v1::AnyValue>| {
            use opentelemetry_proto::tonic::common::v1::any_value::Value;
            match value.and_then(|value| value.value.as_ref()) {
                Some(Value::StringValue(text)) => text.clone(),
                other => format!("{other:?}"),
            }
        };
        attributes.map(|one| format!("{}={}", one.key, text(one.value.as_ref()))).collect()
    }
}
