//! What Prometheus sees at `/metrics`. Names: `quern_`, base units, `_total` for what only rises; all of them are in
//! `docs/reference/metrics.md`.
//!
//! ```text
//!   status of each run ───────────────▶ status ──┐
//!   service: leases, commits, failures ▶ run ────┤
//!   journal: syncs, batches, errors ──▶ journal ─┼──▶ page: the text format
//!   calls by method and code ─────────▶ calls ───┤
//!   the process ──────────────────────▶ process ─┘
//! ```
//!
//! What a status says is written from it at every scrape. What no status says is counted here, around the machine, which
//! knows no metrics.

mod calls;
mod histogram;
mod journal;
mod page;
mod process;
mod run;
mod status;

pub(crate) use calls::count;
pub(crate) use journal::Measured;
pub(crate) use page::{CONTENT_TYPE, Page, of, one};
pub(crate) use run::RunMetrics;

use quern_proto::StatusReply;

use calls::Calls;
use process::Process;

/// What is measured of the coordinator as a whole.
pub(crate) struct CoordinatorMetrics {
    calls: Calls,
    process: Process,
}

impl CoordinatorMetrics {
    /// Of a coordinator that starts now.
    pub fn start() -> Self {
        CoordinatorMetrics { calls: Calls::default(), process: Process::start() }
    }

    pub fn tell(&self, page: &mut Page) {
        self.process.tell(page);
        self.calls.tell(page);
    }
}

/// A run's metrics at this moment.
pub(crate) fn tell_run(page: &mut Page, status: &StatusReply, metrics: &RunMetrics) {
    page.tell_of_run(&status.run_id);
    status::tell(page, status);
    metrics.tell(page);
}

#[cfg(test)]
mod tests;
