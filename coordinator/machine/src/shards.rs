//! Shards: `Pending → Leased{attempts} → Done{part} | Quarantined{reason}`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::event::Refusal;
use crate::ids::{Epoch, Incarnation, ShardId, ShardToken, WorkerId};
use crate::mutation::{Mutation, planted};
use crate::part::PartSummary;
use crate::record::Record;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub token: ShardToken,
    pub worker: WorkerId,
    /// The lease ends here unless the worker is heard.
    pub until_ms: u64,
    pub rows_done: u64,
}

/// Where a shard stands.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shard {
    pub plan: ShardPlan,
    pub state: ShardState,
    /// Attempts that failed or expired.
    pub failures: u32,
}

/// A shard that nobody will work on any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledShard {
    /// The shard.
    pub plan: ShardPlan,
    /// How it ended.
    pub outcome: Settled,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

/// All shards of a run, with the indices and sums that keep every decision cheap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Shards {
    pub all: BTreeMap<ShardId, Shard>,
    /// Pending shards; those that failed least often come first.
    pub pending: BTreeSet<(u32, ShardId)>,
    pub leased: BTreeSet<ShardId>,
    pub totals: Totals,
    pub last_epoch: Epoch,
}

impl Shards {
    /// Whether every shard is done or given up.
    pub fn settled(&self) -> bool {
        self.pending.is_empty() && self.leased.is_empty()
    }

    /// Live attempts, in shard order.
    pub fn attempts(&self) -> impl Iterator<Item = (&Shard, &Attempt)> {
        self.leased.iter().map(|shard| &self.all[shard]).flat_map(|shard| match &shard.state {
            ShardState::Leased { attempts } => attempts.iter().map(|attempt| (shard, attempt)).collect::<Vec<_>>(),
            _ => Vec::new(),
        })
    }

    /// The attempt that `worker` makes under `token`.
    ///
    /// # Errors
    /// When the shard is unknown or the attempt is not a live one of this worker.
    pub fn live(&self, shard: &ShardId, token: ShardToken, worker: WorkerId) -> Result<&Attempt, Refusal> {
        let stale = || Refusal::StaleAttempt { shard: shard.clone(), epoch: token.epoch };
        match &self.all.get(shard).ok_or_else(|| Refusal::UnknownShard(shard.clone()))?.state {
            ShardState::Leased { attempts } => {
                let is_it = |attempt: &&Attempt| {
                    let same_epoch = attempt.token.epoch == token.epoch && attempt.worker == worker;
                    let same_incarnation = attempt.token.incarnation == token.incarnation;
                    (same_epoch || planted(Mutation::SkipEpochCheck))
                        && (same_incarnation || planted(Mutation::SkipIncarnationCheck))
                };
                attempts.iter().find(is_it).ok_or_else(stale)
            }
            _ => Err(stale()),
        }
    }

