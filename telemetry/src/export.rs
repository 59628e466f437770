//! Traces on their way to a collector: OTLP over gRPC, as the standard variables of OpenTelemetry say
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).
//!
//! Spans wait in a bounded queue and are sent by threads of their own. Nothing here ever holds the work up: what doesn't
//! fit into the queue or can't be sent is dropped.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{RetryPolicy, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracer, SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::{Builder, Runtime};

use crate::Program;
use crate::context::LEFT_OUT;

/// How long a program that ends waits for its last spans to be taken.
const FAREWELL: Duration = Duration::from_secs(3);

/// The way to the collector, if there is one. What waits is sent when this is dropped.
#[must_use = "traces are sent as long as this lives"]
pub struct Traces {
    sending: Option<Sending>,
}

struct Sending {
    provider: SdkTracerProvider,
    /// Where the connection lives; the program's own runtime may end earlier.
    runtime: Runtime,
}

impl Traces {
    /// As the environment says: none unless it names an endpoint. If it asks for what can't be, a sentence says so.
    pub(crate) fn from_environment(program: Program) -> (Self, Option<String>) {
        let (sending, problem) = match endpoint().map(|endpoint| endpoint.map(|to| Sending::start(program, to))) {
            Ok(None) => (None, None),
            Ok(Some(Ok(sending))) => (Some(sending), None),
            Ok(Some(Err(problem))) | Err(problem) => (None, Some(format!("no traces are sent: {problem}"))),
        };
        (Traces { sending }, problem)
    }

    pub(crate) fn tracer(&self) -> Option<SdkTracer> {
        self.sending.as_ref().map(|sending| sending.provider.tracer("quern"))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(Sending { provider, runtime }) = self.sending.take() {
            // What went wrong has been said by the exporter.
            let _ = provider.shutdown_with_timeout(FAREWELL);
            runtime.shutdown_background();
        }
    }
}

impl Sending {
    fn start(program: Program, endpoint: String) -> Result<Self, String> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("traces").enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let entered = runtime.enter();
        let builder = opentelemetry_otlp::SpanExporter::builder().with_tonic();
        let mut builder = builder.with_retry_policy(RetryPolicy::disabled());
        if endpoint.starts_with("https:") {
            builder = builder.with_tls_config(tls()?);
        }
        let exporter = builder.build().map_err(|error| error.to_string())?;
        let outlet = Outlet { exporter, endpoint, is_said: AtomicBool::new(false) };
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(outlet).build())
            .with_resource(resource(program))
            .build();
        drop(entered);
        Ok(Sending { provider, runtime })
    }
}

/// Where traces go; none: nowhere.
fn endpoint() -> Result<Option<String>, String> {
    let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|word| word.eq_ignore_ascii_case("true"));
    let exporter = variable("OTEL_TRACES_EXPORTER").unwrap_or_else(|| "otlp".into());
    let either = |signal: &str, all: &str| variable(signal).or_else(|| variable(all));
    let endpoint = either("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT");
    let protocol = either("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL");
    let Some(endpoint) = endpoint.filter(|_| !is_disabled && exporter != "none") else { return Ok(None) };
    if exporter != "otlp" {
        return Err(format!("OTEL_TRACES_EXPORTER is {exporter}, and quern knows otlp and none"));
    }
    match protocol.as_deref() {
        None | Some("grpc") => Ok(Some(endpoint)),
        Some(other) => Err(format!("OTEL_EXPORTER_OTLP_PROTOCOL is {other}, and quern speaks grpc")),
    }
}

/// A variable's value, if it has one that isn't empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whom an https:// collector's certificate must be vouched for by.
fn tls() -> Result<ClientTlsConfig, String> {
    let names = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
    let Some(file) = names.into_iter().find_map(variable) else {
        return Ok(ClientTlsConfig::new().with_native_roots());
    };
    let certificates = std::fs::read(&file).map_err(|error| format!("{file} can't be read: {error}"))?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificates)))
}

/// Who sends the spans: the program, or what the environment calls it.
fn resource(program: Program) -> Resource {
    let attributes = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let is_named = variable("OTEL_SERVICE_NAME").is_some()
        || attributes.split(',').any(|attribute| attribute.trim().starts_with("service.name="));
    let version = opentelemetry::KeyValue::new("service.version", program.version);
    let builder = Resource::builder().with_attribute(version);
    if is_named { builder.build() } else { builder.with_service_name(program.name).build() }
}

/// Sends spans, and says once when they can't be sent.
#[derive(Debug)]
struct Outlet<E> {
    exporter: E,
    endpoint: String,
    is_said: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Outlet<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        batch.retain(|span| !span.attributes.iter().any(|attribute| attribute.key.as_str() == LEFT_OUT));
        if batch.is_empty() {
            return Ok(());
        }
        let sent = self.exporter.export(batch).await;
        if let Err(error) = &sent
            && !self.is_said.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("traces can't be sent to {}, the work goes on without them: {error}", self.endpoint);
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
