//! `quern coordinator`: plans a recipe and schedules it over workers that come to it.

use std::path::PathBuf;
use std::time::Duration;

use quern_coordinator::Coordinator;
use quern_recipes::Recipe;

use crate::commands::watch::end_of;
use crate::launch::{default_journal, follow, start};
use crate::outcome::{Done, Failure};
use crate::progress::RunProgress;
use crate::signals::Signals;

/// How long a finished coordinator stays for workers and watchers that ask once more.
const FAREWELL: Duration = Duration::from_secs(10);

/// Coordinate a recipe's workers, until the run is over.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recipe's file.
    recipe: PathBuf,
    /// Where to listen: ADDRESS:PORT.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7077")]
    listen: String,
    /// The journal: with it, a restarted coordinator goes on where it stopped [default: OUTPUT.journal.sqlite].
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Answer workers and watchers after the run is over too, until a signal comes: for what restarts a coordinator that
    /// ends.
    #[arg(long)]
    stay: bool,
}

/// Serves until the run is over or a signal comes.
pub async fn coordinator(arguments: Arguments) -> Result<Done, Failure> {
    let recipe = Recipe::read(&arguments.recipe)?;
    let journal = arguments.journal.unwrap_or_else(|| default_journal(&recipe));
    let mut signals = Signals::listen()?;
    let coordinator = start(recipe, &arguments.listen, &journal).await?;
    println!("quern: coordinator at {}, journal {}", coordinator.url(), journal.display());

    let mut progress = RunProgress::new();
    let ended = tokio::select! {
        ended = follow(&coordinator, &mut progress) => Ok(ended),
        signal = signals.next() => Err(signal),
    };
    progress.finish();
    let outcome = match ended {
        Ok(ended) => {
            let end = end_of(&ended.last);
            tokio::select! { () = all_gone(&coordinator), if !arguments.stay => {}, _ = signals.next() => {} }
            end
        }
        Err(signal) => Err(Failure::Stopped {
            signal,
            message: format!("stopped; the same command with the journal {} goes on from here", journal.display()),
        }),
    };
    coordinator.shutdown().await;
    outcome
}

/// Waits until no worker is there any more, at most [`FAREWELL`].
async fn all_gone(coordinator: &Coordinator) {
    let mut statuses = coordinator.status();
    let gone = statuses.wait_for(|status| status.workers.iter().all(|worker| worker.state == "lost"));
    // Either way it is time to go.
    let _ = tokio::time::timeout(FAREWELL, gone).await;
}
