//! The facts that make up a run's history.
//!
//! Their names and fields are the journal's format: they are added to, never renamed or given another meaning.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::acceptances::Acceptance;
use crate::ids::{Epoch, Generation, Incarnation, Place, SecretDigest, ShardId, WorkerId};
use crate::members::Warmth;
use crate::part::PartSummary;
use crate::shards::ShardPlan;
use crate::tasks::{Task, TaskResult};
use crate::training::StepLosses;

/// One fact. Times are milliseconds of the coordinator's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// A coordinator took this journal over. Members count as heard now, leases and memberships get a full term.
    CoordinatorStarted {
        /// Its incarnation.
        incarnation: Incarnation,
        /// When.
        at_ms: u64,
        /// The end of every live lease's term.
        until_ms: u64,
        /// Whether this journal knows nothing of the incarnation before.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        behind: bool,
    },
    /// So many acceptances, counted from the journal's first, are written beside the output.
    AcceptancesKept {
        /// How many.
        count: u64,
    },
    /// What other journals of this run have accepted was read beside the output.
    AcceptancesRead {
        /// All of it.
        acceptances: Vec<Acceptance>,
    },
    /// The corpus was cut into shards.
    Planned {
        /// All of them.
        shards: Vec<ShardPlan>,
    },
    /// Files that came later were cut into shards, or such as couldn't be read before; a run that was done goes on with
    /// them.
    ShardsAdded {
        /// All of them.
        shards: Vec<ShardPlan>,
    },
    /// Rows that failed for these reasons are to be tried again; a run that was done goes on with them.
    ShardsRetried {
        /// `STAGE/REASON` or `REASON`.
        reasons: BTreeSet<String>,
        /// The shards that have such rows, or were given up.
        shards: Vec<ShardId>,
    },
    /// Nothing came of retrying a shard's rows: its part is what it was.
    ShardRestored {
        /// The shard.
        shard: ShardId,
        /// Why.
        reason: String,
    },
    /// Another journal of this run has accepted a later part of a shard.
    ShardReplaced {
        /// The shard.
        shard: ShardId,
        /// What it became.
        part: PartSummary,
    },
    /// An earlier run's captions are trained on: there are no shards.
    CaptionsTaken {
        /// Rows with a caption.
        rows: u64,
    },
    /// A worker became a member.
    WorkerRegistered {
        /// Its name from now on.
        worker: WorkerId,
        /// For people: host name and process id.
        name: String,
        /// `cpu`, `cuda:0`.
        device: String,
        /// `host:port` of its collective.
        address: String,
        /// Digest of its secret.
        secret: SecretDigest,
        /// When.
        at_ms: u64,
        /// Its machine's host name; empty: it said none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        host: String,
        /// Memory of its device; 0: it said nothing of it.
        #[serde(default, skip_serializing_if = "is_zero")]
        memory_bytes: u64,
    },
    /// A place failed so often that it gets no work any more, under whatever worker's name.
    PlaceDenied {
        /// The place.
        place: Place,
        /// How, in one sentence.
        reason: String,
    },
    /// An operator lifted that.
    PlaceAllowed {
        /// The place.
        place: Place,
    },
    /// A worker said that it is going away; it gets no new work.
    WorkerDraining {
        /// The worker.
        worker: WorkerId,
        /// Why, in its words.
        reason: String,
    },
    /// An operator sent a worker away; it gets no new work.
    WorkerSentAway {
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// A worker was silent for too long; it is no longer a member.
    WorkerLost {
        /// The worker.
        worker: WorkerId,
    },
    /// An attempt at a shard began.
    LeaseGranted {
        /// The shard.
        shard: ShardId,
        /// The attempt.
        epoch: Epoch,
        /// Who granted it.
        incarnation: Incarnation,
        /// Who makes it.
        worker: WorkerId,
        /// When the lease ends unless the worker is heard.
        until_ms: u64,
    },
    /// An attempt ended because its worker was lost. It counts as a failed one.
    LeaseExpired {
        /// The shard.
        shard: ShardId,
        /// The attempt.
        epoch: Epoch,
    },
    /// An attempt ended because its worker is going away. It doesn't count.
    LeaseReturned {
        /// The shard.
        shard: ShardId,
        /// The attempt.
        epoch: Epoch,
    },
    /// An attempt ended without a part.
    AttemptFailed {
        /// The shard.
        shard: ShardId,
        /// The attempt.
        epoch: Epoch,
        /// Why, in the worker's words.
        reason: String,
        /// Whether trying again can't help: then it is the shard's fault and not the worker's.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        permanent: bool,
    },
    /// A shard's part was accepted; all attempts at it ended.
    ShardCommitted {
        /// The shard.
        shard: ShardId,
        /// The attempt that made it.
        epoch: Epoch,
        /// What it became.
        part: PartSummary,
        /// How long the attempt took, as far as the coordinator that accepts it has seen it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        took_ms: Option<u64>,
    },
    /// A shard was given up: all its rows count as quarantined; all attempts at it ended.
    ShardQuarantined {
        /// The shard.
        shard: ShardId,
        /// Why.
        reason: String,
    },
    /// The manifest of all parts, and of the tasks that are done, is in the output.
    ManifestWritten,
    /// Stage 1 began: a training world is forming.
    Stage1Started {
        /// Its first generation.
        generation: Generation,
    },
    /// Stage 2 began: a training world is forming.
    Stage2Started {
        /// Its first generation.
        generation: Generation,
    },
    /// All stages are done: this is to be done with what they made.
    TaskStarted {
        /// The task.
        task: Task,
    },
    /// An attempt at a task began. It lasts as long as its worker's membership.
    TaskGranted {
        /// The task.
        task: Task,
        /// The attempt.
        epoch: Epoch,
        /// Who granted it.
        incarnation: Incarnation,
        /// Who makes it.
        worker: WorkerId,
    },
    /// An attempt at a task ended because its worker is going away. It doesn't count.
    TaskReturned {
        /// The task.
        task: Task,
        /// The attempt.
        epoch: Epoch,
    },
    /// An attempt at a task ended because its worker was lost.
    TaskExpired {
        /// The task.
        task: Task,
        /// The attempt.
        epoch: Epoch,
    },
    /// An attempt at a task ended without a result.
    TaskFailed {
        /// The task.
        task: Task,
        /// The attempt.
        epoch: Epoch,
        /// Why, in the worker's words.
        reason: String,
    },
    /// A task's result was accepted.
    TaskDone {
        /// The task.
        task: Task,
        /// The attempt.
        epoch: Epoch,
        /// What came of it.
        result: TaskResult,
    },
    /// A worker waits in the forming world.
    WorldJoined {
        /// The world's generation.
        generation: Generation,
        /// The worker.
        worker: WorkerId,
    },
    /// A worker left the forming world.
    WorldLeft {
        /// The world's generation.
        generation: Generation,
        /// The worker.
        worker: WorkerId,
    },
    /// The world runs.
    WorldFormed {
        /// Its generation.
        generation: Generation,
        /// Who formed it.
        incarnation: Incarnation,
        /// The workers, in rank order.
        ranks: Vec<WorkerId>,
    },
    /// The world lost a rank: this generation is over, the next one is forming.
    WorldBroken {
        /// The generation that is over.
        generation: Generation,
        /// Why.
        reason: String,
        /// How many generations in a row have now ended before they got any further than those before.
        fruitless: u32,
    },
    /// A checkpoint was accepted: training resumes from it.
    CheckpointAccepted {
        /// The generation that made it.
        generation: Generation,
        /// Its step.
        step: u64,
        /// Its folder relative to the output.
        path: String,
        /// Digest of its contents.
        digest: String,
        /// Whether the stage is done with it.
        last: bool,
    },
    /// The run is done.
    RunFinished,
    /// The run has failed.
    RunFailed {
        /// Why, in one sentence.
        cause: String,
    },
    /// A failed run is taken up again where it failed.
    RunResumed,
    /// An operator paused the run.
    RunPaused {
        /// Why.
        reason: String,
    },
    /// A paused run goes on.
    RunUnpaused,
    /// An operator ended the run.
    RunCancelled {
        /// Why.
        reason: String,
    },

    /// Not journalled: it is later now.
    TimePassed {
        /// The time.
        now_ms: u64,
    },
    /// Not journalled: a worker was heard; its leases are renewed.
    WorkerHeard {
        /// The worker.
        worker: WorkerId,
        /// When.
        at_ms: u64,
        /// The end of its leases' new term.
        until_ms: u64,
    },
    /// Not journalled: a worker asked for work, and there was none for it.
    WorkerWaits {
        /// The worker.
        worker: WorkerId,
        /// When.
        at_ms: u64,
    },
    /// Not journalled: for which work a worker has its models at hand has changed.
    WorkerWarmed {
        /// The worker.
        worker: WorkerId,
        /// For which.
        warm: BTreeSet<Warmth>,
    },
    /// Not journalled: how far an attempt is.
    ShardProgressed {
        /// The shard.
        shard: ShardId,
        /// The attempt.
        epoch: Epoch,
        /// Rows of the shard that are through.
        rows_done: u64,
    },
    /// Not journalled: training got this far.
    StepsReported {
        /// The generation that trains.
        generation: Generation,
        /// The last step's losses.
        losses: StepLosses,
    },
    /// Not journalled: a chore of the coordinator fails for now and is tried again.
    ChoreDelayed {
        /// Why, in one sentence.
        reason: String,
    },
}

impl Record {
    /// Whether the record belongs in the journal.
    pub fn is_durable(&self) -> bool {
        !matches!(
            self,
            Record::TimePassed { .. }
                | Record::WorkerHeard { .. }
                | Record::WorkerWaits { .. }
                | Record::WorkerWarmed { .. }
                | Record::ShardProgressed { .. }
                | Record::StepsReported { .. }
                | Record::ChoreDelayed { .. }
        )
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
