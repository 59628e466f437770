//! Spans of calls: each call of a member or of the command line is one, in the trace that the caller says it is part of.
//!
//! docs/reference/logs-and-traces.md names them and their attributes.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use quern_machine::{Call, Event};
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span, info_span};

use crate::access::SERVICE;

/// Answers a call within its span. What is no call of the service passes as it is.
pub(crate) async fn traced(request: Request, next: Next) -> Response {
    let Some(call) = request.uri().path().strip_prefix(SERVICE) else { return next.run(request).await };
    let span = span(call);
    quern_telemetry::continue_trace(&span, |name| request.headers().get(name)?.to_str().ok());
    let response = next.run(request).instrument(span.clone()).await;
    // A call that is refused has its code in the headers already; one that is answered, behind the answer.
    if let Some(code) = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()) {
        span.record("rpc.grpc.status_code", code);
        span.record("otel.status_code", if code == "0" { "OK" } else { "ERROR" });
    }
    response
}

/// What comes every few seconds from everybody is only there at DEBUG.
fn span(call: &str) -> Span {
    macro_rules! call_span {
        ($span:ident) => {
            $span!(
                "call",
                otel.name = call,
                otel.kind = "server",
                otel.status_code = Empty,
                rpc.system = "grpc",
                rpc.service = "quern.v1.Coordinator",
                rpc.method = call,
                rpc.grpc.status_code = Empty,
            )
        };
    }
    match call {
        "Heartbeat" | "ReportSteps" => call_span!(debug_span),
        _ => call_span!(info_span),
    }
}

/// The span of the call that a batch's append to the journal is shown in. A call that brings something comes before one
/// that only asks for work, which may turn out to be nothing.
pub(crate) fn first(events: &[Event], spans: &[Span]) -> Span {
    let asks = |event: &Event| matches!(event, Event::Call { call: Call::Lease | Call::Heartbeat { .. }, .. });
    let traced = events.iter().zip(spans).filter(|(_, span)| !span.is_disabled());
    traced.min_by_key(|(event, _)| asks(event)).map_or_else(Span::none, |(_, span)| span.clone())
}
