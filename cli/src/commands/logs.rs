//! `quern logs`: what a run's workers and its coordinator wrote into their logs lately.

use quern_proto::{LogLine, LogsRequest};

use crate::client::RunPlace;
use crate::outcome::{Done, Failure};
use crate::view::{Output, clock, json};

/// Show what a run's workers and its coordinator wrote lately: the last 10,000 lines since the coordinator started.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    of: RunPlace,
    /// Only this worker's lines: its id or name, as `quern status` shows them.
    #[arg(long, default_value = "", hide_default_value = true)]
    worker: String,
    /// Only the last lines.
    #[arg(long, value_name = "LINES", default_value_t = 0, hide_default_value = true)]
    last: u64,
    /// Go on with what comes, until the run is over.
    #[arg(short, long)]
    follow: bool,
    /// `json`: each line as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Asks, and prints line after line.
pub async fn logs(arguments: Arguments) -> Result<Done, Failure> {
    let Arguments { of: RunPlace { place, run }, worker, last, follow, output } = arguments;
    let lost = |status: tonic::Status| place.refused(&status);
    let request = LogsRequest { run, worker, last, follow };
    let mut lines = place.connect().await?.logs(request).await.map_err(lost)?.into_inner();
    while let Some(line) = lines.message().await.map_err(lost)? {
        match output {
            Output::Json => println!("{}", json(&line)),
            Output::Text => println!("{}", text(&line)),
        }
    }
    Ok(Done::Completely)
}

/// `12:03:44 warn  w3 (host-1): …`. What a worker wrote can't move the cursor or hide a line.
fn text(line: &LogLine) -> String {
    let writer = match (&*line.worker, &*line.name) {
        ("", _) => "coordinator".into(),
        (worker, "") => worker.into(),
        (worker, name) => format!("{worker} ({name})"),
    };
    let text = format!("{} {:<5} {writer}: {}", clock(line.at_ms), line.level, line.text);
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_writer_and_shows_control_characters() {
        let line = LogLine {
            at_ms: 3_723_000,
            worker: "w3".into(),
            name: "host".into(),
            level: "warn".into(),
            text: "a\u{1b}[2Jb\nc".into(),
            number: 1,
        };
        assert_eq!(text(&line), "01:02:03 warn  w3 (host): a\\u{1b}[2Jb\\nc");
        let own = LogLine { level: "info".into(), text: "w3 joined".into(), ..LogLine::default() };
        assert_eq!(text(&own), "00:00:00 info  coordinator: w3 joined");
    }
}
