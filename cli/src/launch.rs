//! A whole run on this machine: a coordinator in this process, workers in processes of their own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quern_coordinator::{Access, CallError, Coordinator, JournalError, ServeError, ServeOptions, serve};
use quern_corpus::store;
use quern_proto::StatusReply;
use quern_proto::client::ClientOptions;
use quern_recipes::Recipe;
use tokio::sync::watch;

use crate::commands::watch::is_over;
use crate::outcome::{Failure, chain};
use crate::progress::{ProgressOptions, RunProgress};
use crate::signals::Signals;
use crate::workers::{WorkerOptions, Workers};

/// How long workers may take to hear that the run is over.
const FAREWELL: Duration = Duration::from_secs(15);

/// What to run.
pub struct Launch {
    /// The recipe, resolved.
    pub recipe: Recipe,
    /// Worker processes.
    pub workers: usize,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// Where the coordinator listens.
    pub listen: String,
    /// Who is let in.
    pub access: Access,
    /// What the workers show.
    pub client: ClientOptions,
    /// How progress is shown.
    pub progress: ProgressOptions,
    /// The journal's file.
    pub journal: PathBuf,
    /// Folder of the workers' logs.
    pub logs: PathBuf,
    /// What is done of a run that was carried out before.
    pub again: Again,
}

/// What is done of a run that was carried out before.
pub enum Again {
    /// What is left of it, and what has come to its data sets since.
    Rest,
    /// Rows in quarantine for one of these reasons, and what is left of it.
    Retry(BTreeSet<String>),
}

/// How a run went.
pub struct Ended {
    /// Its last status.
    pub last: StatusReply,
    /// Its phases in order, and how long each took here.
    phases: Vec<(String, Duration)>,
}

impl Ended {
    /// Time in a phase; none for one that was over before.
    pub fn in_phase(&self, name: &str) -> Duration {
        self.phases.iter().filter(|(phase, _)| phase == name).map(|(_, time)| *time).sum()
    }
}

/// Runs the recipe to its end.
pub async fn launch(launch: Launch) -> Result<Ended, Failure> {
    check_models(&launch.recipe)?;
    check_held_out(&launch.recipe)?;
    let mut signals = Signals::listen()?;
    let output = launch.recipe.output.clone();
    let trains = launch.recipe.trains();
    let needed = ranks(&launch.recipe).map(|(_, ranks)| ranks as usize).max().unwrap_or(1);
    let coordinator = start(launch.recipe, &launch.listen, &launch.journal, launch.access).await?;
    quern_telemetry::say(&format!("coordinator at {}, journal {}", coordinator.url(), launch.journal.display()));
    take_up(&coordinator, launch.again, trains).await?;
    let options = WorkerOptions {
        coordinator: coordinator.url(),
        client: launch.client,
        device: launch.device,
        logs: launch.logs,
    };
    let mut workers = Workers::start(launch.workers, &options)?;
    let mut progress = RunProgress::new(launch.progress);

    let ended = tokio::select! {
        ended = follow(&coordinator, &mut progress) => Ok(ended),
        by = coordinator.superseded() => Err(Failure::from(by)),
        reason = workers.too_few(needed) => Err(Failure::failed(format!("too few workers are left: {reason}"))),
        signal = signals.next() => Err(Failure::Stopped {
            signal,
            message: "stopped; nothing that was committed is lost, the same command goes on from there".into(),
        }),
    };
    progress.finish();
    if ended.is_err() || tokio::time::timeout(FAREWELL, workers.all_ended()).await.is_err() {
        workers.stop().await;
    }
    coordinator.shutdown().await;
    let ended = ended?;
    if ended.last.phase == "done" {
        check_output(&output, &launch.journal).await?;
    }
    Ok(ended)
}

/// Has a run go on that was over: with rows that are to be retried, or with new files. Captions that were trained on are not
/// added to: such a run that is done is done.
async fn take_up(coordinator: &Coordinator, again: Again, trains: bool) -> Result<(), Failure> {
    let is_done = coordinator.status().borrow().phase == "done";
    let reasons = match again {
        Again::Rest if is_done && !trains => return coordinator.extend().await.map_err(not_taken_up),
        Again::Rest => return Ok(()),
        Again::Retry(reasons) => reasons,
    };
    let mut statuses = coordinator.status();
    loop {
        statuses.borrow_and_update();
        match coordinator.retry(reasons.clone()).await {
            // Its journal is new: it plans, or reads what was accepted.
            Err(error) if error.is_too_early() && !trains && statuses.changed().await.is_ok() => {}
            told => return told.map_err(not_taken_up),
        }
    }
}

fn not_taken_up(error: CallError) -> Failure {
    match error.is_bad_input() {
        true => Failure::bad_input(error.to_string()),
        false => Failure::failed(error.to_string()),
    }
}

/// The ranks that training needs, by the recipe's key.
pub fn ranks(recipe: &Recipe) -> impl Iterator<Item = (&'static str, u32)> {
    let stage1 = recipe.stage1.as_ref().map(|stage1| ("stage1.ranks", stage1.ranks));
    let stage2 = recipe.stage2.as_ref().map(|stage2| ("stage2.ranks", stage2.ranks));
    stage1.into_iter().chain(stage2)
}

