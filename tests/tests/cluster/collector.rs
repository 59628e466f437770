//! A collector of traces: it keeps what quern's processes send to it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A span as it arrived.
#[derive(Debug, Clone)]
pub struct Span {
    /// Which program sent it.
    pub service: String,
    pub name: String,
    pub trace: Vec<u8>,
    pub id: Vec<u8>,
    /// Empty: none.
    pub parent: Vec<u8>,
    attributes: Vec<KeyValue>,
}

impl Span {
    /// An attribute as text; empty when it isn't there.
    pub fn attribute(&self, key: &str) -> String {
        value(&self.attributes, key)
    }
}

fn value(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// A collector on a port of its own; it stops when it is dropped.
pub struct Collector {
    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    pub url: String,
    kept: Kept,
    _runtime: Runtime,
}

/// All spans so far.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// One that has got nothing yet.
    pub fn start() -> Self {
        let runtime = Runtime::new().expect("threads");
        let entered = runtime.enter();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        drop(entered);
        let url = format!("http://{}", incoming.local_addr().expect("an address"));
        let kept = Kept::default();
        let service = TraceServiceServer::new(kept.clone());
        runtime.spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Collector { url, kept, _runtime: runtime }
    }

    /// What has arrived.
    pub fn spans(&self) -> Vec<Span> {
        self.kept.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sent in request.into_inner().resource_spans {
            let service = value(&sent.resource.unwrap_or_default().attributes, "service.name");
            for span in sent.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                kept.push(Span {
                    service: service.clone(),
                    name: span.name,
                    trace: span.trace_id,
                    id: span.span_id,
                    parent: span.parent_span_id,
                    attributes: span.attributes,
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// The spans below `top`: service and name.
pub fn below(top: &Span, spans: &[Span]) -> BTreeSet<(String, String)> {
    let children = spans.iter().filter(|span| span.trace == top.trace && span.parent == top.id);
    let with_theirs = |child: &Span| {
        let mut all = below(child, spans);
        all.insert((child.service.clone(), child.name.clone()));
        all
    };
    children.flat_map(with_theirs).collect()
}
