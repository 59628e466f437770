//! Progress on a terminal, as lines of text: a bar per data set and one for all, stages of training, the workers.
//!
//! The most telling comes first: a narrow terminal cuts the end of a line off, a low one the last lines.

use std::time::Duration;

use quern_capfilt::visible;
use quern_proto::{StageStatus, StatusReply, WorkerStatus};

use super::speed::{Speeds, Standing};
use crate::view;

/// Workers that are listed at most.
const WORKERS: usize = 16;
/// Characters of a bar.
const BAR: usize = 20;
/// Characters of a name at most.
const NAME: usize = 16;

/// The lines for a status.
pub fn screen(at: Duration, status: &StatusReply, speeds: &Speeds) -> Vec<String> {
    let mut lines = Vec::new();
    let standings = speeds.standings(at, status);
    if status.rows_total > 0 {
        let is_one = standings.len() <= 2;
        let shown = standings.iter().filter(|standing| standing.dataset.is_some() || !is_one || standings.len() == 1);
        lines.extend(shown.map(captions));
    }
    lines.extend(status.stages.iter().map(training));
    let here: Vec<_> = status.workers.iter().filter(|worker| worker.state != "lost").collect();
    lines.extend(here.iter().take(WORKERS).map(|worker| work(worker, speeds.of_worker(at, &worker.id))));
    if here.len() > WORKERS {
        lines.push(format!("  … and {} more workers", here.len() - WORKERS));
    }
    lines.push(format!("  {}", visible(&status.explanation)));
    lines
}

fn captions(standing: &Standing) -> String {
    let share = standing.rows as f64 / standing.rows_total.max(1) as f64;
    let rate = standing.quarantine_rate().map_or("–".into(), |rate| format!("{:.1} %", rate * 100.0));
    format!(
        "{} {} {:>5.1} % {:>7} rows/s  ETA {:>8}  quarantine {rate}  {} of {} rows, {} of {} shards",
        name(standing.dataset.unwrap_or("total")),
        bar(share),
        share * 100.0,
        pace(standing.rows_per_second),
        eta(standing.eta()),
        standing.rows,
        standing.rows_total,
        standing.shards,
        standing.shards_total
    )
}

fn training(stage: &StageStatus) -> String {
    let share = stage.step as f64 / stage.steps.max(1) as f64;
    let losses = stage.last_losses.as_ref().map_or_else(String::new, |losses| format!("  {}", view::losses(losses)));
    let of = (stage.step, stage.steps);
    format!("{} {} {:>5.1} % step {} of {}{losses}", name(view::title(stage)), bar(share), share * 100.0, of.0, of.1)
}

fn work(worker: &WorkerStatus, rows_per_second: Option<f64>) -> String {
    let doing = if worker.doing.is_empty() { worker.state.as_str() } else { worker.doing.as_str() };
    let silence =
        if worker.silent_ms > 5_000 { format!(", silent for {} s", worker.silent_ms / 1_000) } else { String::new() };
    format!(
        "  {:>7} rows/s  {} on {}: {}{silence}",
        pace(rows_per_second),
        visible(&worker.name),
        visible(&worker.device),
        visible(doing)
    )
}

fn name(name: &str) -> String {
    let shown = visible(name);
    let short: String = shown.chars().take(NAME).collect();
    format!("{short:<NAME$}")
}

fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * BAR as f64) as usize;
    format!("{}{}", "━".repeat(full), "─".repeat(BAR - full))
}

fn pace(rows_per_second: Option<f64>) -> String {
    rows_per_second.map_or("–".into(), |pace| format!("{pace:.1}"))
}

/// `2:10`, `1:02:03`, `3 d 04:00`; `–`: nobody knows.
fn eta(eta: Option<Duration>) -> String {
    let Some(seconds) = eta.map(|eta| eta.as_secs()) else { return "–".into() };
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{rest:02}"),
        1..=47 => format!("{hours}:{minutes:02}:{rest:02}"),
        _ => format!("{} d {:02}:{minutes:02}", hours / 24, hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::status;
    use super::*;

    fn at(seconds: u64, status: &StatusReply, speeds: &mut Speeds) -> String {
        speeds.add(Duration::from_secs(seconds), status);
        screen(Duration::from_secs(seconds), status, speeds).join("\n")
    }

    #[test]
    fn a_run_from_its_beginning_to_its_end() {
        let mut speeds = Speeds::default();
        let planning = StatusReply { explanation: "it is cut".into(), ..StatusReply::default() };
        assert_eq!(at(0, &planning, &mut speeds), "  it is cut");
        assert_eq!(
            at(10, &status(0), &mut speeds),
            "\
laion            ────────────────────   0.0 %       – rows/s  ETA        –  quarantine –  0 of 600 rows, 0 of 6 shards
web \\u{1b}       ────────────────────   0.0 %       – rows/s  ETA        –  quarantine –  0 of 400 rows, 0 of 4 shards
total            ────────────────────   0.0 %     0.0 rows/s  ETA        –  quarantine –  0 of 1000 rows, 0 of 10 shards
        – rows/s  host-\\u{7} on cuda:0: capfilt laion-0
  it mills"
        );
        assert_eq!(
            at(20, &status(2), &mut speeds),
            "\
laion            ━━━━━━━━────────────  41.7 %    25.0 rows/s  ETA     0:14  quarantine 5.0 %  250 of 600 rows, 2 of 6 shards
web \\u{1b}       ────────────────────   0.0 %     0.0 rows/s  ETA        –  quarantine –  0 of 400 rows, 0 of 4 shards
total            ━━━━━───────────────  25.0 %    12.5 rows/s  ETA     1:00  quarantine 5.0 %  250 of 1000 rows, 2 of 10 shards
     25.0 rows/s  host-\\u{7} on cuda:0: capfilt laion-2
  it mills"
        );
    }

    #[test]
    fn many_workers_are_counted_and_a_lone_data_set_is_the_total() {
        let mut many = status(1);
        many.datasets.truncate(1);
        many.workers = (0..20).map(|id| WorkerStatus { id: format!("w{id}"), ..many.workers[0].clone() }).collect();
        many.workers[0].state = "lost".into();
        let shown = at(0, &many, &mut Speeds::default());
        assert_eq!(shown.matches("rows/s  host").count(), 16, "{shown}");
        assert!(shown.contains("… and 3 more workers") && !shown.contains("total"), "{shown}");
    }

    #[test]
    fn times_are_readable() {
        let seconds = |seconds| eta(Some(Duration::from_secs(seconds)));
        assert_eq!([9, 130, 3_723, 273_600].map(seconds), ["0:09", "2:10", "1:02:03", "3 d 04:00"]);
    }
}
