//! A run's status as metrics.

use quern_proto::{StageStatus, StatusReply, StepLosses};

use super::page::{Page, of, one};

/// What `quern_run_phase` may say.
const PHASES: [&str; 9] =
    ["planning", "capfilt", "stage1", "stage2", "evaluate", "export", "done", "failed", "cancelled"];

/// The states of a worker.
const WORKER_STATES: [&str; 4] = ["alive", "denied", "draining", "lost"];

/// Tells what a run's status says.
pub(super) fn tell(page: &mut Page, status: &StatusReply) {
    let run = [("name", &*status.name), ("version", crate::VERSION)];
    page.gauge("quern_run_info", "The runs that this coordinator carries out.", [(run.as_slice(), 1.0)]);
    let phases = PHASES.map(|phase| ([("phase", phase)], f64::from(u8::from(phase == status.phase))));
    page.gauge("quern_run_phase", "1 for the phase that the run is at.", of(&phases));
    let paused = f64::from(u8::from(!status.paused.is_empty()));
    page.gauge("quern_run_paused", "1 while an operator has paused the run.", one(paused));
    tell_shards(page, status);
    tell_workers(page, status);
    tell_training(page, status);
    let help = "Times that a coordinator took this run's journal over.";
    page.counter("quern_coordinator_starts_total", help, one(status.incarnation as f64));
}

fn tell_shards(page: &mut Page, status: &StatusReply) {
    let shards = [
        ([("state", "pending")], status.shards_pending as f64),
        ([("state", "leased")], status.shards_leased as f64),
        ([("state", "done")], status.shards_done as f64),
        ([("state", "quarantined")], status.shards_quarantined as f64),
    ];
    page.gauge("quern_shards", "Shards by state.", of(&shards));
    page.gauge("quern_rows", "Rows of the plan.", one(status.rows_total as f64));
    let in_flight = one(status.rows_in_flight as f64);
    page.gauge("quern_rows_in_flight", "Rows that live attempts are through with.", in_flight);
    let settled = [
        ([("outcome", "kept")], status.rows_kept as f64),
        ([("outcome", "passed")], status.rows_passed as f64),
        ([("outcome", "quarantined")], status.rows_quarantined as f64),
    ];
    page.counter("quern_rows_settled_total", "Rows that are settled, by what became of them.", of(&settled));

    let reasons: Vec<_> = (status.quarantine.iter())
        .map(|reason| ([("stage", &*reason.stage), ("reason", &*reason.reason)], reason.rows as f64))
        .collect();
    page.counter(
        "quern_rows_quarantined_total",
        "Rows in quarantine by stage and reason, as far as told.",
        of(&reasons),
    );

    let attempts = [
        ([("kind", "first")], status.attempts_live.saturating_sub(status.attempts_speculative) as f64),
        ([("kind", "second")], status.attempts_speculative as f64),
    ];
    page.gauge("quern_attempts", "Live attempts at shards; a second one runs beside another.", of(&attempts));
    let help = "Second attempts at shards that were slow.";
    page.counter("quern_second_attempts_total", help, one(status.speculative_begun as f64));
    let help = "Second attempts whose part was accepted.";
    page.counter("quern_second_attempts_won_total", help, one(status.speculative_won as f64));
}

fn tell_workers(page: &mut Page, status: &StatusReply) {
    let workers = WORKER_STATES
        .map(|state| ([("state", state)], status.workers.iter().filter(|worker| worker.state == state).count() as f64));
    page.gauge("quern_workers", "Workers by state; of those that were lost, the last ones.", of(&workers));
    let help = "Workers that the run can use now or soon.";
    page.gauge("quern_workers_needed", help, one(status.workers_needed as f64));
    let help = "Places that get no work after failing again and again.";
    page.gauge("quern_places_denied", help, one(status.denied.len() as f64));
    let silent: Vec<_> = (status.workers.iter().filter(|worker| worker.state != "lost"))
        .map(|worker| ([("worker", &*worker.id), ("name", &*worker.name)], worker.silent_ms as f64 / 1e3))
        .collect();
    page.gauge("quern_worker_silent_seconds", "For how long a worker has been silent.", of(&silent));
}

fn tell_training(page: &mut Page, status: &StatusReply) {
    let stages = |value: fn(&StageStatus) -> u64| {
        let values = status.stages.iter().map(|stage| ([("stage", &*stage.stage)], value(stage) as f64));
        values.collect::<Vec<_>>()
    };
    page.gauge("quern_training_step", "Steps that a stage has done.", of(&stages(|stage| stage.step)));
    page.gauge("quern_training_steps", "Steps that a stage is to do.", of(&stages(|stage| stage.steps)));
    let reported = || status.stages.iter().filter_map(|stage| Some((&*stage.stage, stage.last_losses.as_ref()?)));
    let losses: Vec<_> = reported()
        .flat_map(|(stage, losses)| {
            objectives(losses).into_iter().map(move |(name, loss)| ([("stage", stage), ("objective", name)], loss))
        })
        .collect();
    page.gauge("quern_training_loss", "The last reported step's loss, by objective.", of(&losses));
    let rates: Vec<_> = reported().map(|(stage, losses)| ([("stage", stage)], losses.lr)).collect();
    page.gauge("quern_training_learning_rate", "The last reported step's learning rate.", of(&rates));
    let times: Vec<_> = reported().map(|(stage, losses)| ([("stage", stage)], losses.seconds)).collect();
    page.gauge("quern_training_step_seconds", "The last reported step's duration.", of(&times));

    let generation = one(status.world_generation as f64);
    page.gauge("quern_world_generation", "The training world's generation; 0: there is none.", generation);
    let tasks: Vec<_> =
        status.tasks.iter().map(|task| ([("task", &*task.task)], f64::from(u8::from(task.done)))).collect();
    page.gauge("quern_task_done", "1 for what was done with the trained model, 0 for what is to be done.", of(&tasks));
}

fn objectives(losses: &StepLosses) -> Vec<(&'static str, f64)> {
    match losses.lm {
        Some(lm) => vec![("lm", lm)],
        None => vec![("itc", losses.itc), ("itg", losses.itg), ("itm", losses.itm)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_those_of_the_protocol() {
        let protocol = include_str!("../../../proto/quern.proto");
        let status = protocol.split_once("message StatusReply {").unwrap().1;
        let line = status.lines().find(|line| line.contains("string phase = ")).unwrap();
        assert_eq!(line.split_once("// ").unwrap().1, PHASES.join(", "));
    }
}
