//! `quern watch`: follows a run to its end.

use std::time::{Duration, Instant};

use quern_proto::{StatusReply, StatusRequest};

use crate::client::RunPlace;
use crate::outcome::{Done, Failure};
use crate::progress::{ProgressOptions, RunProgress};
use crate::view::{Output, json};

/// How long a coordinator may be away (it may be restarting) before watching is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time between attempts to reach it again.
const RETRY: Duration = Duration::from_secs(1);

/// Follow a run until it ends, over restarts of its coordinator.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    pub of: RunPlace,
    /// `json`: each status as one line of JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    #[command(flatten)]
    pub progress: ProgressOptions,
}

/// Shows every status until the last; ends as the run does.
pub async fn watch(arguments: Arguments) -> Result<Done, Failure> {
    let mut progress = RunProgress::new(arguments.progress);
    let mut last = None;
    let mut away_since: Option<Instant> = None;
    loop {
        match follow(&arguments, &mut progress, &mut last, &mut away_since).await {
            Ok(end) => {
                progress.finish();
                return end_of(&end);
            }
            // A coordinator that was never there is no restart.
            Err(failure) if last.is_none() => return Err(failure),
            Err(failure) => {
                if away_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    progress.finish();
                    return Err(failure);
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// One connection's statuses; returns the one that ends the run.
async fn follow(
    Arguments { of, output, .. }: &Arguments,
    progress: &mut RunProgress,
    last: &mut Option<StatusReply>,
    away_since: &mut Option<Instant>,
) -> Result<StatusReply, Failure> {
    let RunPlace { place, run } = of;
    let lost = |status: tonic::Status| place.refused(&status);
    let request = StatusRequest { run: run.clone() };
    let mut statuses = place.connect().await?.watch(request).await.map_err(lost)?.into_inner();
    loop {
        let message = tokio::select! {
            message = statuses.message() => message.map_err(lost)?,
            () = progress.due() => {
                progress.refresh();
                continue;
            }
        };
        let Some(status) = message else { return Err(place.out_of_reach("it closed the connection")) };
        *away_since = None;
        match output {
            Output::Text => progress.show(&status),
            Output::Json => println!("{}", json(&status)),
        }
        if is_over(&status) {
            return Ok(status);
        }
        *last = Some(status);
    }
}

/// Whether the run has ended.
pub fn is_over(status: &StatusReply) -> bool {
    matches!(status.phase.as_str(), "done" | "failed" | "cancelled")
}

/// The command's end for a run that ended as `status` says.
pub fn end_of(status: &StatusReply) -> Result<Done, Failure> {
    match status.phase.as_str() {
        "done" if status.shards_quarantined > 0 => Ok(Done::WithQuarantinedShards),
        "done" => Ok(Done::Completely),
        "cancelled" => Err(Failure::Cancelled(status.explanation.clone())),
        _ => Err(Failure::failed(status.explanation.clone())),
    }
}
