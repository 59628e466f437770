//! What may happen to a machine, and what it answers.

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;

use crate::acceptances::Acceptance;
use crate::ids::{
    Epoch, Generation, Incarnation, Place, Rank, SecretDigest, ShardId, ShardToken, WorkerId, WorldToken,
};
use crate::members::Warmth;
use crate::part::PartSummary;
use crate::record::Record;
use crate::run::Stage;
use crate::shards::ShardPlan;
use crate::tasks::{Task, TaskResult};
use crate::training::{Checkpoint, StepLosses};

/// What may happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A coordinator starts over this journal, which has been absorbed.
    Start {
        /// The time.
        now_ms: u64,
        /// Whether a failed run is taken up again.
        resume: bool,
        /// Its incarnation: larger than that of all coordinators of this output before, or this process' own when it
        /// has only lost its journal for a while.
        incarnation: Incarnation,
        /// Whether this journal knows nothing of the incarnation before.
        behind: bool,
    },
    /// So many acceptances, counted from the journal's first, are written beside the output.
    AcceptancesKept {
        /// How many.
        count: u64,
    },
    /// What coordinators of this run have accepted, as it is written beside the output.
    AcceptancesRead {
        /// All of it whose files are there.
        acceptances: Vec<Acceptance>,
    },
    /// Time has passed.
    Tick {
        /// The time.
        now_ms: u64,
    },
    /// The corpus has been cut into shards.
    Planned {
        /// All readable shards.
        shards: Vec<ShardPlan>,
        /// Files whose footer can't be read: each a shard of 0 rows.
        unreadable: Vec<UnreadableFile>,
    },
    /// The files of the data sets that nobody has milled have been cut into shards.
    Extended {
        /// Their readable shards; known ones do no harm.
        shards: Vec<ShardPlan>,
        /// Files among them that can't be read: each a shard of 0 rows.
        unreadable: Vec<UnreadableFile>,
    },
    /// There is nothing to caption: an earlier run's captions are there.
    CaptionsFound {
        /// Rows with a caption.
        rows: u64,
    },
    /// A chore failed, and trying again can't help.
    ChoreFailed {
        /// Why, in one sentence.
        cause: String,
    },
    /// A chore failed, and will be tried again.
    ChoreDelayed {
        /// Why, in one sentence.
        reason: String,
    },
    /// The manifest of all parts and tasks is in the output.
    ManifestWritten,
    /// An operator asks for something.
    Control(Control),
    /// A worker introduces itself.
    Register(Registration),
    /// A member calls.
    Call {
        /// Who says that it calls.
        caller: Caller,
        /// What it wants.
        call: Call,
    },
}

/// What an operator may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// To begin nothing new. What is in hand is finished, and training stops with a checkpoint.
    Pause {
        /// Why, for those who look.
        reason: String,
    },
    /// To go on with a paused run, or with a failed one where it failed.
    Resume,
    /// To end the run for good. What was accepted stays.
    Cancel {
        /// Why.
        reason: String,
    },
    /// To send a worker away when it has finished what it has in hand.
    Drain {
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// To try rows in quarantine once more.
    Retry {
        /// Those that failed for one of these: `STAGE/REASON` or `REASON`.
        reasons: BTreeSet<String>,
    },
    /// To give work again to a place that was denied it.
    Allow {
        /// The place, its host, or the id or name of a worker that was there.
        name: String,
    },
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Control::Pause { reason } => write!(f, "pause ({reason})"),
            Control::Resume => f.write_str("resume"),
            Control::Cancel { reason } => write!(f, "cancel ({reason})"),
            Control::Drain { worker, reason } => write!(f, "drain {worker} ({reason})"),
            Control::Retry { reasons } => {
                write!(f, "retry {}", reasons.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
            }
            Control::Allow { name } => write!(f, "allow {name}"),
        }
    }
}

/// A file that can't be read, as a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableFile {
    /// The placeholder shard.
    pub shard: ShardPlan,
    /// Why.
    pub reason: String,
}

