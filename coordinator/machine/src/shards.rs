//! Shards: `Pending → Leased{attempts} → Done{part} | Quarantined{reason}`, and once more from there when an operator has
//! rows retried.

mod absorb;
mod again;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::event::Refusal;
use crate::holdings::Holdings;
use crate::ids::{Epoch, Place, ShardId, ShardToken, WorkerId};
use crate::mutation::{Mutation, planted};
use crate::pace::Pace;
use crate::part::PartSummary;
use crate::record::Record;
use crate::slowest::Slowest;

/// A shard as it was planned: a row range of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPlan {
    /// Its name.
    pub shard: ShardId,
    /// The data set's name in the recipe.
    pub dataset: String,
    /// File path relative to the data set's root.
    pub file: String,
    /// First row.
    pub row_start: u64,
    /// Number of rows.
    pub rows: u64,
}

/// A live attempt at a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub token: ShardToken,
    pub worker: WorkerId,
    /// The lease ends here unless the worker is heard.
    pub until_ms: u64,
    /// When it began, or the coordinator started over it.
    pub since_ms: u64,
    pub rows_done: u64,
    /// It began beside another one.
    pub is_second: bool,
}

/// Where a shard stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ShardState {
    Pending,
    /// Someone works on it; never without an attempt.
    Leased {
        attempts: Vec<Attempt>,
    },
    Done {
        token: ShardToken,
        part: PartSummary,
    },
    Quarantined {
        reason: String,
    },
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shard {
    pub plan: ShardPlan,
    pub state: ShardState,
    /// Attempts that failed or expired.
    pub failures: u32,
    /// Who made the last one of these.
    pub failed_at: Option<Place>,
    /// Its part while some of its rows are done again.
    pub before: Option<Box<Before>>,
}

/// What a shard was before some of its rows were retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Before {
    pub token: ShardToken,
    pub part: PartSummary,
    /// What the rows failed for.
    pub reasons: BTreeSet<String>,
}

impl Shard {
    /// A shard that nobody has worked on.
    pub fn new(plan: ShardPlan) -> Self {
        Shard { plan, state: ShardState::Pending, failures: 0, failed_at: None, before: None }
    }

    /// What becomes of it when nothing comes of it any more.
    pub fn given_up(&self, reason: String) -> Record {
        let shard = self.plan.shard.clone();
        match self.before {
            Some(_) => Record::ShardRestored { shard, reason },
            None => Record::ShardQuarantined { shard, reason },
        }
    }

    /// Live attempts.
    pub fn attempts(&self) -> &[Attempt] {
        match &self.state {
            ShardState::Leased { attempts } => attempts,
            _ => &[],
        }
    }

    /// Rows that a live attempt is through with; of two the further one counts.
    fn rows_in_flight(&self) -> u64 {
        self.attempts().iter().map(|attempt| attempt.rows_done).max().unwrap_or(0)
    }
}

/// A shard that nobody will work on any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledShard {
    /// The shard.
    pub plan: ShardPlan,
    /// How it ended.
    pub outcome: Settled,
}

impl SettledShard {
    /// The files of its part, relative to the output; none of a shard that was given up.
    pub fn files(&self) -> impl Iterator<Item = &String> {
        let part = match &self.outcome {
            Settled::Done(part) => Some(part),
            Settled::Quarantined { .. } => None,
        };
        part.into_iter().flat_map(PartSummary::files)
    }
}

/// How a shard ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Its part was accepted.
    Done(PartSummary),
    /// It was given up.
    Quarantined {
        /// Why.
        reason: String,
    },
}

/// Sums over all shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Shards of the plan.
    pub shards: u64,
    /// Shards with an accepted part.
    pub done: u64,
    /// Shards given up.
    pub quarantined: u64,
    /// Rows of the plan.
    pub rows: u64,
    /// Rows in accepted parts.
    pub rows_done: u64,
    /// Rows with captions chosen by CapFilt.
    pub rows_kept: u64,
    /// Rows whose captions were kept as they are.
    pub rows_passed: u64,
    /// Rows that could not be processed, those of shards given up among them.
    pub rows_quarantined: u64,
}

/// Sums over a data set's shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DatasetTotals {
    /// As over all shards.
    pub totals: Totals,
    /// Rows that live attempts are through with.
    pub rows_in_flight: u64,
}

/// Second attempts, begun while a first one was live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SecondAttempts {
    /// How many were ever begun.
    pub begun: u64,
    /// How many of them made the part that was accepted.
    pub won: u64,
}

/// All shards of a run, with the indices and sums that keep every decision cheap.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Shards {
    pub all: BTreeMap<ShardId, Shard>,
    /// Pending shards; those that failed least often come first.
    pub pending: BTreeSet<(u32, ShardId)>,
    pub leased: BTreeSet<ShardId>,
    pub quarantined: BTreeSet<ShardId>,
    pub holdings: Holdings,
    pub totals: Totals,
    /// Rows that live attempts are through with.
    pub rows_in_flight: u64,
    /// The same by data set.
    pub datasets: BTreeMap<String, DatasetTotals>,
    pub slowest: Slowest,
    /// Rows in quarantine by reason, as far as parts say.
    pub reasons: BTreeMap<String, u64>,
    pub second: SecondAttempts,
    pub pace: Pace,
    pub last_epoch: Epoch,
}

impl Shards {
    /// Whether every shard is done or given up.
    pub fn settled(&self) -> bool {
        self.pending.is_empty() && self.leased.is_empty()
    }

    /// Live attempts, in shard order.
    pub fn attempts(&self) -> impl Iterator<Item = (&Shard, &Attempt)> {
        let leased = self.leased.iter().map(|shard| &self.all[shard]);
        leased.flat_map(|shard| shard.attempts().iter().map(move |attempt| (shard, attempt)))
    }

