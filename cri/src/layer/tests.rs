use super::*;
use http_body_util::BodyExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower::{ServiceBuilder, ServiceExt};

/// Notes how calls ended.
#[derive(Debug, Clone, Default)]
struct Notes(Arc<Mutex<Vec<(&'static str, Code)>>>);

struct Note(Notes, &'static str);

impl Concern for Notes {
    type Held = Note;

    fn begin(&self, method: Method, _: &HeaderMap) -> Result<Note, Box<Status>> {
        Ok(Note(self.clone(), method.name))
    }
}

impl Held for Note {
    fn end(&mut self, code: Code) {
        self.0.0.lock().unwrap().push((self.1, code));
    }
}

impl Notes {
    fn taken(&self) -> Vec<(&'static str, Code)> {
        self.0.lock().unwrap().clone()
    }
}

fn request(path: &str) -> Request<Body> {
    Request::builder().uri(path).body(Body::empty()).unwrap()
}

/// Answers with this body.
fn answering(
    body: impl Fn() -> Body + Clone + Send + 'static,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
+ Clone {
    tower::service_fn(move |_: Request<Body>| {
        let body = body();
        async move { Ok(Response::new(body)) }
    })
}

fn trailers(code: &'static str) -> Body {
    let mut map = http::HeaderMap::new();
    map.insert("grpc-status", http::HeaderValue::from_static(code));
    let frames = futures_util::stream::iter([
        Ok::<_, Status>(hyper::body::Frame::data(bytes::Bytes::from_static(b"x"))),
        Ok(hyper::body::Frame::trailers(map)),
    ]);
    Body::new(http_body_util::StreamBody::new(frames))
}

#[tokio::test]
async fn a_call_ends_with_the_status_in_its_trailers() {
    for (sent, code) in [("0", Code::Ok), ("5", Code::NotFound)] {
        let notes = Notes::default();
        let service = through(notes.clone()).layer(answering(move || trailers(sent)));
        let answer = service.oneshot(request("/x/Version")).await.unwrap();
        assert_eq!(notes.taken(), [], "a body that is not read yet has not ended");
        answer.into_body().collect().await.unwrap();
        assert_eq!(notes.taken(), [("Version", code)]);
    }
}

#[tokio::test]
async fn a_refusal_ends_with_its_head() {
    let notes = Notes::default();
    let refusing = tower::service_fn(|_: Request<Body>| async {
        Ok(Status::invalid_argument("no").into_http::<Body>())
    });
    let service = through(notes.clone()).layer(refusing);
    let _answer = service.oneshot(request("/x/Status")).await.unwrap();
    assert_eq!(notes.taken(), [("Status", Code::InvalidArgument)]);
}

#[tokio::test]
async fn a_call_whose_caller_goes_away_ends_cancelled() {
    let notes = Notes::default();
    let hanging = tower::service_fn(|_: Request<Body>| {
        std::future::pending::<Result<Response<Body>, Infallible>>()
    });
    let service = through(notes.clone()).layer(hanging);
    let call = service.oneshot(request("/x/ExecSync"));
    assert!(tokio::time::timeout(Duration::from_millis(10), call).await.is_err());
    assert_eq!(notes.taken(), [("ExecSync", Code::Cancelled)]);
}

#[tokio::test]
async fn more_calls_than_the_bound_are_refused_and_not_queued() {
    let service =
        ServiceBuilder::new().layer(through(Bound::new(1))).service(answering(|| trailers("0")));
    let first = service.clone().oneshot(request("/x/Version")).await.unwrap();
    let second = service.clone().oneshot(request("/x/Version")).await.unwrap();
    let refused = Status::from_header_map(second.headers()).unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    first.into_body().collect().await.unwrap();
    let third = service.oneshot(request("/x/Version")).await.unwrap();
    assert!(Status::from_header_map(third.headers()).is_none());
}

#[tokio::test]
async fn a_stopping_daemon_waits_for_calls_and_takes_none() {
    let calls = InFlight::default();
    let service =
        ServiceBuilder::new().layer(through(calls.clone())).service(answering(|| trailers("0")));
    let running = service.clone().oneshot(request("/x/RunPodSandbox")).await.unwrap();
    let endless = service.clone().oneshot(request("/x/GetContainerEvents")).await.unwrap();
    assert_eq!(calls.len(), 1, "an endless call is not waited for");
    calls.stop();
    let late = service.oneshot(request("/x/RunPodSandbox")).await.unwrap();
    assert_eq!(Status::from_header_map(late.headers()).unwrap().code(), Code::Unavailable);
    let waiting = tokio::time::timeout(Duration::from_millis(10), calls.drained()).await;
    assert!(waiting.is_err(), "a call is still under way");
    running.into_body().collect().await.unwrap();
    calls.drained().await;
    drop(endless);
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    let registry = prometheus::Registry::new();
    let operations = Operations::new(&registry, 7).unwrap();
    let service =
        ServiceBuilder::new().layer(through(operations)).service(answering(|| trailers("5")));
    for path in ["/x/RemoveImage", "/x/RemoveImage", "/x/GetContainerEvents", "/x/\"made\nup\""] {
        let Ok(request) =
            Request::builder().uri(path.replace(['"', '\n'], "-")).body(Body::empty())
        else {
            panic!("{path}");
        };
        let answer = service.clone().oneshot(request).await.unwrap();
        answer.into_body().collect().await.unwrap();
    }
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    for line in [
        "davit_rpc_limit 7",
        "davit_rpcs_total{code=\"NotFound\",method=\"RemoveImage\"} 2",
        "davit_rpc_duration_seconds_count{method=\"RemoveImage\"} 2",
        "davit_rpcs_in_flight{method=\"RemoveImage\"} 0",
        "davit_rpcs_total{code=\"NotFound\",method=\"GetContainerEvents\"} 1",
        "davit_rpcs_total{code=\"NotFound\",method=\"other\"} 1",
    ] {
        assert!(text.contains(line), "{line} is missing from {text}");
    }
    assert!(!text.contains("made"), "a caller cannot make up a label: {text}");
    let endless = "davit_rpc_duration_seconds_count{method=\"GetContainerEvents\"} 0";
    assert!(text.contains(endless), "how long an endless call lasts is not measured: {text}");
}
