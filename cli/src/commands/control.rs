//! `quern pause`, `resume`, `cancel`, `drain`: what an operator asks of a run.

use quern_proto::control_request::Command;
use quern_proto::{Cancel, ControlRequest, DrainWorker, Pause, Resume, StatusReply};

use crate::client;
use crate::outcome::{Done, Failure};

/// Reason when none is given.
const UNSAID: &str = "by an operator";

/// Which coordinator.
#[derive(clap::Args)]
pub struct Place {
    /// The coordinator's URL.
    #[arg(long, value_name = "URL", default_value = client::DEFAULT_URL)]
    coordinator: String,
}

/// Begin nothing new: what is in hand is finished, and training stops with a checkpoint.
#[derive(clap::Args)]
pub struct PauseArguments {
    #[command(flatten)]
    place: Place,
    /// Why, for those who look.
    #[arg(default_value = UNSAID)]
    reason: String,
}

/// Go on with a paused run, or with a failed one where it failed.
#[derive(clap::Args)]
pub struct ResumeArguments {
    #[command(flatten)]
    place: Place,
}

/// End a run for good; what was accepted stays.
#[derive(clap::Args)]
pub struct CancelArguments {
    #[command(flatten)]
    place: Place,
    /// Why, for those who look.
    #[arg(default_value = UNSAID)]
    reason: String,
}

/// Send a worker away when it has finished what it has in hand.
#[derive(clap::Args)]
pub struct DrainArguments {
    #[command(flatten)]
    place: Place,
    /// The worker's id or name, as `quern status` shows them.
    worker: String,
    /// Why, for those who look.
    #[arg(default_value = UNSAID)]
    reason: String,
}

/// Pauses.
pub async fn pause(PauseArguments { place, reason }: PauseArguments) -> Result<Done, Failure> {
    ask(&place, Command::Pause(Pause { reason })).await
}

/// Lets a run go on.
pub async fn resume(ResumeArguments { place }: ResumeArguments) -> Result<Done, Failure> {
    ask(&place, Command::Resume(Resume {})).await
}

/// Cancels.
pub async fn cancel(CancelArguments { place, reason }: CancelArguments) -> Result<Done, Failure> {
    ask(&place, Command::Cancel(Cancel { reason })).await
}

/// Sends a worker away.
pub async fn drain(DrainArguments { place, worker, reason }: DrainArguments) -> Result<Done, Failure> {
    let worker = id_of(&client::status(&place.coordinator).await?, &worker)?;
    ask(&place, Command::Drain(DrainWorker { worker, reason })).await
}

/// Asks, and says what the run is at then.
async fn ask(place: &Place, command: Command) -> Result<Done, Failure> {
    let mut client = client::connect(&place.coordinator).await?;
    let answer = client.control(ControlRequest { command: Some(command) }).await;
    answer.map_err(|status| match status.code() {
        tonic::Code::FailedPrecondition | tonic::Code::NotFound | tonic::Code::InvalidArgument => {
            Failure::bad_input(status.message())
        }
        _ => client::out_of_reach(&place.coordinator, status.message()),
    })?;
    match client::status(&place.coordinator).await {
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
