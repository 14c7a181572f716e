//! A number for each call, the span that its log lines are in, and one line when it has ended.
//!
//! Whoever traces sees another span: one that is joined to the caller's trace, and that the log does not show ([`traces`]).

use super::{Concern, Held, Method};
use crate::traces;
use http::HeaderMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tonic::{Code, Status};

/// Numbers calls from 1, for the life of the daemon.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests {
    last: Arc<AtomicU64>,
}

/// One call's spans and start.
#[derive(Debug)]
pub(crate) struct Request {
    span: tracing::Span,
    trace: tracing::Span,
    began: Instant,
}

impl Concern for Requests {
    type Held = Request;

    fn begin(&self, method: Method, headers: &HeaderMap) -> Result<Request, Box<Status>> {
        let id = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        // At the level of the lines that are wanted whenever any are, so that a warning tells which call it is from.
        let span = tracing::error_span!("call", id, method = method.name);
        let trace = traces::call(&span, method.name, headers);
        Ok(Request { span, trace, began: Instant::now() })
    }
}

impl Held for Request {
    fn end(&mut self, code: Code) {
        let took = self.began.elapsed();
        self.span.in_scope(|| tracing::debug!(?code, ?took, "answered"));
        traces::ended(&self.trace, code);
    }

    fn span(&self) -> tracing::Span {
        if self.trace.is_disabled() { self.span.clone() } else { self.trace.clone() }
    }
}