/// Starts a coordinator; what is wrong with its journal's folder is said here.
pub async fn start(recipe: Recipe, listen: &str, journal: &Path, access: Access) -> Result<Coordinator, Failure> {
    if let Some(folder) = journal.parent() {
        std::fs::create_dir_all(folder).map_err(|error| {
            Failure::failed(format!("the journal's folder {} can't be made: {error}", folder.display()))
        })?;
    }
    serve(ServeOptions { access, ..ServeOptions::new(recipe, listen, journal) }).await.map_err(not_started)
}

/// Why there is no coordinator.
pub fn not_started(error: ServeError) -> Failure {
    match error {
        ServeError::Journal(JournalError::OtherRun { .. } | JournalError::NoIncarnation { is_passing: false, .. })
        | ServeError::Exposed(_)
        | ServeError::File(_) => Failure::bad_input(error.to_string()),
        error => Failure::failed(chain(&error)),
    }
}

/// Shows every status until the run is over.
pub async fn follow(coordinator: &Coordinator, progress: &mut RunProgress) -> Ended {
    let mut statuses = coordinator.status();
    let mut phases: Vec<(String, Duration)> = Vec::new();
    let mut since = Instant::now();
    loop {
        let last = statuses.borrow_and_update().clone();
        progress.show(&last);
        match phases.last_mut() {
            Some((phase, time)) if *phase == last.phase => *time = since.elapsed(),
            _ => {
                if let Some((_, time)) = phases.last_mut() {
                    *time = since.elapsed();
                }
                since = Instant::now();
                phases.push((last.phase.clone(), Duration::ZERO));
            }
        }
        if is_over(&last) || !changed(&mut statuses, progress).await {
            return Ended { last, phases };
        }
    }
}

/// Waits for the next status, and keeps what is shown going meanwhile; whether there is one.
async fn changed(statuses: &mut watch::Receiver<StatusReply>, progress: &mut RunProgress) -> bool {
    loop {
        tokio::select! {
            changed = statuses.changed() => return changed.is_ok(),
            () = progress.due() => progress.refresh(),
        }
    }
}

/// The journal's place when none is named: beside a local output, else in the current folder.
pub fn default_journal(recipe: &Recipe) -> PathBuf {
    beside_output(recipe, "journal.sqlite")
}

/// The logs' place: as the journal's.
pub fn default_logs(recipe: &Recipe) -> PathBuf {
    beside_output(recipe, "logs")
}

/// Not in the output: that holds only what the recipe determines.
fn beside_output(recipe: &Recipe, what: &str) -> PathBuf {
    match recipe.output.contains("://") {
        true => PathBuf::from(format!("{}.{what}", recipe.name)),
        false => PathBuf::from(format!("{}.{what}", recipe.output.trim_end_matches('/'))),
    }
}

/// What a recipe may name as a model.
const MODEL_FORMS: &str = "it must be a folder with a model in Hugging Face layout, its URL, or hf://owner/name";

/// Local workers read the models from this machine's disk, so a missing folder is known before anything starts. What is
/// behind a URL they fetch, and say themselves when they can't.
fn check_models(recipe: &Recipe) -> Result<(), Failure> {
    let capfilt =
        recipe.capfilt.iter().flat_map(|c| [("capfilt.captioner", &c.captioner), ("capfilt.ranker", &c.ranker)]);
    let stage1 = recipe
        .stage1
        .iter()
        .flat_map(|s| [("stage1.image_encoder", &s.image_encoder), ("stage1.tokenizer", &s.tokenizer)]);
    let stage2 = recipe.stage2.iter().map(|s| ("stage2.language_model", &s.language_model));
    let init = recipe.stage1.iter().filter_map(|s| Some(("stage1.init", s.init.as_ref()?)));
    let encoder = recipe.stage2.iter().filter_map(|s| Some(("stage2.image_encoder", s.image_encoder.as_ref()?)));
    for (key, folder) in capfilt.chain(stage1).chain(init).chain(stage2).chain(encoder) {
        is_there(key, folder, MODEL_FORMS)?;
    }
    Ok(())
}

/// What is evaluated on is read last: it is known to be there before anything starts.
fn check_held_out(recipe: &Recipe) -> Result<(), Failure> {
    let mut datasets = recipe.evaluation.iter().flat_map(quern_recipes::Evaluation::datasets);
    datasets
        .try_for_each(|(key, dataset)| is_there(key, dataset, "it must be a parquet file, a folder of them or a URL"))
}

/// Whether what a key of the recipe names is on this machine's disk, unless it is a URL; `forms` says what it may be.
fn is_there(key: &str, named: &str, forms: &str) -> Result<(), Failure> {
    match named.contains("://") || Path::new(named).exists() {
        true => Ok(()),
        false => Err(Failure::bad_input(format!("`{key}`: there is no {named}; {forms}"))),
    }
}

/// A journal may say that all is done while its output has been deleted.
async fn check_output(output: &str, journal: &Path) -> Result<(), Failure> {
    let folder = store::open(output).map_err(|error| Failure::failed(error.to_string()))?;
    match folder.exists(quern_capfilt::MANIFEST).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::failed(format!(
            "the journal {} says that this run is done, but {output} has no {}: delete the journal to run it again",
            journal.display(),
            quern_capfilt::MANIFEST
        ))),
        Err(error) => Err(Failure::failed(error.to_string())),
    }
}
