//! `quern coordinator`: plans recipes and schedules them over workers that come to it: the one that it is given, or those
//! that are handed in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use quern_coordinator::{Access, Coordinator, ServeOptions, back_up, rebuild, serve};
use quern_recipes::Recipe;

use crate::access::AccessOptions;
use crate::commands::watch::end_of;
use crate::launch::{default_journal, follow, not_started, start};
use crate::outcome::{Done, Failure, chain};
use crate::progress::{ProgressOptions, RunProgress};
use crate::signals::Signals;

/// How long a finished coordinator stays for workers and watchers that ask once more.
const FAREWELL: Duration = Duration::from_secs(10);

/// Coordinate workers: a recipe's until the run is over, or with --state those of all recipes that are handed in.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The recipe's file.
    #[arg(required_unless_present = "state")]
    recipe: Option<PathBuf>,
    /// Carry out what `quern submit` hands in, and keep it and its journals in this folder: with it, a restarted
    /// coordinator goes on with all of them.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["recipe", "journal", "stay"])]
    state: Option<PathBuf>,
    /// Where to listen: ADDRESS:PORT.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7077")]
    listen: String,
    #[command(flatten)]
    access: AccessOptions,
    /// The journal: with it, a restarted coordinator goes on where it stopped [default: OUTPUT.journal.sqlite].
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Answer workers and watchers after the run is over too, until a signal comes: for what restarts a coordinator that
    /// ends.
    #[arg(long)]
    stay: bool,
    #[command(flatten)]
    progress: ProgressOptions,
}

/// What else there is to do with a coordinator's journal.
#[derive(clap::Subcommand)]
enum Command {
    /// Copy a journal while its coordinator works with it, and check the copy.
    Backup {
        /// The journal.
        #[arg(long, value_name = "FILE")]
        journal: PathBuf,
        /// Where the copy goes; nothing may be there.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Make a journal anew from what is accepted in an output, after the disk with the journal was lost. A coordinator that
    /// still works on the output ends.
    Rebuild {
        /// The output.
        #[arg(long, value_name = "URL")]
        from: String,
        /// Where the journal goes; nothing may be there.
        #[arg(long, value_name = "FILE")]
        journal: PathBuf,
        /// The recipe's file [default: the one that is kept beside the output].
        recipe: Option<PathBuf>,
    },
}

/// Serves until the run is over or a signal comes; or does what the subcommand says.
pub async fn coordinator(arguments: Arguments) -> Result<Done, Failure> {
    match arguments.command {
        Some(Command::Backup { journal, to }) => return backup(&journal, &to).await,
        Some(Command::Rebuild { from, journal, recipe }) => {
            return rebuild_from(&from, &journal, recipe.as_deref()).await;
        }
        None => {}
    }
    match (&arguments.state, &arguments.recipe) {
        (Some(state), _) => submitted(state, &arguments.listen, arguments.access.access()).await,
        (None, Some(recipe)) => {
            let recipe = Recipe::read(recipe)?;
            one(recipe, arguments).await
        }
        (None, None) => unreachable!("a recipe is required without --state and subcommand"),
    }
}

async fn backup(journal: &Path, to: &Path) -> Result<Done, Failure> {
    let (from, copy) = (journal.to_owned(), to.to_owned());
    let copied = tokio::task::spawn_blocking(move || back_up(&from, &copy)).await.expect("copying doesn't panic");
    let records = copied.map_err(|error| Failure::failed(error.to_string()))?;
    println!("{} has {records} records of {}", to.display(), journal.display());
    Ok(Done::Completely)
}

async fn rebuild_from(from: &str, journal: &Path, recipe: Option<&Path>) -> Result<Done, Failure> {
    let recipe = recipe.map(Recipe::read).transpose()?;
    let rebuilt = rebuild(from, recipe, journal).await.map_err(|error| Failure::failed(chain(&error)))?;
    let left = rebuilt.shards - rebuilt.done;
    println!("{}: {} of {} shards are accepted, {left} are left", journal.display(), rebuilt.done, rebuilt.shards);
    Ok(Done::Completely)
}

/// Carries out what is handed in until a signal comes.
async fn submitted(state: &Path, listen: &str, access: Access) -> Result<Done, Failure> {
    let mut signals = Signals::listen()?;
    let coordinator = serve(ServeOptions { access, ..ServeOptions::submitted(state, listen) }).await;
    let coordinator = coordinator.map_err(not_started)?;
    println!("quern: coordinator at {}, runs are kept in {}", coordinator.url(), state.display());
    println!("quern: hand recipes in with `quern submit RECIPE --to {}`", coordinator.url());
    let superseded = coordinator.superseded();
    let ended = tokio::select! { signal = signals.next() => Ok(signal), by = superseded => Err(by) };
    coordinator.shutdown().await;
    let signal = ended?;
    let message = format!("stopped; the same command with the folder {} goes on from here", state.display());
    Err(Failure::Stopped { signal, message })
}

/// Carries out one recipe.
async fn one(recipe: Recipe, arguments: Arguments) -> Result<Done, Failure> {
    let journal = arguments.journal.unwrap_or_else(|| default_journal(&recipe));
    let mut signals = Signals::listen()?;
    let coordinator = start(recipe, &arguments.listen, &journal, arguments.access.access()).await?;
    println!("quern: coordinator at {}, journal {}", coordinator.url(), journal.display());

    let mut progress = RunProgress::new(arguments.progress);
    let ended = tokio::select! {
        ended = follow(&coordinator, &mut progress) => Ok(ended),
        signal = signals.next() => Err(stopped(signal, &journal)),
        by = coordinator.superseded() => Err(Failure::from(by)),
    };
    progress.finish();
    let outcome = match ended {
        Ok(ended) => {
            let end = end_of(&ended.last);
            tokio::select! { () = all_gone(&coordinator), if !arguments.stay => {}, _ = signals.next() => {} }
            end
        }
        Err(failure) => Err(failure),
    };
    coordinator.shutdown().await;
    outcome
}

fn stopped(signal: i32, journal: &Path) -> Failure {
    let message = format!("stopped; the same command with the journal {} goes on from here", journal.display());
    Failure::Stopped { signal, message }
}

/// Waits until no worker is there any more, at most [`FAREWELL`].
async fn all_gone(coordinator: &Coordinator) {
    let mut statuses = coordinator.status();
    let gone = statuses.wait_for(|status| status.workers.iter().all(|worker| worker.state == "lost"));
    // Either way it is time to go.
    let _ = tokio::time::timeout(FAREWELL, gone).await;
}
