//! A run's status as text.

use std::fmt::Write;

use quern_proto::{StatusReply, StepLosses};

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
    if status.steps > 0 {
        let losses = status.last_losses.as_ref().map(|l| format!(", {}", losses(l))).unwrap_or_default();
        line("stage 1", format!("step {} of {}{losses}", status.step, status.steps));
    }
    if !status.checkpoint.is_empty() {
        line("checkpoint", status.checkpoint.clone());
    }
    for worker in &status.workers {
        let silence = if worker.silent_ms > 5_000 {
            format!(", silent for {} s", worker.silent_ms / 1000)
        } else {
            String::new()
        };
        line("worker", format!("{} on {}: {}, {}{silence}", worker.name, worker.device, worker.state, worker.doing));
    }
    for failure in &status.quarantined_shards {
        line("quarantine", format!("{} ({} rows): {}", failure.shard, failure.rows, failure.reason));
    }
    page
}

/// The status on one line, for logs.
pub fn line(status: &StatusReply) -> String {
    let workers = status.workers.iter().filter(|worker| worker.state == "alive").count();
    let progress = match status.phase.as_str() {
        "stage1" => {
            let losses = status.last_losses.as_ref().map(|l| format!(", {}", losses(l))).unwrap_or_default();
            format!("step {}/{}{losses}", status.step, status.steps)
        }
        _ => format!("rows {}/{}", status.rows_done + status.rows_in_flight, status.rows_total),
    };
    format!("{} {}: {progress}, {workers} workers, {}", status.name, status.phase, status.explanation)
}

/// The three losses and their sum.
pub fn losses(losses: &StepLosses) -> String {
    let sum = losses.itc + losses.itg + losses.itm;
    format!("loss {sum:.3} (itc {:.3}, itg {:.3}, itm {:.3})", losses.itc, losses.itg, losses.itm)
}

#[cfg(test)]
mod tests {
    use quern_proto::{ShardFailure, WorkerStatus};

    use super::*;

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
            step: 7,
            steps: 9,
            last_losses: Some(StepLosses { step: 7, itc: 1.0, itg: 2.0, itm: 0.5, lr: 1e-4, seconds: 0.1 }),
            workers: vec![WorkerStatus {
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
            "step 7 of 9, loss 3.500",
            "host-1 on cpu: alive, stage 1, rank 0, silent for 9 s",
            "toy-00001-000000000 (10 rows): bad_magic",
        ] {
            assert!(page.contains(expected), "`{expected}` is missing in\n{page}");
        }
    }

    #[test]
    fn a_line_follows_the_phase() {
        let mut status = status();
        assert_eq!(
            line(&status),
            "demo stage1: step 7/9, loss 3.500 (itc 1.000, itg 2.000, itm 0.500), 1 workers, two ranks train"
        );
        status.phase = "capfilt".into();
        status.rows_in_flight = 5;
        assert!(line(&status).starts_with("demo capfilt: rows 35/40, "));
    }
}
