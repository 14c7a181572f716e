//! Traces: a span for each call and each step, in the caller's trace; and a collector that is no use harms nobody.

use davit_e2e::collector::Collector;
use davit_e2e::prelude::*;
use k8s_cri::v1::{RunPodSandboxRequest, VersionRequest};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;
use tonic::Request;

const WITHIN: Duration = Duration::from_secs(30);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A daemon that traces what its callers want to have traced, and nothing else.
fn traced(settings: &mut Settings) -> Result<()> {
    let port = free_port()?;
    settings.tables = format!("[tracing]\nendpoint = \"http://127.0.0.1:{port}\"\nsampling = 0\n");
    Ok(())
}

fn endpoint(t: &Test) -> Result<SocketAddr> {
    let tables = t.settings().tables;
    let rest = tables.split("http://").nth(1).context("an endpoint")?;
    Ok(rest.split('"').next().unwrap_or_default().parse()?)
}

fn named<'a>(spans: &'a [Span], name: &str) -> Result<&'a Span> {
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    let found = spans.iter().find(|span| span.name == name);
    found.with_context(|| format!("{name} is not among {names:?}"))
}

fn traceparent<T>(message: T, flags: &str) -> Result<Request<T>> {
    let mut request = Request::new(message);
    let value = format!("00-{TRACE}-{CALLER}-{flags}").parse()?;
    request.metadata_mut().insert("traceparent", value);
    Ok(request)
}

on_both!(a_pods_start_is_a_span_for_each_step_in_its_callers_trace, setup: traced, |t| {
    let collector = Collector::start(&t.cri, endpoint(t)?)?;
    t.pull("davit-test/busybox:latest")?;
    let config = t.pod_config("web");
    std::fs::create_dir_all(&config.log_directory)?;
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let request = traceparent(request, "01")?;
    let id = t.cri.wait(t.cri.runtime().run_pod_sandbox(request))?.pod_sandbox_id;
    t.watch(&id);
    let create = k8s_cri::v1::CreateContainerRequest {
        pod_sandbox_id: id,
        config: Some(t.container_config("c")),
        sandbox_config: Some(config),
    };
    let call = t.cri.runtime().create_container(traceparent(create, "01")?).await_on(t)?;
    let start = k8s_cri::v1::StartContainerRequest { container_id: call.container_id };
    t.cri.wait(t.cri.runtime().start_container(traceparent(start, "01")?))?;
    // Nobody wants these: one says so, the other says nothing, and the share of such is 0.
    t.cri.wait(t.cri.runtime().version(traceparent(VersionRequest::default(), "00")?))?;
    t.cri.list_images()?;
    let spans = eventually(WITHIN, "the spans are sent", || {
        let spans = collector.spans();
        Ok(named(&spans, "StartContainer").is_ok().then_some(spans))
    })?;
    for (operation, steps) in [
        ("RunPodSandbox", &["queue", "record", "cgroup", "shim", "network", "commit"][..]),
        ("CreateContainer", &["queue", "image", "spec", "rootfs", "runtime", "commit"]),
        ("StartContainer", &["queue", "runtime"]),
    ] {
        let call = named(&spans, operation)?;
        assert_eq!(hex::encode(&call.parent_span_id), CALLER, "{operation}");
        let below: Vec<Span> =
            spans.iter().filter(|span| span.parent_span_id == call.span_id).cloned().collect();
        for step in steps {
            let span = named(&below, step).with_context(|| format!("{operation}: {step}"))?;
            ensure!(span.start_time_unix_nano >= call.start_time_unix_nano, "{span:?}");
            ensure!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
        }
        assert_eq!(below.len(), steps.len(), "{operation}: {below:?}");
    }
    assert!(spans.iter().all(|span| hex::encode(&span.trace_id) == TRACE), "{spans:?}");
    assert!(named(&spans, "Version").is_err() && named(&spans, "ListImages").is_err());
    let senders = collector.senders();
    assert!(senders.contains(&"service.name=davit".to_owned()), "{senders:?}");
    Ok(())
});

/// One call's answer, for a request that is made up here.
trait Answer<T> {
    fn await_on(self, t: &Test) -> Result<T>;
}

impl<T, F: Future<Output = Result<tonic::Response<T>, tonic::Status>>> Answer<T> for F {
    fn await_on(self, t: &Test) -> Result<T> {
        Ok(t.cri.wait(self)?)
    }
}

fn everything(settings: &mut Settings) -> Result<()> {
    traced(settings)?;
    settings.tables = settings.tables.replace("sampling = 0", "sampling = 1");
    Ok(())
}

on_one!(a_refusal_is_told_as_one_and_calls_without_a_caller_are_sampled, setup: everything, |t| {
    let collector = Collector::start(&t.cri, endpoint(t)?)?;
    assert_eq!(t.cri.status("nobody").unwrap_err().code(), Code::NotFound);
    let spans = eventually(WITHIN, "the span is sent", || {
        let spans = collector.spans();
        Ok(named(&spans, "ContainerStatus").is_ok().then_some(spans))
    })?;
    let span = named(&spans, "ContainerStatus")?;
    assert!(span.parent_span_id.is_empty(), "{span:?}");
    // ERROR, by OpenTelemetry's definitions.
    assert_eq!(span.status.as_ref().map(|status| status.code), Some(2), "{span:?}");
    let code = span.attributes.iter().find(|one| one.key == "rpc.grpc.status_code");
    assert!(format!("{code:?}").contains('5'), "{code:?}");
    Ok(())
});

on_one!(a_collector_that_is_dead_or_silent_harms_nobody, setup: everything, |t| {
    // Nobody listens there.
    let (_, id) = t.sleeper(|_| ())?;
    assert_eq!(t.exec(&id, "echo well")?, "well");
    let began = Instant::now();
    t.daemon().stop()?;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // Somebody does, who never says a word.
    let silent = TcpListener::bind(endpoint(t)?)?;
    t.daemon().spawn()?;
    for _ in 0..3000 {
        t.cri.list_images()?;
    }
    assert_eq!(t.exec(&id, "echo well")?, "well");
    let began = Instant::now();
    t.daemon().stop()?;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(silent);
    t.daemon().spawn()?;
    Ok(())
});

on_one!(without_a_collector_nothing_is_traced, |t| {
    let request = traceparent(VersionRequest::default(), "01")?;
    t.cri.wait(t.cri.runtime().version(request))?;
    let pid = t.daemon().pid().context("a pid")?;
    let mut names = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        names.push(std::fs::read_to_string(task?.path().join("comm"))?);
    }
    // The exporter's thread would be called so.
    assert!(!names.iter().any(|name| name.starts_with("OpenTelemetry")), "{names:?}");
    Ok(())
});