    /// What `worker` works on.
    pub fn held_by(&self, worker: WorkerId) -> Option<(&Shard, &Attempt)> {
        let (epoch, id) = self.holdings.of(worker).next()?;
        Some((&self.all[id], self.attempt(id, epoch)?))
    }

    /// The live attempt of this epoch.
    pub fn attempt(&self, shard: &ShardId, epoch: Epoch) -> Option<&Attempt> {
        self.all.get(shard)?.attempts().iter().find(|attempt| attempt.token.epoch == epoch)
    }

    /// How many of the live attempts run beside another one.
    pub fn second_attempts_live(&self) -> u64 {
        self.holdings.len().saturating_sub(self.leased.len()) as u64
    }

    /// The attempt that `worker` makes under `token`.
    ///
    /// # Errors
    /// When the shard is unknown or the attempt is not a live one of this worker.
    pub fn live(&self, shard: &ShardId, token: ShardToken, worker: WorkerId) -> Result<&Attempt, Refusal> {
        let known = self.all.get(shard).ok_or_else(|| Refusal::UnknownShard(shard.clone()))?;
        let is_it = |attempt: &&Attempt| {
            let same_epoch = attempt.token.epoch == token.epoch && attempt.worker == worker;
            let same_incarnation = attempt.token.incarnation == token.incarnation;
            (same_epoch || planted(Mutation::SkipEpochCheck))
                && (same_incarnation || planted(Mutation::SkipIncarnationCheck))
        };
        let stale = || Refusal::StaleAttempt { shard: shard.clone(), epoch: token.epoch };
        known.attempts().iter().find(is_it).ok_or_else(stale)
    }

    /// The records that end these attempts; shards that are out of attempts are given up.
    pub fn end_attempts(&self, limit: u32, endings: BTreeMap<(ShardId, Epoch), Ending>) -> Vec<Record> {
        let mut by_shard: BTreeMap<ShardId, Vec<(Epoch, Ending)>> = BTreeMap::new();
        for ((id, epoch), ending) in endings {
            by_shard.entry(id).or_default().push((epoch, ending));
        }
        by_shard.into_iter().flat_map(|(id, endings)| self.end_attempts_at(limit, &id, endings)).collect()
    }

    fn end_attempts_at(&self, limit: u32, id: &ShardId, endings: Vec<(Epoch, Ending)>) -> Vec<Record> {
        let shard = &self.all[id];
        let blamed = endings.iter().filter(|(_, why)| !matches!(why, Ending::Returned)).count() as u32;
        let remain = shard.attempts().len() - endings.len();
        let last = endings.last().map(|(_, why)| why.clone());
        let mut records: Vec<_> = endings.into_iter().map(|(epoch, why)| why.record(id.clone(), epoch)).collect();
        let failures = shard.failures + blamed;
        if blamed > 0 && remain == 0 && failures >= limit {
            let last = match last {
                Some(Ending::Failed(reason)) => reason,
                _ => "its worker was lost".into(),
            };
            let reason = format!("{failures} attempts failed, the last one: {last}");
            records.push(shard.given_up(reason));
        }
        records
    }

    /// All shards that are done or given up, in shard order.
    pub fn settled_shards(&self) -> Vec<SettledShard> {
        let outcome = |shard: &Shard| match &shard.state {
            ShardState::Done { part, .. } => Some(Settled::Done(part.clone())),
            ShardState::Quarantined { reason } => Some(Settled::Quarantined { reason: reason.clone() }),
            ShardState::Pending | ShardState::Leased { .. } => None,
        };
        let settle = |shard: &Shard| outcome(shard).map(|outcome| SettledShard { plan: shard.plan.clone(), outcome });
        self.all.values().filter_map(settle).collect()
    }
}

/// Where a shard stands, to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It waits for a worker.
    Pending,
    /// A worker has it.
    Leased,
    /// Its part was accepted.
    Done,
    /// It was given up.
    Quarantined,
}

impl Shards {
    /// All shards in order, with where they stand.
    pub fn standings(&self) -> impl Iterator<Item = (&ShardPlan, Standing)> {
        let standing = |shard: &Shard| match &shard.state {
            ShardState::Pending => Standing::Pending,
            ShardState::Leased { .. } => Standing::Leased,
            ShardState::Done { .. } => Standing::Done,
            ShardState::Quarantined { .. } => Standing::Quarantined,
        };
        self.all.values().map(move |shard| (&shard.plan, standing(shard)))
    }

    /// The accepted part with data whose attempt began last before `before`, if that says one.
    pub fn last_part(&self, before: Option<Epoch>) -> Option<(Epoch, &ShardPlan, &PartSummary)> {
        let accepted = self.all.values().filter_map(|shard| match &shard.state {
            ShardState::Done { token, part } if part.data.is_some() => Some((token.epoch, &shard.plan, part)),
            _ => None,
        });
        accepted.filter(|(epoch, ..)| before.is_none_or(|before| *epoch < before)).max_by_key(|(epoch, ..)| *epoch)
    }
}

/// How an attempt ends without a part.
#[derive(Clone)]
pub(crate) enum Ending {
    Expired,
    Returned,
    Failed(String),
}

impl Ending {
    fn record(self, shard: ShardId, epoch: Epoch) -> Record {
        match self {
            Ending::Expired => Record::LeaseExpired { shard, epoch },
            Ending::Returned => Record::LeaseReturned { shard, epoch },
            Ending::Failed(reason) => Record::AttemptFailed { shard, epoch, reason, permanent: false },
        }
    }
}
