//! gRPC calls by method and how they ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use tonic::{Code, Status};

use super::CoordinatorMetrics;
use super::page::{Page, of};
use crate::access::SERVICE;

/// The calls of the protocol. What isn't one is counted as the last: strangers make up no labels.
const METHODS: [&str; 19] = [
    "Register",
    "Heartbeat",
    "Lease",
    "Commit",
    "Fail",
    "CommitTask",
    "FailTask",
    "JoinWorld",
    "ReportSteps",
    "CommitCheckpoint",
    "LeaveWorld",
    "Drain",
    "Status",
    "Watch",
    "Control",
    "Submit",
    "ListRuns",
    "Logs",
    "unknown",
];

/// gRPC's codes, each at its number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// How many calls of each method ended with each code.
#[derive(Debug, Default)]
pub(crate) struct Calls([[AtomicU64; CODES.len()]; METHODS.len()]);

impl Calls {
    pub fn tell(&self, page: &mut Page) {
        let mut samples = Vec::new();
        for (method, counts) in METHODS.iter().zip(&self.0) {
            for (code, count) in CODES.iter().zip(counts) {
                let count = count.load(Ordering::Relaxed);
                // A rate needs something to rise from: good calls are there from the start.
                if count > 0 || (*code == "OK" && *method != "unknown") {
                    samples.push(([("method", *method), ("code", *code)], count as f64));
                }
            }
        }
        let help = "Calls that were answered, by method and code; a stream counts when it begins.";
        page.counter("quern_grpc_requests_total", help, of(&samples));
    }

    fn add(&self, method: &str, code: Code) {
        let index = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1);
        self.0[index][code as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts a request once it is answered, if it is a call of the protocol.
pub(crate) async fn count(State(metrics): State<Arc<CoordinatorMetrics>>, request: Request, next: Next) -> Response {
    let method = request.uri().path().strip_prefix(SERVICE).map(str::to_owned);
    let response = next.run(request).await;
    if let Some(method) = method {
        metrics.calls.add(&method, code(&response));
    }
    response
}

/// What a call ended with. A failure says so in the headers, a good answer only behind its messages.
fn code(response: &Response) -> Code {
    match Status::from_header_map(response.headers()) {
        Some(status) => status.code(),
        None if response.status() == StatusCode::OK => Code::Ok,
        None => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_calls_of_the_protocol_are_known() {
        let protocol = include_str!("../../../proto/quern.proto");
        let calls = protocol.lines().filter_map(|line| Some(line.trim().strip_prefix("rpc ")?.split_once('(')?.0));
        assert_eq!(calls.collect::<Vec<_>>(), METHODS[..METHODS.len() - 1]);
    }

    #[test]
    fn codes_stand_at_their_numbers() {
        for (code, name) in [
            (Code::Ok, "OK"),
            (Code::FailedPrecondition, "FAILED_PRECONDITION"),
            (Code::Unauthenticated, "UNAUTHENTICATED"),
        ] {
            assert_eq!(CODES[code as usize], name);
        }
    }

    #[test]
    fn what_is_no_call_of_ours_makes_no_label() {
        let (calls, mut page) = (Calls::default(), Page::default());
        calls.add("Lease", Code::Ok);
        calls.add("GuessedName", Code::Unauthenticated);
        calls.tell(&mut page);
        let text = page.text();
        assert!(text.contains("{method=\"Lease\",code=\"OK\"} 1\n"), "{text}");
        assert!(text.contains("{method=\"unknown\",code=\"UNAUTHENTICATED\"} 1\n"), "{text}");
        assert!(text.contains("{method=\"Commit\",code=\"OK\"} 0\n") && !text.contains("Guessed"), "{text}");
    }
}
