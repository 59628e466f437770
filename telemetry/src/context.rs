//! The way of a trace from process to process: W3C Trace Context, <https://www.w3.org/TR/trace-context/>.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The attribute of spans that are not sent.
pub(crate) const LEFT_OUT: &str = "quern.left_out";

/// The headers (`traceparent`, `tracestate`) of a call that is made in the current span; none outside of a trace.
pub fn outgoing() -> HashMap<String, String> {
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut headers);
    headers
}

/// Makes `span`, which nobody has entered yet, part of the trace that a call's headers name.
pub fn continue_trace<'a>(span: &Span, header: impl Fn(&str) -> Option<&'a str>) {
    let headers = ["traceparent", "tracestate"].into_iter();
    let headers: HashMap<String, String> =
        headers.filter_map(|name| Some((name.to_owned(), header(name)?.to_owned()))).collect();
    let context = TraceContextPropagator::new().extract(&headers);
    // A span that nobody traces has no place in a trace.
    let _ = span.set_parent(context);
}

/// Gives a span, which has a field `otel.name`, the name that became known after it began.
pub fn rename(span: &Span, name: &'static str) {
    span.record("otel.name", name);
    span.context().span().update_name(name);
}

/// Leaves a span out of its trace: what it tells turned out to be nothing. Spans inside it must be left out as well.
pub fn leave_out(span: &Span) {
    span.set_attribute(LEFT_OUT, true);
}
