//! What the daemon serves once its runtime is open.

use crate::metrics::CountersSource;
use crate::streaming::Server;
use davit_proto::admin::davit_server::{Davit, DavitServer};
use davit_proto::cri::image_service_server::{ImageService, ImageServiceServer};
use davit_proto::cri::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use prometheus::core::Collector;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;
use tower::util::BoxCloneService;

/// The longest message, both ways: what the kubelet's client takes.
pub(crate) const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Answers every call, of whichever service.
pub(crate) type Routes = BoxCloneService<Request<Incoming>, Response<Body>, Infallible>;

/// What is to be registered, besides the counters.
pub(crate) type Collectors = Arc<dyn Fn() -> Vec<Box<dyn Collector>> + Send + Sync>;

/// Work that is done once more before the end.
pub(crate) type Flush = Arc<dyn Fn() -> BoxFuture<'static, std::io::Result<()>> + Send + Sync>;

/// The implementations of the three services.
#[derive(Debug)]
pub(crate) struct Services<R, I, D> {
    /// CRI's RuntimeService.
    pub(crate) runtime: R,
    /// CRI's ImageService.
    pub(crate) image: I,
    /// davit's own.
    pub(crate) davit: D,
}

impl<R: RuntimeService, I: ImageService, D: Davit> Services<R, I, D> {
    /// All three, on every listener.
    pub(crate) fn routes(self) -> Routes {
        BoxCloneService::new(Router {
            runtime: RuntimeServiceServer::new(self.runtime)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
            image: ImageServiceServer::new(self.image)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
            davit: DavitServer::new(self.davit)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
        })
    }
}

/// Sends a call to the service that its path names. tonic's own router would bring a web framework for three names.
struct Router<R, I, D> {
    runtime: RuntimeServiceServer<R>,
    image: ImageServiceServer<I>,
    davit: DavitServer<D>,
}

impl<R, I, D> Clone for Router<R, I, D> {
    fn clone(&self) -> Self {
        Self { runtime: self.runtime.clone(), image: self.image.clone(), davit: self.davit.clone() }
    }
}

impl<R: RuntimeService, I: ImageService, D: Davit> Service<Request<Incoming>> for Router<R, I, D> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = tonic::codegen::BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The generated servers always are.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let service = path.strip_prefix('/').and_then(|path| path.split('/').next());
        match service {
            Some(RuntimeServiceServer::<R>::NAME) => self.runtime.call(request),
            Some(ImageServiceServer::<I>::NAME) => self.image.call(request),
            Some(DavitServer::<D>::NAME) => self.davit.call(request),
            Some(_) | None => Box::pin(async move {
                Ok(Status::unimplemented(format!("{path} is not served")).into_http())
            }),
        }
    }
}

/// An open runtime, as far as the daemon's life is concerned.
pub(crate) struct Opened {
    /// The services ([`Services::routes`]).
    pub(crate) routes: Routes,
    /// What stands behind the URLs of Exec, Attach and PortForward.
    pub(crate) streams: Server,
    /// The status counters.
    pub(crate) counters: CountersSource,
    /// What the runtime measures of itself.
    pub(crate) collectors: Collectors,
    /// Every pod and container as JSON, for the log.
    pub(crate) state: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Brings the images to disk.
    pub(crate) flush: Flush,
    /// Lines for the log: which OCI runtimes were found, and why the default one is the default.
    pub(crate) announcement: Vec<String>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("announcement", &self.announcement).finish_non_exhaustive()
    }
}
