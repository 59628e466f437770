//! The machine's status as the wire's.

use quern_machine::{Machine, Status, StepLosses};
use quern_proto as wire;
use quern_proto::StatusReply;

/// What a status says of the run that the machine doesn't know.
#[derive(Debug, Clone)]
pub(crate) struct Describe {
    pub run_id: String,
    pub name: String,
    pub output: String,
}

impl Describe {
    /// The status now; during an `outage` of the journal, that is the explanation.
    pub fn status(&self, machine: &Machine, outage: Option<&str>) -> StatusReply {
        let status = machine.status();
        let totals = status.totals;
        StatusReply {
            run_id: self.run_id.clone(),
            name: self.name.clone(),
            phase: status.phase.into(),
            explanation: outage.map_or_else(|| status.explanation.clone(), |why| format!("{why}.")),
            shards_total: totals.shards,
            shards_pending: status.shards_pending,
            shards_leased: status.shards_leased,
            shards_done: totals.done,
            shards_quarantined: totals.quarantined,
            rows_total: totals.rows,
            rows_done: totals.rows_done,
            rows_in_flight: status.rows_in_flight,
            rows_kept: totals.rows_kept,
            rows_passed: totals.rows_passed,
            rows_quarantined: totals.rows_quarantined,
            step: status.step,
            steps: status.steps,
            last_losses: status.losses.map(losses_to_wire),
            workers: workers_to_wire(&status),
            incarnation: status.incarnation.0,
            world_generation: status.world.map_or(0, |generation| generation.0),
            checkpoint: status.checkpoint.as_ref().map_or_else(String::new, |checkpoint| checkpoint.path.clone()),
            output: self.output.clone(),
            quarantined_shards: failures_to_wire(&status),
            // Of an incarnation's versions, the first one; later ones count up from it.
            version: status.incarnation.0 << 32,
        }
    }

    /// Replaces a known status by a new one when more has changed than the time; says whether it has.
    pub fn replace(&self, known: &mut StatusReply, mut new: StatusReply) -> bool {
        new.version = new.version.max(known.version + 1);
        let changed = timeless(known.clone()) != timeless(new.clone());
        if changed {
            *known = new;
        } else {
            known.workers = new.workers;
        }
        changed
    }
}

fn timeless(mut status: StatusReply) -> StatusReply {
    status.version = 0;
    status.workers.iter_mut().for_each(|worker| worker.silent_ms = 0);
    status
}

fn workers_to_wire(status: &Status) -> Vec<wire::WorkerStatus> {
    let workers = status.workers.iter().map(|worker| wire::WorkerStatus {
        id: worker.worker.to_string(),
        name: worker.name.clone(),
        device: worker.device.clone(),
        state: worker.state.into(),
        doing: worker.doing.clone(),
        silent_ms: worker.silent_ms,
    });
    workers.collect()
}

fn failures_to_wire(status: &Status) -> Vec<wire::ShardFailure> {
    let failures = status.quarantined.iter().map(|failure| wire::ShardFailure {
        shard: failure.shard.to_string(),
        reason: failure.reason.clone(),
        rows: failure.rows,
    });
    failures.collect()
}

fn losses_to_wire(losses: StepLosses) -> wire::StepLosses {
    let StepLosses { step, itc, itg, itm, lr, seconds } = losses;
    wire::StepLosses { step, itc, itg, itm, lr, seconds }
}
