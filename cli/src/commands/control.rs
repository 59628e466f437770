//! `quern pause`, `resume`, `cancel`, `retry`, `extend`, `drain`, `allow`: what an operator asks of a run.

use quern_proto::control_request::Command;
use quern_proto::{Allow, Cancel, ControlRequest, DrainWorker, Extend, Pause, Resume, Retry, StatusReply};

use crate::client::{Place, RunPlace};
use crate::outcome::{Done, Failure};

/// Reason when none is given.
const UNSAID: &str = "by an operator";

/// Begin nothing new: what is in hand is finished, and training stops with a checkpoint.
#[derive(clap::Args)]
pub struct PauseArguments {
    #[command(flatten)]
    of: RunPlace,
    /// Why, for those who look.
    #[arg(long, default_value = UNSAID)]
    reason: String,
}

/// Go on with a paused run, or with a failed one where it failed.
#[derive(clap::Args)]
pub struct ResumeArguments {
    #[command(flatten)]
    of: RunPlace,
}

/// End a run for good; what was accepted stays.
#[derive(clap::Args)]
pub struct CancelArguments {
    #[command(flatten)]
    of: RunPlace,
    /// Why, for those who look.
    #[arg(long, default_value = UNSAID)]
    reason: String,
}

/// Send a worker away when it has finished what it has in hand.
#[derive(clap::Args)]
pub struct DrainArguments {
    #[command(flatten)]
    place: Place,
    /// The worker's id or name, as `quern status` shows them.
    worker: String,
    /// The worker's run: its id, the start of it, or its name [default: the first that is not over, or the last].
    #[arg(long, default_value = "", hide_default_value = true)]
    run: String,
    /// Why, for those who look.
    #[arg(long, default_value = UNSAID)]
    reason: String,
}

/// Give work again to a place that was denied it after failing again and again.
#[derive(clap::Args)]
pub struct AllowArguments {
    #[command(flatten)]
    place: Place,
    /// The place or its host, or the id or name of a worker that was there, as `quern status` shows them.
    name: String,
    /// The run: its id, the start of it, or its name [default: the first that is not over, or the last].
    #[arg(long, default_value = "", hide_default_value = true)]
    run: String,
}

/// Do rows again that are in quarantine, such as those whose images timed out; other rows stay as they are.
#[derive(clap::Args)]
pub struct RetryArguments {
    #[command(flatten)]
    of: RunPlace,
    /// What they are in quarantine for: REASON or STAGE/REASON, as `quern status` and the report show them.
    #[arg(long = "reason", value_name = "REASON", required = true, value_delimiter = ',')]
    reasons: Vec<String>,
}

/// Look for files of the data sets that nobody has milled, and go on with them.
#[derive(clap::Args)]
pub struct ExtendArguments {
    #[command(flatten)]
    of: RunPlace,
}

/// Pauses.
pub async fn pause(PauseArguments { of, reason }: PauseArguments) -> Result<Done, Failure> {
    ask(&of.place, of.run, Command::Pause(Pause { reason })).await
}

/// Lets a run go on.
pub async fn resume(ResumeArguments { of }: ResumeArguments) -> Result<Done, Failure> {
    ask(&of.place, of.run, Command::Resume(Resume {})).await
}

/// Cancels.
pub async fn cancel(CancelArguments { of, reason }: CancelArguments) -> Result<Done, Failure> {
    ask(&of.place, of.run, Command::Cancel(Cancel { reason })).await
}

/// Sends a worker away.
pub async fn drain(DrainArguments { place, worker, run, reason }: DrainArguments) -> Result<Done, Failure> {
    let status = place.status(&run).await?;
    let worker = id_of(&status, &worker)?;
    ask(&place, status.run_id, Command::Drain(DrainWorker { worker, reason })).await
}

/// Gives work again.
pub async fn allow(AllowArguments { place, name, run }: AllowArguments) -> Result<Done, Failure> {
    ask(&place, run, Command::Allow(Allow { name })).await
}

/// Does rows again.
pub async fn retry(RetryArguments { of, reasons }: RetryArguments) -> Result<Done, Failure> {
    ask(&of.place, of.run, Command::Retry(Retry { reasons })).await
}

/// Goes on with new files.
pub async fn extend(ExtendArguments { of }: ExtendArguments) -> Result<Done, Failure> {
    ask(&of.place, of.run, Command::Extend(Extend {})).await
}

/// Asks, and says what the run is at then.
async fn ask(place: &Place, run: String, command: Command) -> Result<Done, Failure> {
    // The run that is meant now: when it is cancelled, another one may be the first that is not over.
    let run = place.status(&run).await?.run_id;
    let request = ControlRequest { run: run.clone(), command: Some(command) };
    place.connect().await?.control(request).await.map_err(|status| place.refused(&status))?;
    match place.status(&run).await {
        Ok(status) => println!("{}", status.explanation),
        // A coordinator without workers ends at once when its run does.
        Err(_) => println!("It is so, and the coordinator has ended."),
    }
    Ok(Done::Completely)
}

/// The id of the worker that is called so.
fn id_of(status: &StatusReply, named: &str) -> Result<String, Failure> {
    let mut here = status.workers.iter().filter(|worker| worker.state != "lost");
    if here.clone().any(|worker| worker.id == named) {
        return Ok(named.to_owned());
    }
    let mut called: Vec<&str> = here.by_ref().filter(|worker| worker.name == named).map(|worker| &*worker.id).collect();
    match (called.pop(), called.len()) {
        (Some(id), 0) => Ok(id.to_owned()),
        (Some(_), more) => {
            Err(Failure::bad_input(format!("{} workers are called {named}: name one by its id", more + 1)))
        }
        (None, _) => Err(Failure::bad_input(format!("there is no worker {named} here; `quern status` lists them"))),
    }
}

#[cfg(test)]
mod tests {
    use quern_proto::WorkerStatus;

    use super::*;

    #[test]
    fn a_worker_is_named_by_its_id_or_by_a_name_that_no_other_has() {
        let worker = |id: &str, name: &str, state: &str| WorkerStatus {
            id: id.into(),
            name: name.into(),
            state: state.into(),
            ..WorkerStatus::default()
        };
        let workers = vec![
            worker("w1", "host-a", "lost"),
            worker("w2", "host-a", "alive"),
            worker("w3", "host-b", "alive"),
            worker("w4", "host-b", "draining"),
        ];
        let status = StatusReply { workers, ..StatusReply::default() };
        let id = |named: &str| id_of(&status, named).map_err(|failure| failure.to_string());
        assert_eq!(id("w3"), Ok("w3".into()));
        assert_eq!(id("host-a"), Ok("w2".into()));
        assert!(id("host-b").unwrap_err().contains("2 workers"));
        assert!(id("w1").unwrap_err().contains("no worker w1"));
    }
}