/// A worker's introduction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// For people: host name and process id.
    pub name: String,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// `host:port` of its collective.
    pub address: String,
    /// Digest of the secret that it is handed.
    pub secret: SecretDigest,
    /// Its machine's host name, which stays when the worker is started again; empty: it says none.
    pub host: String,
    /// Memory of its device; 0: it says nothing of it.
    pub memory_bytes: u64,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The worker that it says it is.
    pub worker: WorkerId,
    /// Digest of the secret that it showed.
    pub secret: SecretDigest,
}

/// How far an attempt is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardProgress {
    /// The shard.
    pub shard: ShardId,
    /// The attempt.
    pub token: ShardToken,
    /// Rows of the shard that are through.
    pub rows_done: u64,
}

/// What a member wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// To stay a member and keep its leases.
    Heartbeat {
        /// What it works on.
        progress: Vec<ShardProgress>,
        /// What it has its models at hand for.
        warm: BTreeSet<Warmth>,
    },
    /// Work.
    Lease,
    /// To have a shard's part accepted.
    Commit {
        /// The shard.
        shard: ShardId,
        /// The attempt.
        token: ShardToken,
        /// What it became.
        part: PartSummary,
    },
    /// To hand a lease back.
    Fail {
        /// The shard.
        shard: ShardId,
        /// The attempt.
        token: ShardToken,
        /// Why.
        reason: String,
        /// Whether trying again can't help.
        permanent: bool,
    },
    /// To have a task's result accepted.
    CommitTask {
        /// The task.
        task: Task,
        /// The attempt.
        token: ShardToken,
        /// What came of it.
        result: TaskResult,
    },
    /// To hand a task back.
    FailTask {
        /// The task.
        task: Task,
        /// The attempt.
        token: ShardToken,
        /// Why.
        reason: String,
    },
    /// A place in the training world.
    JoinWorld {
        /// The generation that it was invited to.
        generation: Generation,
    },
    /// To tell of finished steps.
    ReportSteps {
        /// The world.
        token: WorldToken,
        /// The last step's losses.
        losses: StepLosses,
    },
    /// To have a checkpoint accepted.
    CommitCheckpoint {
        /// The world.
        token: WorldToken,
        /// The checkpoint.
        checkpoint: Checkpoint,
        /// Whether the stage is done with it.
        last: bool,
    },
    /// To say that its world can't go on.
    LeaveWorld {
        /// The world.
        token: WorldToken,
        /// Why.
        reason: String,
    },
    /// To say that it is going away.
    Drain {
        /// Why.
        reason: String,
    },
}

/// What an event makes true, and what may be said once that is durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Facts, to be absorbed in order.
    pub records: Vec<Record>,
    /// The answer. It must not leave before the durable ones among the records are in the journal.
    pub after_durable: Result<Answer, Refusal>,
}

impl Decision {
    pub(crate) fn answer(answer: Answer) -> Self {
        Decision { records: Vec::new(), after_durable: Ok(answer) }
    }

    pub(crate) fn refuse(refusal: Refusal) -> Self {
        Decision { records: Vec::new(), after_durable: Err(refusal) }
    }

    pub(crate) fn noted(records: Vec<Record>) -> Self {
        Decision { records, after_durable: Ok(Answer::Noted) }
    }
}

/// A good answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It is so; nothing more to say.
    Noted,
    /// To a registration.
    Registered {
        /// The worker's name from now on.
        worker: WorkerId,
        /// The coordinator's incarnation.
        incarnation: Incarnation,
    },
    /// To a heartbeat.
    Heard {
        /// Whether the worker is to leave.
        drain: bool,
        /// Whether the run is paused: training is to stop with a checkpoint.
        pause: bool,
        /// Shards that it should stop working on.
        revoked: Vec<ShardId>,
        /// The world's current generation.
        world: Option<Generation>,
    },
    /// To a request for work.
    Work(Work),
    /// To a request for a place in the world.
    Seat(Seat),
    /// The part or checkpoint is accepted (now, or when the same was offered before).
    Accepted,
    /// The part or checkpoint came too late: another one was accepted.
    Superseded {
        /// Why, in one sentence.
        reason: String,
    },
}

