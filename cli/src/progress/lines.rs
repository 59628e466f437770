//! Progress as lines for logs: `key=value` fields that stay what they are, so that they can be searched and counted.
//! docs/how-to/operator.md lists them.

use std::fmt::Write;
use std::time::Duration;

use quern_proto::StatusReply;

use super::speed::{Speeds, Standing};

/// What isn't known.
const UNKNOWN: &str = "-";

/// A line per data set and one for all, or one for a stage of training.
pub fn lines(at: Duration, status: &StatusReply, speeds: &Speeds) -> Vec<String> {
    let workers = status.workers.iter().filter(|worker| worker.state == "alive").count();
    let run = format!("progress run={} phase={}", value(&status.name), value(&status.phase));
    let explained = format!("workers={workers} explanation={:?}", status.explanation);
    if matches!(status.phase.as_str(), "stage1" | "stage2") {
        let (step, steps) = (status.step, status.steps);
        let loss = status.last_losses.as_ref().map(crate::view::loss);
        let loss = loss.map_or_else(|| UNKNOWN.into(), |loss| format!("{loss:.4}"));
        return vec![format!("{run} scope=training step={step} steps={steps} loss={loss} {explained}")];
    }
    let line = |standing: &Standing| match standing.dataset {
        Some(dataset) => format!("{run} scope=dataset dataset={} {}", value(dataset), counts(standing)),
        None => format!("{run} scope=total {} {explained}", counts(standing)),
    };
    speeds.standings(at, status).iter().map(line).collect()
}

fn counts(standing: &Standing) -> String {
    let mut line = String::new();
    let mut field = |key: &str, value: String| write!(line, " {key}={value}").expect("a String takes all");
    let known = |number: Option<f64>, digits: usize| number.map_or(UNKNOWN.into(), |known| format!("{known:.digits$}"));
    let percent = (standing.rows_total > 0).then(|| standing.rows as f64 / standing.rows_total as f64 * 100.0);
    field("rows", standing.rows.to_string());
    field("rows_total", standing.rows_total.to_string());
    field("percent", known(percent, 1));
    field("rows_per_s", known(standing.rows_per_second, 1));
    field("eta_s", standing.eta().map_or(UNKNOWN.into(), |eta| eta.as_secs().to_string()));
    field("kept", standing.kept.to_string());
    field("quarantined", standing.quarantined.to_string());
    field("quarantine_rate", known(standing.quarantine_rate(), 4));
    field("shards", standing.shards.to_string());
    field("shards_total", standing.shards_total.to_string());
    line.split_off(1)
}

/// A name as a value: in quotes where it isn't plain.
fn value(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    match !name.is_empty() && name.chars().all(is_plain) {
        true => name.into(),
        false => format!("{name:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::status;
    use super::*;

    #[test]
    fn a_line_has_the_same_fields_whatever_is_known() {
        let mut speeds = Speeds::default();
        let mut early = status(0);
        speeds.add(Duration::ZERO, &early);
        assert_eq!(
            lines(Duration::ZERO, &early, &speeds),
            [
                "progress run=demo phase=capfilt scope=dataset dataset=laion rows=0 rows_total=600 percent=0.0 rows_per_s=- eta_s=- \
                 kept=0 quarantined=0 quarantine_rate=- shards=0 shards_total=6",
                "progress run=demo phase=capfilt scope=dataset dataset=\"web \\u{1b}\" rows=0 rows_total=400 percent=0.0 \
                 rows_per_s=- eta_s=- kept=0 quarantined=0 quarantine_rate=- shards=0 shards_total=4",
                "progress run=demo phase=capfilt scope=total rows=0 rows_total=1000 percent=0.0 rows_per_s=- eta_s=- kept=0 \
                 quarantined=0 quarantine_rate=- shards=0 shards_total=10 workers=1 explanation=\"it mills\"",
            ]
        );
        speeds.add(Duration::from_secs(10), &status(2));
        assert_eq!(
            lines(Duration::from_secs(10), &status(2), &speeds),
            [
                "progress run=demo phase=capfilt scope=dataset dataset=laion rows=250 rows_total=600 percent=41.7 rows_per_s=25.0 \
                 eta_s=14 kept=190 quarantined=10 quarantine_rate=0.0500 shards=2 shards_total=6",
                "progress run=demo phase=capfilt scope=dataset dataset=\"web \\u{1b}\" rows=0 rows_total=400 percent=0.0 \
                 rows_per_s=0.0 eta_s=- kept=0 quarantined=0 quarantine_rate=- shards=0 shards_total=4",
                "progress run=demo phase=capfilt scope=total rows=250 rows_total=1000 percent=25.0 rows_per_s=25.0 eta_s=30 \
                 kept=190 quarantined=10 quarantine_rate=0.0500 shards=2 shards_total=10 workers=1 explanation=\"it mills\"",
            ]
        );
        early.phase = "stage1".into();
        (early.step, early.steps) = (3, 9);
        assert_eq!(
            lines(Duration::ZERO, &early, &speeds),
            ["progress run=demo phase=stage1 scope=training step=3 steps=9 loss=- workers=1 explanation=\"it mills\""]
        );
    }
}
