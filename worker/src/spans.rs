//! Spans of a worker: one per turn, from the question for work to its end, named after the work that it turned out to be.
//!
//! docs/reference/logs-and-traces.md names them and their attributes. Numbers are `i64`: others would be texts in traces.

use quern_proto::Credentials;
use quern_proto::lease_reply::Work;
use tracing::field::Empty;
use tracing::{Span, info_span};

use crate::error::AgentError;
use crate::shard::ShardEnd;

/// A turn: its work isn't known yet.
pub fn turn(member: &Credentials) -> Span {
    info_span!(
        parent: None,
        "turn",
        otel.name = Empty,
        run = member.run,
        worker = member.worker,
        shard = Empty,
        incarnation = Empty,
        epoch = Empty,
        rows = Empty,
        generation = Empty,
        task = Empty,
        end = Empty,
    )
}

/// A call to the coordinator within the current span.
macro_rules! call {
    ($name:literal, $method:literal) => {
        tracing::info_span!($name, otel.kind = "client", rpc.system = "grpc", rpc.method = $method)
    };
}
pub(crate) use call;

/// The coordinator has said what the work of this turn is. A question that brings no work leaves no trace.
pub fn took(turn: &Span, question: &Span, work: Option<&Work>) {
    match work {
        Some(Work::Shard(lease)) => {
            let token = lease.token.unwrap_or_default();
            quern_telemetry::rename(turn, "shard");
            turn.record("shard", &lease.shard);
            turn.record("incarnation", token.incarnation as i64);
            turn.record("epoch", token.epoch as i64);
            turn.record("rows", lease.rows as i64);
        }
        Some(Work::World(invitation)) => {
            quern_telemetry::rename(turn, "generation");
            turn.record("generation", invitation.generation as i64);
        }
        Some(Work::Task(lease)) => {
            quern_telemetry::rename(turn, "task");
            turn.record("task", &lease.task);
        }
        Some(Work::Released(_)) => quern_telemetry::rename(turn, "released"),
        Some(Work::Wait(_) | Work::Finished(_)) | None => {
            quern_telemetry::leave_out(turn);
            quern_telemetry::leave_out(question);
        }
    }
}

/// How a shard ended, in a word.
pub fn end_of(end: &Result<ShardEnd, AgentError>) -> &'static str {
    match end {
        Ok(ShardEnd::Committed) => "committed",
        Ok(ShardEnd::Lost) => "lost",
        Ok(ShardEnd::Stopped) => "stopped",
        Ok(ShardEnd::Unreadable { .. }) => "unreadable",
        Err(_) => "failed",
    }
}