    /// The shard that `worker` should work on: the one that it holds already (its answer got lost), the pending one that
    /// failed least often, or one whose only holder `is_silent`.
    pub fn choose(&self, worker: WorkerId, is_silent: impl Fn(WorkerId) -> bool) -> Choice<'_> {
        if let Some((shard, attempt)) = self.attempts().find(|(_, attempt)| attempt.worker == worker) {
            return Choice::Held(shard, attempt);
        }
        if let Some((_, shard)) = self.pending.first() {
            return Choice::Grant(&self.all[shard]);
        }
        let forsaken = self.leased.iter().map(|shard| &self.all[shard]).find(|shard| match &shard.state {
            ShardState::Leased { attempts } => attempts.iter().all(|attempt| is_silent(attempt.worker)),
            _ => false,
        });
        forsaken.map_or(Choice::Nothing, Choice::Grant)
    }

    /// The records that end the attempts which `ended` names a reason for; shards that are out of attempts are given up.
    pub fn end_attempts(&self, limit: u32, ended: impl Fn(&Attempt) -> Option<Ending>) -> Vec<Record> {
        let mut records = Vec::new();
        for id in &self.leased {
            let shard = &self.all[id];
            let ShardState::Leased { attempts } = &shard.state else { continue };
            let endings: Vec<_> = attempts.iter().filter_map(|a| ended(a).map(|why| (a.token.epoch, why))).collect();
            let blamed = endings.iter().filter(|(_, why)| !matches!(why, Ending::Returned)).count() as u32;
            let remain = attempts.len() - endings.len();
            let last = endings.last().map(|(_, why)| why.clone());
            records.extend(endings.into_iter().map(|(epoch, why)| why.record(id.clone(), epoch)));
            let failures = shard.failures + blamed;
            if blamed > 0 && remain == 0 && failures >= limit {
                let last = match last {
                    Some(Ending::Failed(reason)) => reason,
                    _ => "its worker was lost".into(),
                };
                let reason = format!("{failures} attempts failed, the last one: {last}");
                records.push(Record::ShardQuarantined { shard: id.clone(), reason });
            }
        }
        records
    }

    pub fn absorb_plan(&mut self, plans: &[ShardPlan]) {
        for plan in plans {
            self.totals.shards += 1;
            self.totals.rows += plan.rows;
            self.pending.insert((0, plan.shard.clone()));
            let shard = Shard { plan: plan.clone(), state: ShardState::Pending, failures: 0 };
            self.all.insert(plan.shard.clone(), shard);
        }
    }

    pub fn absorb_grant(&mut self, id: &ShardId, epoch: Epoch, incarnation: Incarnation, worker: WorkerId, until: u64) {
        let token = ShardToken { incarnation, epoch };
        self.last_epoch = self.last_epoch.max(epoch);
        let attempt = Attempt { token, worker, until_ms: until, rows_done: 0 };
        let shard = self.all.get_mut(id).expect("a lease is granted on a planned shard");
        match &mut shard.state {
            ShardState::Leased { attempts } => attempts.push(attempt),
            state => {
                *state = ShardState::Leased { attempts: vec![attempt] };
                self.pending.remove(&(shard.failures, id.clone()));
                self.leased.insert(id.clone());
            }
        }
    }

    pub fn absorb_end(&mut self, id: &ShardId, epoch: Epoch, blamed: bool) {
        let shard = self.all.get_mut(id).expect("an attempt is made at a planned shard");
        shard.failures += u32::from(blamed);
        let ShardState::Leased { attempts } = &mut shard.state else { return };
        attempts.retain(|attempt| attempt.token.epoch != epoch);
        if attempts.is_empty() {
            shard.state = ShardState::Pending;
            self.leased.remove(id);
            self.pending.insert((shard.failures, id.clone()));
        }
    }

    pub fn absorb_commit(&mut self, id: &ShardId, epoch: Epoch, part: &PartSummary) {
        let shard = self.all.get_mut(id).expect("a part is made of a planned shard");
        let ShardState::Leased { attempts } = &shard.state else { panic!("{id} is committed without an attempt") };
        let attempt = attempts.iter().find(|attempt| attempt.token.epoch == epoch).expect("the attempt is live");
        shard.state = ShardState::Done { token: attempt.token, part: part.clone() };
        self.leased.remove(id);
        self.totals.done += 1;
        self.totals.rows_done += part.rows;
        self.totals.rows_kept += part.kept;
        self.totals.rows_passed += part.passed;
        self.totals.rows_quarantined += part.quarantined;
    }

    pub fn absorb_quarantine(&mut self, id: &ShardId, reason: &str) {
        let shard = self.all.get_mut(id).expect("a planned shard is given up");
        self.pending.remove(&(shard.failures, id.clone()));
        self.leased.remove(id);
        shard.state = ShardState::Quarantined { reason: reason.into() };
        self.totals.quarantined += 1;
        self.totals.rows_quarantined += shard.plan.rows;
    }

    /// Gives every attempt of `worker` (of all workers: `None`) a term until `until_ms`.
    pub fn absorb_renewal(&mut self, worker: Option<WorkerId>, until_ms: u64) {
        self.each_attempt(|attempt| {
            if worker.is_none_or(|worker| attempt.worker == worker) {
                attempt.until_ms = until_ms;
            }
        });
    }

    pub fn absorb_progress(&mut self, id: &ShardId, epoch: Epoch, rows_done: u64) {
        if let Some(Shard { state: ShardState::Leased { attempts }, .. }) = self.all.get_mut(id) {
            for attempt in attempts.iter_mut().filter(|attempt| attempt.token.epoch == epoch) {
                attempt.rows_done = rows_done;
            }
        }
    }

    /// Forgets how far attempts are: their workers will say it again.
    pub fn absorb_restart(&mut self) {
        self.each_attempt(|attempt| attempt.rows_done = 0);
    }

    fn each_attempt(&mut self, mut change: impl FnMut(&mut Attempt)) {
        for id in &self.leased {
            if let Some(Shard { state: ShardState::Leased { attempts }, .. }) = self.all.get_mut(id) {
                attempts.iter_mut().for_each(&mut change);
            }
        }
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

/// What a worker that asks for a shard gets.
pub(crate) enum Choice<'a> {
    /// It holds this one already.
    Held(&'a Shard, &'a Attempt),
    /// A new attempt at this one.
    Grant(&'a Shard),
    Nothing,
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
            Ending::Failed(reason) => Record::AttemptFailed { shard, epoch, reason },
        }
    }
}
