//! The coordinator's chores: cutting the corpus into shards, and writing the manifest when all are settled,
//! and again with every task that is done.
//!
//! A chore is asked for by the state (see `Machine::chore`), so it is asked for again after a restart; doing it twice
//! gives the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, TryFutureExt};
use quern_capfilt::{
    DATA_FOLDER, Manifest, PartEntry, Provenance, QUARANTINE_FOLDER, QuarantinedShard, TaskEntry, read_provenance,
    shard_of,
};
use quern_corpus::store;
use quern_machine::{Acceptance, Event, Incarnation, Settled, SettledShard, SettledTask, ShardTime};
use quern_recipes::Recipe;
use tokio::sync::mpsc;

use crate::VERSION;
use crate::beside::Beside;
use crate::errors::CallError;
use crate::ledger::{Job, Ledger};
use crate::planning::{self, Planned, spec_of};

/// First pause before a chore is tried again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Who does the chores.
pub(crate) struct Chores {
    pub recipe: Recipe,
    pub recipe_hash: String,
    pub run_id: String,
    pub ledger: Ledger,
    pub beside: Beside,
    pub incarnation: Incarnation,
}

impl Chores {
    /// Does jobs as they come, until the ledger is closed.
    pub async fn carry_out(self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Plan => self.deliver(self.plan().await).await,
                Job::ReadAcceptances => self.read_acceptances().await,
                Job::KeepAcceptances { first, acceptances } => self.keep_acceptances(first, &acceptances).await,
                Job::WriteManifest { shards, tasks, slowest } => {
                    self.write_manifest(&shards, &tasks, &slowest).await;
                }
            }
        }
    }

    /// Tells the ledger what came of a chore, again until the journal has it.
    async fn deliver(&self, event: Event) {
        let mut pause = FIRST_PAUSE;
        while let Err(CallError::Unavailable(reason)) = self.ledger.tell(event.clone()).await {
            tracing::warn!(reason, "a chore's result can't be journalled yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn plan(&self) -> Event {
        if let Some(captions) = &self.recipe.captions {
            return match self.find_captions(captions).await {
                Ok(found) => {
                    // Without parts; it states the recipe that the checkpoints beside it were trained by.
                    self.keep_manifest(&[], &[]).await;
                    found
                }
                Err(cause) => Event::ChoreFailed { cause },
            };
        }
        match planning::plan(&self.recipe).await {
            Ok(Planned { shards, unreadable }) => Event::Planned { shards, unreadable },
            Err(error) => Event::ChoreFailed { cause: error.to_string() },
        }
    }

    /// The captions of an earlier run, which must be those of the recipe's data sets.
    async fn find_captions(&self, captions: &str) -> Result<Event, String> {
        let folder = store::open(captions).map_err(|error| error.to_string())?;
        let manifest = Manifest::read(&folder).await.map_err(|error| error.to_string())?;
        let known = |part: &PartEntry| self.recipe.datasets.iter().any(|dataset| dataset.name == part.dataset);
        match manifest.parts.iter().find(|part| !known(part)) {
            Some(part) => Err(format!(
                "{captions} has captions of the data set `{}`, which the recipe does not have: name the data sets as the \
                 run that wrote them",
                part.dataset
            )),
            None => Ok(Event::CaptionsFound { rows: manifest.parts.iter().map(|part| part.kept + part.passed).sum() }),
        }
    }

    async fn write_manifest(&self, shards: &[SettledShard], tasks: &[SettledTask], slowest: &[ShardTime]) {
        self.await_being_current().await;
        let unkept = |error| format!("Which shards took longest can't be written beside the output: {error}");
        self.persist(|| self.beside.keep_slowest(slowest).map_err(unkept).boxed()).await;
        self.keep_manifest(shards, tasks).await;
        self.persist(|| self.try_sweep(shards).boxed()).await;
        self.deliver(Event::ManifestWritten).await;
    }

    /// Writes the manifest, again until the store takes it.
    async fn keep_manifest(&self, shards: &[SettledShard], tasks: &[SettledTask]) {
        self.persist(|| self.try_manifest(shards, tasks).boxed()).await;
    }

    /// Deletes the files of these shards that no accepted part is made of: those that a retried part has replaced, and
    /// those of attempts that brought the same rows from the web with another result. The manifest names none of them, and
    /// while it is due no attempt is live.
    async fn try_sweep(&self, shards: &[SettledShard]) -> Result<(), String> {
        let unswept = |error| format!("Files that nothing names can't be deleted: {error}");
        let output = store::open(&self.recipe.output).map_err(unswept)?;
        let ours: BTreeSet<&str> = shards.iter().map(|shard| &*shard.plan.shard.0).collect();
        let named: BTreeSet<&String> = shards.iter().flat_map(SettledShard::files).collect();
        for folder in [DATA_FOLDER, QUARANTINE_FOLDER] {
            for file in output.list(folder).await.map_err(unswept)? {
                let is_ours = shard_of(&file).is_some_and(|shard| ours.contains(shard));
                if is_ours && !named.contains(&file) {
                    tracing::info!(file, "nothing names this file any more: it is deleted");
                    output.delete(&file).await.map_err(unswept)?;
                }
            }
        }
        Ok(())
    }

    async fn read_acceptances(&self) {
        let unread = |error| format!("What was accepted before can't be read beside the output: {error}");
        let acceptances = self.persist(|| self.beside.read().map_err(unread).boxed()).await;
        tracing::info!(acceptances = acceptances.len(), "what was accepted before is read from beside the output");
        self.deliver(Event::AcceptancesRead { acceptances }).await;
    }

    async fn keep_acceptances(&self, first: u64, acceptances: &[Acceptance]) {
        self.await_being_current().await;
        let unkept = |error| format!("What was accepted can't be written beside the output: {error}");
        self.persist(|| self.beside.keep(self.incarnation, first, acceptances).map_err(unkept).boxed()).await;
        self.deliver(Event::AcceptancesKept { count: first + acceptances.len() as u64 }).await;
    }

    /// Returns when no other coordinator works on the output; never, when one does: then this one is about to stop, and
    /// writes nothing any more.
    async fn await_being_current(&self) {
        let is_current = || {
            let unseen = |error| format!("Whether another coordinator works on the output can't be seen: {error}");
            self.beside.superseded(self.incarnation).map_err(unseen).boxed()
        };
        if self.persist(is_current).await.is_some() {
            std::future::pending::<()>().await;
        }
    }

    /// Does a piece of work again until the store takes it; says meanwhile what is wrong.
    async fn persist<'a, T>(&self, work: impl Fn() -> BoxFuture<'a, Result<T, String>>) -> T {
        let mut pause = FIRST_PAUSE;
        loop {
            let reason = match work().await {
                Ok(done) => return done,
                Err(reason) => reason,
            };
            tracing::warn!(reason, "a chore is put off");
            self.deliver(Event::ChoreDelayed { reason }).await;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_manifest(&self, shards: &[SettledShard], tasks: &[SettledTask]) -> Result<(), String> {
        let unwritten = |error: &dyn std::error::Error| format!("The manifest can't be written: {error}");
        let output = store::open(&self.recipe.output).map_err(|error| unwritten(&error))?;
        let mut parts = Vec::new();
        let mut quarantined = Vec::new();
        for SettledShard { plan, outcome } in shards {
            let shard = spec_of(plan);
            match outcome {
                Settled::Done(part) => parts.push(PartEntry {
                    shard: shard.shard,
                    dataset: shard.dataset,
                    file: shard.file,
                    row_start: shard.row_start,
                    rows: part.rows,
                    kept: part.kept,
                    passed: part.passed,
                    quarantined: part.quarantined,
                    data: part.data.clone(),
                    quarantine: part.quarantine.clone(),
                    digest: part.digest.clone(),
                    bytes: part.bytes,
                    reasons: part.reasons.clone(),
                }),
                Settled::Quarantined { reason } => {
                    quarantined.push(QuarantinedShard { shard, reason: reason.clone() });
                }
            }
        }
        let provenance = self.provenance(&output, &parts).await?;
        let tasks = tasks.iter().map(entry_of).collect();
        let manifest = Manifest::new(&self.recipe, &provenance, BTreeMap::new(), parts, quarantined);
        let manifest = Manifest { tasks, ..manifest };
        manifest.write(&output).await.map_err(|error| unwritten(&error))
    }

    /// Where all parts came from. The models' digests are those that the first part with ranked rows carries: the models
    /// themselves need not be where the coordinator is.
    async fn provenance(&self, output: &store::Folder, parts: &[PartEntry]) -> Result<Provenance, String> {
        let ranked = parts.iter().filter(|part| part.kept > 0).find_map(|part| part.data.as_ref());
        let models = match ranked {
            None => BTreeMap::new(),
            Some(name) => {
                let unread = |error: &dyn std::error::Error| format!("The part {name} can't be read back: {error}");
                let bytes = output.get(name).await.map_err(|error| unread(&error))?;
                read_provenance(bytes).map_err(|error| unread(&error))?.models
            }
        };
        Ok(Provenance {
            run_id: self.run_id.clone(),
            recipe_hash: self.recipe_hash.clone(),
            seed: self.recipe.seed,
            models,
            version: VERSION.into(),
        })
    }
}

fn entry_of(settled: &SettledTask) -> TaskEntry {
    let SettledTask { task, checkpoint, result } = settled;
    TaskEntry {
        task: task.name().into(),
        checkpoint: checkpoint.path.clone(),
        path: result.path.clone(),
        digest: result.digest.clone(),
    }
}
