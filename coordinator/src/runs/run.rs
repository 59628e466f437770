//! One run: its ledger, its chores, its clock's ticks, and what is remembered for those who look.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use quern_corpus::store::StoreError;
use quern_machine::{Answer, Config, Control, Event, Incarnation, Machine, MemoryNeeds, Place, StageConfig};
use quern_proto as wire;
use quern_proto::StatusReply;
use quern_recipes::{Cluster, Recipe, redacted};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::log::Log;
use crate::VERSION;
use crate::beside::Beside;
use crate::chores::Chores;
use crate::clock::Clock;
use crate::errors::CallError;
use crate::journal::{JournalError, RunIdentity, SqliteJournal};
use crate::ledger::{self, Ledger, Opened, Opening};
use crate::metrics::{Measured, RunMetrics};
use crate::planning::{self, Planned, PlanningError, spec_of};
use crate::serve::is_over;
use crate::status::Describe;
use crate::web::History;

/// Digits of the recipe's hash that name a run.
const ID_DIGITS: usize = 16;

/// The name of a recipe's run.
pub(super) fn id_of(recipe: &Recipe) -> String {
    recipe.hash().chars().take(ID_DIGITS).collect()
}

/// What a worker is told at registration that never changes.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub heartbeat_ms: u64,
    pub lease_ms: u64,
    pub recipe_json: String,
    pub recipe_hash: String,
    /// How long a worker waits before it asks again.
    pub retry_ms: u64,
}

/// Another coordinator has taken a run's output over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "another coordinator, incarnation {newer}, works on {output} now: this one stops. What it had accepted is not lost. Let \
     only one coordinator work on an output"
)]
pub struct Superseded {
    /// The output.
    pub output: String,
    /// Its coordinator now.
    pub newer: Incarnation,
}

/// One run at work.
pub(crate) struct Run {
    pub id: String,
    pub name: String,
    /// As it may be shown.
    pub output: String,
    /// When it was handed in, since the Unix epoch.
    pub submitted_ms: u64,
    pub terms: Terms,
    /// Where its data sets and its output are.
    pub recipe: Recipe,
    pub log: Arc<Log>,
    pub metrics: Arc<RunMetrics>,
    clock: Arc<dyn Clock>,
    status: watch::Receiver<StatusReply>,
    history: Mutex<History>,
    /// `None` when it is closed.
    ledger: RwLock<Option<Ledger>>,
    background: Mutex<Background>,
}

#[derive(Default)]
struct Background {
    tasks: Vec<JoinHandle<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Run {
    /// Opens or recovers the journal and carries the run on in the background.
    ///
    /// # Errors
    /// When the journal can't be used. What goes wrong later is in the status.
    pub async fn open(
        recipe: Recipe,
        journal: &Path,
        submitted_ms: u64,
        clock: Arc<dyn Clock>,
        superseded: watch::Sender<Option<Superseded>>,
    ) -> Result<Arc<Self>, JournalError> {
        let (id, recipe_hash) = (id_of(&recipe), recipe.hash());
        let beside = Beside::open(&recipe).map_err(|error| no_incarnation(&recipe.output, &error))?;
        let metrics = Arc::new(RunMetrics::new(journal.into()));
        let Opened { ledger, jobs, status, thread, incarnation } =
            open_ledger(&recipe, &recipe_hash, &id, journal.into(), &metrics, Arc::clone(&clock), beside.clone())
                .await?;
        let heartbeat_ms = recipe.cluster.heartbeat_ms;
        let terms = Terms {
            heartbeat_ms,
            lease_ms: recipe.cluster.lease_ms,
            recipe_json: recipe.to_json(),
            recipe_hash: recipe_hash.clone(),
            retry_ms: (heartbeat_ms / 8).clamp(20, 1_000),
        };
        let tick_ms = (recipe.cluster.lease_ms / 8).clamp(10, 1_000);
        let every = Duration::from_millis(recipe.cluster.lease_ms / 2);
        let watching = watch_successors(beside.clone(), incarnation, every, superseded);
        let (name, output) = (recipe.name.clone(), redacted(&recipe.output));
        let chores = Chores {
            recipe: recipe.clone(),
            recipe_hash,
            run_id: id.clone(),
            ledger: ledger.clone(),
            beside,
            incarnation,
        };
        let tasks = vec![
            tokio::spawn(chores.carry_out(jobs)),
            tokio::spawn(tick(ledger.clone(), Duration::from_millis(tick_ms))),
            tokio::spawn(watching),
        ];
        let run = Arc::new(Run {
            id,
            name,
            output,
            submitted_ms,
            terms,
            recipe,
            log: Arc::default(),
            metrics,
            clock,
            status,
            history: Mutex::default(),
            ledger: RwLock::new(Some(ledger)),
            background: Mutex::new(Background { tasks, thread: Some(thread) }),
        });
        let remembering = tokio::spawn(remember(Arc::downgrade(&run), run.statuses()));
        run.background().tasks.push(remembering);
        Ok(run)
    }

    /// Tells an event and waits for the answer.
    ///
    /// # Errors
    /// When the machine refuses, or when nothing happened since the journal can't be written.
    pub async fn tell(&self, event: Event) -> Result<Answer, CallError> {
        self.ledger()?.tell(event).await
    }

    /// Shows the machine to `look` and gives what that made of it.
    ///
    /// # Errors
    /// When it can't be shown now.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Machine) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        self.ledger()?.look(look).await
    }

