//! The machine's status as the wire's.

use futures::Stream;
use quern_machine::{DatasetTotals, Losses, Machine, StageStatus, Status, StepLosses, WorkerStatus};
use quern_proto as wire;
use quern_proto::StatusReply;
use tokio::sync::watch;

use crate::serve::is_over;

/// What a status says of the run that the machine doesn't know.
#[derive(Debug, Clone)]
pub(crate) struct Describe {
    pub run_id: String,
    pub name: String,
    pub output: String,
}

/// The status now, and again whenever it changed, until the run is over or the server stops.
pub(crate) fn follow(
    mut status: watch::Receiver<StatusReply>,
    stopping: watch::Receiver<bool>,
) -> impl Stream<Item = StatusReply> {
    status.mark_changed();
    futures::stream::unfold(Some((status, stopping)), |state| async move {
        let (mut status, mut stopping) = state?;
        tokio::select! {
            changed = status.changed() => changed.ok()?,
            _ = stopping.wait_for(|stopping| *stopping) => return None,
        }
        let now = status.borrow_and_update().clone();
        let is_over = is_over(&now);
        Some((now, (!is_over).then_some((status, stopping))))
    })
}

impl Describe {
    /// The status now; during an `outage` of the journal, that is the explanation.
    pub fn status(&self, machine: &Machine, outage: Option<&str>) -> StatusReply {
        let mut status = machine.status();
        let totals = status.totals;
        let stage = status.current_stage().map(stage_to_wire).unwrap_or_default();
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
            step: stage.step,
            steps: stage.steps,
            last_losses: stage.last_losses,
            workers: workers_to_wire(std::mem::take(&mut status.workers)),
            incarnation: status.incarnation.0,
            world_generation: status.world.map_or(0, |generation| generation.0),
            checkpoint: stage.checkpoint,
            output: self.output.clone(),
            quarantined_shards: failures_to_wire(&status),
            quarantine: status.reasons.iter().map(reason_to_wire).collect(),
            // Of an incarnation's versions, the first one; later ones count up from it.
            version: status.incarnation.0 << 32,
            stages: status.stages.iter().map(stage_to_wire).collect(),
            paused: status.paused.clone().unwrap_or_default(),
            workers_needed: status.workers_needed,
            attempts_live: status.attempts_live,
            attempts_speculative: status.second_live,
            speculative_begun: status.second.begun,
            speculative_won: status.second.won,
            denied: denied_to_wire(&status),
            tasks: status.tasks.iter().map(task_to_wire).collect(),
            datasets: std::mem::take(&mut status.datasets).into_iter().map(dataset_to_wire).collect(),
        }
    }

    /// Replaces a known status by a new one when more has changed than the time; says whether it has.
    pub fn replace(&self, known: &mut StatusReply, mut new: StatusReply) -> bool {
        let version = new.version.max(known.version + 1);
        new.version = known.version;
        // Nothing is copied: a status may list thousands of workers.
        let (known_workers, mut workers) = (std::mem::take(&mut known.workers), std::mem::take(&mut new.workers));
        let changed = *known != new || known_workers.len() != workers.len() || {
            let mut pairs = known_workers.iter().zip(&mut workers);
            pairs.any(|(known, new)| !is_timelessly_equal(known, new))
        };
        if changed {
            *known = StatusReply { version, ..new };
        }
        known.workers = workers;
        changed
    }
}

/// Whether nothing differs but for how long the worker has been silent.
fn is_timelessly_equal(known: &wire::WorkerStatus, new: &mut wire::WorkerStatus) -> bool {
    let silent_ms = std::mem::replace(&mut new.silent_ms, known.silent_ms);
    let is_equal = known == new;
    new.silent_ms = silent_ms;
    is_equal
}

fn workers_to_wire(workers: Vec<WorkerStatus>) -> Vec<wire::WorkerStatus> {
    let to_wire = |worker: WorkerStatus| wire::WorkerStatus {
        id: worker.worker.to_string(),
        name: worker.name,
        device: worker.device,
        state: worker.state.into(),
        doing: worker.doing,
        silent_ms: worker.silent_ms,
        reason: worker.reason,
        memory_bytes: worker.memory_bytes,
        rows: worker.rows,
    };
    workers.into_iter().map(to_wire).collect()
}

fn task_to_wire(status: &quern_machine::TaskStatus) -> wire::TaskStatus {
    let result = status.result.as_ref();
    wire::TaskStatus {
        task: status.task.name().into(),
        done: result.is_some(),
        path: result.map_or_else(String::new, |result| result.path.clone()),
        summary: result.map_or_else(String::new, |result| result.summary.clone()),
    }
}

fn dataset_to_wire((name, of): (String, DatasetTotals)) -> wire::DatasetStatus {
    let DatasetTotals { totals, rows_in_flight } = of;
    wire::DatasetStatus {
        name,
        shards_total: totals.shards,
        shards_done: totals.done,
        shards_quarantined: totals.quarantined,
        rows_total: totals.rows,
        rows_done: totals.rows_done,
        rows_in_flight,
        rows_kept: totals.rows_kept,
        rows_passed: totals.rows_passed,
        rows_quarantined: totals.rows_quarantined,
    }
}

fn denied_to_wire(status: &Status) -> Vec<wire::DeniedPlace> {
    let show = |denied: &quern_machine::DeniedPlace| wire::DeniedPlace {
        place: denied.place.to_string(),
        reason: denied.reason.clone(),
    };
    status.denied.iter().map(show).collect()
}

fn failures_to_wire(status: &Status) -> Vec<wire::ShardFailure> {
    let failures = status.quarantined.iter().map(|failure| wire::ShardFailure {
        shard: failure.shard.to_string(),
        reason: failure.reason.clone(),
        rows: failure.rows,
    });
    failures.collect()
}

fn reason_to_wire((reason, rows): &(String, u64)) -> wire::QuarantineReason {
    let (stage, reason) = reason.split_once('/').unwrap_or_default();
    wire::QuarantineReason { stage: stage.into(), reason: reason.into(), rows: *rows }
}

fn stage_to_wire(status: &StageStatus) -> wire::StageStatus {
    wire::StageStatus {
        stage: status.stage.name().into(),
        step: status.step,
        steps: status.steps,
        last_losses: status.losses.map(losses_to_wire),
        checkpoint: status.checkpoint.as_ref().map_or_else(String::new, |checkpoint| checkpoint.path.clone()),
    }
}

fn losses_to_wire(losses: StepLosses) -> wire::StepLosses {
    let StepLosses { step, losses, lr, seconds } = losses;
    match losses {
        Losses::Stage1 { itc, itg, itm } => wire::StepLosses { step, itc, itg, itm, lr, seconds, lm: None },
        Losses::Stage2 { lm } => wire::StepLosses { step, lr, seconds, lm: Some(lm), ..wire::StepLosses::default() },
    }
}
