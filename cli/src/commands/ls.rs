//! `quern ls`: the runs of a coordinator.

use quern_proto::{ListRunsRequest, RunSummary};

use crate::client::Place;
use crate::outcome::{Done, Failure};
use crate::view::{Output, json, since};

/// List the runs of a coordinator, in the order in which they came.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    place: Place,
    /// `json`: a line of JSON per run.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Asks, and prints a line per run.
pub async fn ls(arguments: Arguments) -> Result<Done, Failure> {
    let Arguments { place, output } = arguments;
    let answered = place.connect().await?.list_runs(ListRunsRequest {}).await;
    let runs = answered.map_err(|status| place.refused(&status))?.into_inner().runs;
    match output {
        Output::Json => runs.iter().for_each(|run| println!("{}", json(run))),
        Output::Text => table(&runs).iter().for_each(|line| println!("{line}")),
    }
    Ok(Done::Completely)
}

/// A heading and a line per run, in columns.
fn table(runs: &[RunSummary]) -> Vec<String> {
    let heading = ["RUN", "NAME", "PHASE", "PROGRESS", "WORKERS", "HANDED IN"].map(String::from);
    let rows = runs.iter().map(|run| {
        let phase = if run.paused.is_empty() { run.phase.clone() } else { format!("{}, paused", run.phase) };
        [run.run_id.clone(), run.name.clone(), phase, progress(run), run.workers.to_string(), since(run.submitted_ms)]
    });
    let rows: Vec<[String; 6]> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Steps in training, rows else.
fn progress(run: &RunSummary) -> String {
    match run.phase.as_str() {
        "stage1" | "stage2" => format!("step {}/{}", run.step, run.steps),
        _ => format!("rows {}/{}", run.rows_done, run.rows_total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let run = |id: &str, name: &str, phase: &str| RunSummary {
            run_id: id.into(),
            name: name.into(),
            phase: phase.into(),
            rows_done: 5,
            rows_total: 40,
            steps: 9,
            workers: 2,
            ..RunSummary::default()
        };
        let mut paused = run("b2", "second", "stage1");
        paused.paused = "for the night".into();
        let lines = table(&[run("a1", "a longer name", "capfilt"), paused]);
        assert!(
            lines[0].starts_with("RUN  NAME           PHASE           PROGRESS   WORKERS  HANDED IN"),
            "{}",
            lines[0]
        );
        assert!(lines[1].starts_with("a1   a longer name  capfilt         rows 5/40  2        "), "{}", lines[1]);
        assert!(lines[2].starts_with("b2   second         stage1, paused  step 0/9   2        "), "{}", lines[2]);
    }
}