    fn ledger(&self) -> Result<Ledger, CallError> {
        let ledger = self.ledger.read().unwrap_or_else(PoisonError::into_inner).clone();
        ledger.ok_or_else(|| CallError::Unavailable("the coordinator is stopping".into()))
    }

    /// Tells what an operator asks for, and notes it in the log.
    ///
    /// # Errors
    /// When the machine refuses, or nothing can be journalled.
    pub async fn control(&self, control: Control) -> Result<(), CallError> {
        if matches!(control, Control::Retry { .. }) {
            self.is_of_this_version().await?;
        }
        let asked = control.to_string();
        self.note("info", format!("an operator asks: {asked}"));
        let told = self.tell(Event::Control(control)).await;
        told.map(drop).inspect_err(|error| self.note("warn", format!("refused to {asked}: {error}")))
    }

    /// Looks for files of the data sets that nobody has milled; if there are any, the run goes on with them.
    ///
    /// # Errors
    /// When they can't be read, or the run can't be taken up.
    pub async fn extend(&self) -> Result<(), CallError> {
        self.is_of_this_version().await?;
        let known = self.look(|machine| machine.standings().map(|(plan, _)| spec_of(plan)).collect::<Vec<_>>()).await?;
        let found = planning::extend(&self.recipe, &known).await;
        let Planned { shards, unreadable } = found.map_err(|error| CallError::Unplanned(error.to_string()))?;
        let (more, failed) = (shards.len(), unreadable.len());
        self.tell(Event::Extended { shards, unreadable }).await?;
        if more > 0 {
            self.note("info", format!("{more} more shards of new files are planned; {failed} files can't be read"));
        }
        Ok(())
    }

    /// Parts of two versions don't go together in an output: its manifest names one.
    async fn is_of_this_version(&self) -> Result<(), CallError> {
        let unread = |error: PlanningError| CallError::Unplanned(error.to_string());
        let Some(manifest) = planning::manifest(&self.recipe).await.map_err(unread)? else { return Ok(()) };
        match manifest.versions.get("quern") {
            Some(wrote) if wrote != VERSION => {
                let (output, wrote) = (self.output.clone(), wrote.clone());
                Err(CallError::OtherWriter { output, wrote, coordinator: VERSION })
            }
            _ => Ok(()),
        }
    }

    /// The time on the run's clock.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Writes a line into the run's log.
    pub fn note(&self, level: &str, text: impl Into<String>) {
        self.log.note(self.now_ms(), level, text);
    }