/// What a worker is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Make this shard's part.
    Shard {
        /// The shard.
        plan: ShardPlan,
        /// The attempt.
        token: ShardToken,
        /// Other attempts at it that have brought no part, but for those that were handed back.
        without_part: u32,
        /// Which of its rows alone are to be done, when it has a part already.
        redo: Option<Box<Redo>>,
    },
    /// Do this with a checkpoint.
    Task {
        /// The task.
        task: Task,
        /// The attempt.
        token: ShardToken,
        /// The stage that made the checkpoint.
        stage: Stage,
        /// What the stage ended with.
        checkpoint: Checkpoint,
        /// What the run's stage 1 ended with, if it has one.
        stage1: Option<Checkpoint>,
    },
    /// Join the training world.
    World(Generation),
    /// Nothing now: ask again.
    Wait,
    /// The run is over.
    Finished(Finished),
}

/// Rows of a part that are done again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redo {
    /// The part, whose other rows stay as they are.
    pub part: PartSummary,
    /// Its rows in quarantine for one of these are meant: `STAGE/REASON` or `REASON`.
    pub reasons: BTreeSet<String>,
}

/// How the run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Whether it is done.
    pub succeeded: bool,
    /// One sentence.
    pub message: String,
}

/// What becomes of a worker that joins the training world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seat {
    /// The world runs.
    Taken {
        /// The world.
        token: WorldToken,
        /// The worker's place.
        rank: Rank,
        /// Addresses of all ranks, in rank order.
        addresses: Vec<String>,
        /// What is trained.
        stage: Stage,
        /// Where to start from; `None`: from the stage's beginning.
        checkpoint: Option<Checkpoint>,
        /// What this run's stage 1 ended with, if it had one.
        stage1: Option<Checkpoint>,
    },
    /// Others are missing: ask again.
    Wait,
    /// The run is over.
    Finished(Finished),
}

/// Why an event changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The worker is unknown or was given up.
    #[error("{0} is not a member of this run (any more): register again")]
    NotAMember(WorkerId),
    /// The secret is not the one that registration handed out.
    #[error("the secret is not the one that {0} was given at registration")]
    WrongSecret(WorkerId),
    /// The worker said that it is going away.
    #[error("{0} is going away and gets no new work")]
    Draining(WorkerId),
    /// The shard is not in the plan.
    #[error("there is no shard {0} in this run")]
    UnknownShard(ShardId),
    /// The attempt is not a live one of this worker.
    #[error("attempt {epoch} at {shard} is over: drop what was made of it and ask for other work")]
    StaleAttempt {
        /// The shard.
        shard: ShardId,
        /// The attempt.
        epoch: Epoch,
    },
    /// The attempt is not a live one of this worker.
    #[error("attempt {epoch} to {} is over: drop what was made of it and ask for other work", .task.name())]
    StaleTask {
        /// The task.
        task: Task,
        /// The attempt.
        epoch: Epoch,
    },
    /// The generation is not the current one, or the worker is not in it.
    #[error("generation {given} of the training world is over or not yours: stop its step and ask for work again")]
    StaleWorld {
        /// The generation that the worker believes in.
        given: Generation,
    },
    /// Only rank 0 speaks for the world.
    #[error("only rank 0 reports steps and checkpoints, this is rank {0}")]
    NotRankZero(Rank),
    /// The place gets no work.
    #[error("{place} gets no work in this run after {reason}; `quern allow {place}` lifts that")]
    Denied {
        /// The place.
        place: Place,
        /// Why.
        reason: String,
    },
    /// Nothing of this name is denied work.
    #[error("nothing called {0} is denied work; `quern status` lists what is")]
    NotDenied(String),
    /// There is no such worker (any more).
    #[error("there is no worker {0} here; `quern status` lists them")]
    NoSuchWorker(WorkerId),
    /// No row is in quarantine for these reasons.
    #[error("no row is in quarantine for {asked}; what there is: {there}")]
    NothingToRetry {
        /// What was asked for.
        asked: String,
        /// What there is.
        there: String,
    },
    /// The run is not where it can be taken up.
    #[error("the run can't be {what} now: {why}")]
    NotNow {
        /// `retried`, `extended`.
        what: &'static str,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// The run has ended.
    #[error("the run can't be {what}: {explanation}")]
    Over {
        /// `paused`, `resumed`, `cancelled`, `retried`, `extended`.
        what: &'static str,
        /// How it ended.
        explanation: String,
    },
    /// The offer can't be true.
    #[error("{0}")]
    Malformed(String),
}
