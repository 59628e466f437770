//! The way of a trace from process to process: W3C Trace Context, <https://www.w3.org/TR/trace-context/>.

use std::collections::HashMap;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
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
    let context = TraceContextPropagator::new().extract(&Headers(header));
    // A span that nobody traces has no place in a trace.
    let _ = span.set_parent(context);
}

/// Leaves a span out of its trace: what it tells turned out to be nothing. Spans inside it must be left out as well.
pub fn leave_out(span: &Span) {
    span.set_attribute(LEFT_OUT, true);
}

/// Looks headers up by their names.
struct Headers<F>(F);

impl<'a, F: Fn(&str) -> Option<&'a str>> Extractor for Headers<F> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0(key)
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}