    /// The status now.
    pub fn status(&self) -> watch::Ref<'_, StatusReply> {
        self.status.borrow()
    }

    /// The status now, and its changes.
    pub fn statuses(&self) -> watch::Receiver<StatusReply> {
        self.status.clone()
    }

    /// Returns when the run is over, or the coordinator stops.
    pub fn over(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut status = self.status.clone();
        // An error means that the ledger is gone.
        async move { drop(status.wait_for(is_over).await) }
    }

    /// How the run came along since the coordinator started.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it can use more workers than it has.
    pub fn lacks_workers(&self) -> bool {
        let status = self.status();
        alive(&status) < status.workers_needed
    }

    /// Whether it has more workers than it can use.
    pub fn has_workers_to_spare(&self) -> bool {
        let status = self.status();
        alive(&status) > status.workers_needed
    }

    /// Whether workers of this place get no work in it.
    pub fn denies(&self, place: &Place) -> bool {
        self.status().denied.iter().any(|denied| denied.place == place.0)
    }

    /// What a list says of it.
    pub fn summary(&self) -> wire::RunSummary {
        let status = self.status();
        wire::RunSummary {
            run_id: self.id.clone(),
            name: self.name.clone(),
            phase: status.phase.clone(),
            explanation: status.explanation.clone(),
            rows_done: status.rows_done,
            rows_total: status.rows_total,
            step: status.step,
            steps: status.steps,
            workers: u32::try_from(alive(&status)).unwrap_or(u32::MAX),
            submitted_ms: self.submitted_ms,
            output: self.output.clone(),
            paused: status.paused.clone(),
        }
    }

    /// Ends what it does in the background and closes its journal.
    pub async fn close(&self) {
        let Background { tasks, thread } = std::mem::take(&mut *self.background());
        for task in tasks {
            task.abort();
            // It ends by being aborted: that is the error.
            let _ = task.await;
        }
        *self.ledger.write().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            assert!(matches!(joined, Ok(Ok(()))), "the ledger's thread panicked");
        }
    }

    /// Ends what it does in the background, without waiting.
    pub fn abort(&self) {
        self.background().tasks.iter().for_each(JoinHandle::abort);
        *self.ledger.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn background(&self) -> MutexGuard<'_, Background> {
        self.background.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn alive(status: &StatusReply) -> u64 {
    status.workers.iter().filter(|worker| worker.state == "alive").count() as u64
}

/// Opens the journal and recovers the machine, which may take its time, off the runtime's threads.
async fn open_ledger(
    recipe: &Recipe,
    recipe_hash: &str,
    run_id: &str,
    journal_path: PathBuf,
    metrics: &Arc<RunMetrics>,
    clock: Arc<dyn Clock>,
    beside: Beside,
) -> Result<Opened, JournalError> {
    let identity = RunIdentity { recipe_hash: recipe_hash.into(), output: recipe.output.clone() };
    let describe = Describe { run_id: run_id.into(), name: recipe.name.clone(), output: redacted(&recipe.output) };
    let stage1 = recipe.stage1.as_ref().map(|stage1| StageConfig { ranks: stage1.ranks, steps: stage1.steps });
    let stage2 = recipe.stage2.as_ref().map(|stage2| StageConfig { ranks: stage2.ranks, steps: stage2.steps });
    let Cluster { lease_ms, attempts, worker_failures, min_device_memory_gib, .. } = recipe.cluster;
    let bytes = |gib: Option<f64>| (gib.unwrap_or(0.0) * f64::from(1 << 30)) as u64;
    let memory = MemoryNeeds {
        capfilt_bytes: bytes(min_device_memory_gib.capfilt),
        stage1_bytes: bytes(min_device_memory_gib.stage1),
        stage2_bytes: bytes(min_device_memory_gib.stage2),
    };
    let (evaluate, export) = (recipe.evaluation.is_some(), recipe.export.is_some());
    let config =
        Config { worker_failures, memory, stage1, stage2, evaluate, export, ..Config::new(lease_ms, attempts) };
    let runtime = tokio::runtime::Handle::current();
    let metrics = Arc::clone(metrics);
    let opening = tokio::task::spawn_blocking(move || {
        let journal = SqliteJournal::open(&journal_path, &identity)?;
        let journal = Box::new(Measured { journal, metrics });
        let take = Box::new(move |known: &Machine| {
            let taken = runtime.block_on(beside.take(known.incarnation(), known.kept_acceptances()));
            taken.map_err(|error| no_incarnation(beside.output(), &error))
        });
        ledger::open(Opening { config, journal, clock, describe, take })
    });
    opening.await.expect("recovery doesn't panic on a journal that the machine wrote")
}

fn no_incarnation(output: &str, error: &StoreError) -> JournalError {
    let (output, reason) = (redacted(output), redacted(&error.to_string()));
    JournalError::NoIncarnation { output, reason, is_passing: error.is_passing() }
}

/// Looks every so often whether another coordinator has taken the output over, and says so.
async fn watch_successors(
    beside: Beside,
    own: Incarnation,
    every: Duration,
    superseded: watch::Sender<Option<Superseded>>,
) {
    loop {
        match beside.superseded(own).await {
            Ok(Some(newer)) => {
                // Nobody listens any more when the coordinator is stopping.
                let _ = superseded.send(Some(Superseded { output: redacted(beside.output()), newer }));
                return;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "can't see whether another coordinator works on the output"),
        }
        tokio::time::sleep(every).await;
    }
}

/// Keeps the history while the run changes, and says in the log how it ended.
async fn remember(run: Weak<Run>, mut status: watch::Receiver<StatusReply>) {
    status.mark_changed();
    while status.changed().await.is_ok() {
        let Some(run) = run.upgrade() else { return };
        let now = status.borrow_and_update();
        run.history().add(run.clock.now_ms(), &now);
        if is_over(&now) {
            run.note(if now.phase == "done" { "info" } else { "error" }, now.explanation.clone());
        }
    }
}

async fn tick(ledger: Ledger, every: Duration) {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        // The ledger reads the clock itself at every turn, and says in the status what is wrong.
        let _ = ledger.tell(Event::Tick { now_ms: 0 }).await;
    }
}
