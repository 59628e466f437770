//! The runs of a coordinator: one that it was started with, or those that were handed in, in the order in which they
//! came.
//!
//! Each run is a machine with a journal, a clock and chores of its own ([`Run`]); nothing that happens to one touches
//! another. What they share are the workers: a worker is a member of one run at a time. It joins the first run that can
//! use it, and is let go when its run can't use it any more and another one can ([`Runs::better_use`]).

mod home;
mod log;
mod run;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use quern_machine::Place;
use quern_proto as wire;
use quern_recipes::{Recipe, redacted};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::errors::CallError;
use crate::journal::JournalError;
use crate::serve::is_over;

pub use home::HomeError;
pub(crate) use run::Run;
pub use run::Superseded;

use home::{Home, Submission};

/// All runs.
pub(crate) struct Runs {
    all: RwLock<Vec<Arc<Run>>>,
    /// Where those that are handed in are kept; `None`: none may be.
    home: Option<Home>,
    clock: Arc<dyn Clock>,
    /// One recipe is taken in at a time.
    door: tokio::sync::Mutex<()>,
    /// The first run whose output another coordinator has taken over.
    superseded: watch::Sender<Option<Superseded>>,
}

impl Runs {
    /// One run, and no other.
    ///
    /// # Errors
    /// When its journal can't be used.
    pub async fn one(recipe: Recipe, journal: &Path, clock: Arc<dyn Clock>) -> Result<Self, JournalError> {
        let superseded = watch::Sender::new(None);
        let run = Run::open(recipe, journal, clock.now_ms(), Arc::clone(&clock), superseded.clone()).await?;
        let door = tokio::sync::Mutex::default();
        Ok(Runs { all: RwLock::new(vec![run]), home: None, clock, door, superseded })
    }

    /// The runs that were handed in before, and those that will be.
    ///
    /// # Errors
    /// When the folder, what is kept there, or a journal can't be used.
    pub async fn submitted(folder: &Path, clock: Arc<dyn Clock>) -> Result<Self, HomeError> {
        let home = Home::open(folder)?;
        let superseded = watch::Sender::new(None);
        let mut all = Vec::new();
        for submission in home.submissions()? {
            let journal = home.journal(&submission.recipe);
            let Submission { recipe, submitted_ms } = submission;
            all.push(Run::open(recipe, &journal, submitted_ms, Arc::clone(&clock), superseded.clone()).await?);
        }
        let door = tokio::sync::Mutex::default();
        Ok(Runs { all: RwLock::new(all), home: Some(home), clock, door, superseded })
    }

    /// Whether recipes may be handed in.
    pub fn are_submitted(&self) -> bool {
        self.home.is_some()
    }

    /// Takes a recipe in; it is kept before this returns. Says whether it was known.
    ///
    /// # Errors
    /// When the recipe is none, this coordinator takes none, or it can't be kept.
    pub async fn submit(&self, recipe_json: &str) -> Result<(Arc<Run>, bool), CallError> {
        let home = self.home.as_ref().ok_or(CallError::OneRunOnly)?;
        let recipe = Recipe::from_json(recipe_json).map_err(|error| CallError::Malformed(error.to_string()))?;
        let _alone = self.door.lock().await;
        let id = run::id_of(&recipe);
        if let Some(known) = self.list().into_iter().find(|run| run.id == id) {
            return match known.output == redacted(&recipe.output) {
                true => Ok((known, true)),
                false => Err(CallError::KnownElsewhere { run: id, output: known.output.clone() }),
            };
        }
        let unkept = |error: String| CallError::Unavailable(format!("the recipe can't be kept: {error}"));
        let submitted_ms = self.clock.now_ms();
        home.keep(&recipe, submitted_ms).map_err(|error| unkept(error.to_string()))?;
        let journal = home.journal(&recipe);
        let (clock, superseded) = (Arc::clone(&self.clock), self.superseded.clone());
        let opened = Run::open(recipe, &journal, submitted_ms, clock, superseded).await;
        let run = opened.map_err(|error| unkept(error.to_string()))?;
        self.all.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&run));
        Ok((run, false))
    }

    /// All runs, in the order in which they came.
    pub fn list(&self) -> Vec<Arc<Run>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The run that a worker belongs to.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(&self, credentials: &wire::Credentials) -> Result<Arc<Run>, CallError> {
        let found = self.list().into_iter().find(|run| run.id == credentials.run);
        found.ok_or_else(|| CallError::UnknownRun(credentials.run.clone()))
    }

    /// The run that is meant: by its id, the start of its id, or its name; the first that is not over, or else the last,
    /// when nothing is said.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn named(&self, said: &str) -> Result<Arc<Run>, CallError> {
        let all = self.list();
        if said.is_empty() {
            let first = all.iter().find(|run| !is_over(&run.status()));
            return first.or(all.last()).cloned().ok_or(CallError::NoRuns);
        }
        let mut meant = all.iter().filter(|run| run.name == said || run.id.starts_with(said));
        match (meant.next(), meant.count()) {
            (Some(run), 0) => Ok(Arc::clone(run)),
            (Some(_), more) => Err(CallError::SeveralRuns { said: said.into(), runs: more + 1 }),
            (None, _) => Err(CallError::UnknownRun(said.into())),
        }
    }

    /// The run that a new worker joins: the first that can use one more, or else the first that is not over. Where no
    /// recipes are handed in it is the one run, over or not: there the worker hears how it ended. Where a run has denied
    /// this place work, others come first.
    pub fn for_new_worker(&self, place: &Place) -> Option<Arc<Run>> {
        let all = self.list();
        if !self.are_submitted() {
            return all.first().cloned();
        }
        let open = || all.iter().filter(|run| !is_over(&run.status()));
        let welcome = || open().filter(|run| !run.denies(place));
        welcome().find(|run| run.lacks_workers()).or(welcome().next()).or(open().next()).cloned()
    }

    /// Another run that a worker of `run` is needed by, when `run` can do without one.
    pub fn better_use(&self, run: &Run) -> Option<Arc<Run>> {
        let others = || self.list().into_iter().filter(|other| other.id != run.id);
        others().find(|other| other.lacks_workers()).filter(|_| run.has_workers_to_spare())
    }

    /// Waits until another coordinator has taken the output of a run over.
    pub fn superseded(&self) -> impl Future<Output = Superseded> + Send + 'static {
        let mut superseded = self.superseded.subscribe();
        async move {
            match superseded.wait_for(Option::is_some).await.map(|by| by.clone()) {
                Ok(Some(by)) => by,
                // Nobody looks any more: the coordinator is gone.
                _ => std::future::pending().await,
            }
        }
    }

    /// Ends what the runs do in the background and closes their journals.
    pub async fn close(&self) {
        for run in self.list() {
            run.close().await;
        }
    }

    /// Ends what the runs do in the background, without waiting.
    pub fn abort(&self) {
        self.list().iter().for_each(|run| run.abort());
    }
}

/// Tells of changes until the server stops.
pub(crate) type Stopping = watch::Receiver<bool>;
