//! A run's status as text.

use std::fmt::Write;

use quern_capfilt::visible;
use quern_proto::{StageStatus, StatusReply, StepLosses};

/// How a status is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// A message of the protocol as JSON, in its own names.
pub fn json(message: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(message).expect("a message is plain data")
}

/// `12:03:44` of a time since the Unix epoch, UTC.
pub fn clock(at_ms: u64) -> String {
    let seconds = at_ms / 1_000;
    format!("{:02}:{:02}:{:02}", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

/// `5 min ago`, of a time since the Unix epoch.
pub fn since(at_ms: u64) -> String {
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
    match (now_ms as u64).saturating_sub(at_ms) / 1_000 {
        seconds @ 0..=119 => format!("{seconds} s ago"),
        seconds @ 120..=7_199 => format!("{} min ago", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

/// The whole status, several lines.
pub fn page(status: &StatusReply) -> String {
    let mut page = String::new();
    let mut line = |label: &str, text: String| writeln!(page, "{label:<12} {text}").expect("a String takes all");
    line("run", format!("{} ({})", status.name, status.run_id));
    line("phase", format!("{}: {}", status.phase, status.explanation));
    line("output", status.output.clone());
    line(
        "shards",
        format!(
            "{} of {} done, {} running, {} waiting, {} in quarantine",
            status.shards_done,
            status.shards_total,
            status.shards_leased,
            status.shards_pending,
            status.shards_quarantined
        ),
    );
    line(
        "rows",
        format!(
            "{} of {} done ({} captioned, {} passed through, {} in quarantine), {} in flight",
            status.rows_done,
            status.rows_total,
            status.rows_kept,
            status.rows_passed,
            status.rows_quarantined,
            status.rows_in_flight
        ),
    );
    for of in status.datasets.iter().filter(|_| status.datasets.len() > 1) {
        let (done, total, quarantined) = (of.rows_done, of.rows_total, of.rows_quarantined);
        line("", format!("{}: {done} of {total} done, {quarantined} in quarantine", visible(&of.name)));
    }
    for stage in &status.stages {
        line(title(stage), format!("step {} of {}{}", stage.step, stage.steps, last_losses(&stage.last_losses)));
        if !stage.checkpoint.is_empty() {
            line("checkpoint", stage.checkpoint.clone());
        }
    }
    for task in &status.tasks {
        let came = if task.done { &task.summary } else { "not done yet" };
        came.lines().for_each(|came| line(&task.task, came.to_owned()));
        if task.done {
            line("result", task.path.clone());
        }
    }
    for worker in &status.workers {
        let doing = Some(worker.doing.clone()).filter(|doing| !doing.is_empty());
        let silence = (worker.silent_ms > 5_000).then(|| format!("silent for {} s", worker.silent_ms / 1000));
        let said: Vec<String> = [Some(worker.state.clone()), doing, silence].into_iter().flatten().collect();
        line("worker", format!("{} {} on {}: {}", worker.id, worker.name, worker.device, said.join(", ")));
    }
    if status.speculative_begun > 0 {
        let (begun, live, won) = (status.speculative_begun, status.attempts_speculative, status.speculative_won);
        line("second attempts", format!("{begun} begun, {live} in work, {won} were first"));
    }
    for denied in &status.denied {
        line("denied", format!("{}: {}; `quern allow {}` lifts it", denied.place, denied.reason, denied.place));
    }
    for failure in &status.quarantined_shards {
        line("quarantine", format!("{} ({} rows): {}", failure.shard, failure.rows, failure.reason));
    }
    page
}

/// `stage 1`, `stage 2`.
pub fn title(stage: &StageStatus) -> &'static str {
    if stage.stage == "stage2" { "stage 2" } else { "stage 1" }
}

fn last_losses(last: &Option<StepLosses>) -> String {
    last.as_ref().map(|last| format!(", {}", losses(last))).unwrap_or_default()
}

/// Stage 1's three losses and their sum, or stage 2's one.
pub fn losses(losses: &StepLosses) -> String {
    if let Some(lm) = losses.lm {
        return format!("loss {lm:.3} (lm)");
    }
    format!("loss {:.3} (itc {:.3}, itg {:.3}, itm {:.3})", loss(losses), losses.itc, losses.itg, losses.itm)
}

/// What training lowers: the sum of stage 1's three losses, or stage 2's one.
pub fn loss(losses: &StepLosses) -> f64 {
    losses.lm.unwrap_or(losses.itc + losses.itg + losses.itm)
}

#[cfg(test)]
mod tests {
    use quern_proto::{DatasetStatus, ShardFailure, TaskStatus, WorkerStatus};

    use super::*;

    fn of_stage1() -> StepLosses {
        StepLosses { step: 7, itc: 1.0, itg: 2.0, itm: 0.5, lr: 1e-4, seconds: 0.1, lm: None }
    }

    fn status() -> StatusReply {
        StatusReply {
            name: "demo".into(),
            run_id: "r-1".into(),
            phase: "stage1".into(),
            explanation: "two ranks train".into(),
            shards_total: 4,
            shards_done: 3,
            shards_quarantined: 1,
            rows_total: 40,
            rows_done: 30,
            datasets: ["laion", "web"]
                .map(|name| DatasetStatus {
                    name: name.into(),
                    rows_total: 20,
                    rows_done: 15,
                    rows_quarantined: 2,
                    ..DatasetStatus::default()
                })
                .into(),
            step: 7,
            steps: 9,
            last_losses: Some(of_stage1()),
            stages: vec![
                StageStatus {
                    stage: "stage1".into(),
                    step: 7,
                    steps: 9,
                    last_losses: Some(of_stage1()),
                    checkpoint: "stage1/step-000005".into(),
                },
                StageStatus { stage: "stage2".into(), steps: 4, ..StageStatus::default() },
            ],
            tasks: vec![
                TaskStatus {
                    task: "evaluate".into(),
                    done: true,
                    path: "evaluation/1a".into(),
                    summary: "retrieval: good\ncaptions: better".into(),
                },
                TaskStatus { task: "export".into(), ..TaskStatus::default() },
            ],
            workers: vec![WorkerStatus {
                id: "w3".into(),
                name: "host-1".into(),
                device: "cpu".into(),
                state: "alive".into(),
                doing: "stage 1, rank 0".into(),
                silent_ms: 9_000,
                ..WorkerStatus::default()
            }],
            quarantined_shards: vec![ShardFailure {
                shard: "toy-00001-000000000".into(),
                reason: "bad_magic".into(),
                rows: 10,
            }],
            ..StatusReply::default()
        }
    }

    #[test]
    fn a_page_names_what_an_operator_asks_for() {
        let page = page(&status());
        for expected in [
            "demo (r-1)",
            "stage1: two ranks train",
            "3 of 4 done",
            "30 of 40 done",
            "             web: 15 of 20 done, 2 in quarantine\n",
            "stage 1      step 7 of 9, loss 3.500",
            "checkpoint   stage1/step-000005",
            "stage 2      step 0 of 4\n",
            "evaluate     retrieval: good\nevaluate     captions: better\nresult       evaluation/1a\n",
            "export       not done yet\n",
            "w3 host-1 on cpu: alive, stage 1, rank 0, silent for 9 s",
            "toy-00001-000000000 (10 rows): bad_magic",
        ] {
            assert!(page.contains(expected), "`{expected}` is missing in\n{page}");
        }
    }
}
