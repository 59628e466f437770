//! Facts about shards. Each keeps the indices and sums in step.

use super::{Attempt, Shard, ShardPlan, ShardState, Shards, Totals};
use crate::again::GIVEN_UP;
use crate::ids::{Epoch, Incarnation, Place, ShardId, ShardToken, WorkerId};
use crate::part::PartSummary;
use crate::slowest::ShardTime;

/// Reasons that are counted one by one; the rest is [`OTHER`].
const REASONS: usize = 256;
pub(super) const OTHER: &str = "shard/other";

impl Shards {
    pub fn absorb_plan(&mut self, plans: &[ShardPlan]) {
        for plan in plans {
            self.datasets.entry(plan.dataset.clone()).or_default();
            self.pending.insert((0, plan.shard.clone()));
            self.all.insert(plan.shard.clone(), Shard::new(plan.clone()));
            self.count(&plan.shard, |totals| {
                totals.shards += 1;
                totals.rows += plan.rows;
            });
        }
    }

    pub fn absorb_grant(&mut self, id: &ShardId, token: ShardToken, worker: WorkerId, now_ms: u64, until_ms: u64) {
        self.last_epoch = self.last_epoch.max(token.epoch);
        self.holdings.add(id, token.epoch, worker, until_ms);
        let shard = self.all.get_mut(id).expect("a lease is granted on a planned shard");
        let is_second = !shard.attempts().is_empty();
        let attempt = Attempt { token, worker, until_ms, since_ms: now_ms, rows_done: 0, is_second };
        match &mut shard.state {
            ShardState::Leased { attempts } => {
                attempts.push(attempt);
                self.second.begun += 1;
            }
            state => {
                *state = ShardState::Leased { attempts: vec![attempt] };
                self.pending.remove(&(shard.failures, id.clone()));
                self.leased.insert(id.clone());
            }
        }
    }

    /// An attempt ended without a part; by the fault of the worker at `blamed`, if that says one.
    pub fn absorb_end(&mut self, id: &ShardId, epoch: Epoch, blamed: Option<Place>) {
        let shard = self.all.get_mut(id).expect("an attempt is made at a planned shard");
        shard.failures += u32::from(blamed.is_some());
        shard.failed_at = blamed.or(shard.failed_at.take());
        let rows_before = shard.rows_in_flight();
        let ShardState::Leased { attempts } = &mut shard.state else { return };
        for ended in attempts.extract_if(.., |attempt| attempt.token.epoch == epoch) {
            self.holdings.remove(epoch, ended.worker, ended.until_ms);
        }
        if attempts.is_empty() {
            shard.state = ShardState::Pending;
            self.leased.remove(id);
            self.pending.insert((shard.failures, id.clone()));
        }
        self.count_in_flight(id, rows_before);
    }

    /// The attempt of the worker `by` is about to be accepted.
    pub fn absorb_time(&mut self, id: &ShardId, took_ms: Option<u64>, by: &str) {
        let (Some(took_ms), Some(shard)) = (took_ms, self.all.get(id)) else { return };
        let attempts = shard.failures + shard.attempts().len() as u32;
        let (shard, rows) = (id.clone(), shard.plan.rows);
        self.slowest.offer(ShardTime { shard, rows, took_ms, attempts, worker: by.into() });
    }

    pub fn absorb_commit(&mut self, id: &ShardId, epoch: Epoch, part: &PartSummary, now_ms: u64) {
        let made = self.all[id].attempts().iter().find(|attempt| attempt.token.epoch == epoch);
        let made = made.unwrap_or_else(|| panic!("{id} is committed without the attempt {epoch}"));
        let (token, took_ms) = (made.token, now_ms.saturating_sub(made.since_ms));
        self.second.won += u64::from(made.is_second);
        self.pace.add(took_ms, part.rows);
        self.settle(id, ShardState::Done { token, part: part.clone() });
        self.count_done(id, part);
    }

    /// A part that another journal of this run has accepted. What is settled here stays as it is.
    pub fn absorb_recovered(&mut self, id: &ShardId, part: &PartSummary) {
        let known = self.all.get(id);
        if known.is_none_or(|shard| matches!(shard.state, ShardState::Done { .. } | ShardState::Quarantined { .. })) {
            return;
        }
        // No attempt of this journal's has made it: the epoch is one that nobody is given, for each part another.
        self.last_epoch = self.last_epoch.next();
        let token = ShardToken { incarnation: Incarnation(0), epoch: self.last_epoch };
        self.settle(id, ShardState::Done { token, part: part.clone() });
        self.count_done(id, part);
    }

    pub(super) fn count_done(&mut self, id: &ShardId, part: &PartSummary) {
        for (reason, rows) in &part.reasons {
            self.count_reason(reason, *rows);
        }
        self.count(id, |totals| {
            totals.done += 1;
            totals.rows_done += part.rows;
            totals.rows_kept += part.kept;
            totals.rows_passed += part.passed;
            totals.rows_quarantined += part.quarantined;
        });
    }

    pub fn absorb_quarantine(&mut self, id: &ShardId, reason: &str) {
        self.settle(id, ShardState::Quarantined { reason: reason.into() });
        self.quarantined.insert(id.clone());
        let rows = self.all[id].plan.rows;
        self.count(id, |totals| {
            totals.quarantined += 1;
            totals.rows_quarantined += rows;
        });
        self.count_reason(GIVEN_UP, rows);
    }

    /// Counts in the sums over all shards and in those over the shard's data set.
    pub(super) fn count(&mut self, id: &ShardId, add: impl Fn(&mut Totals)) {
        add(&mut self.totals);
        if let Some(of) = self.datasets.get_mut(&self.all[id].plan.dataset) {
            add(&mut of.totals);
        }
    }

    /// The shard had so many rows in flight before.
    fn count_in_flight(&mut self, id: &ShardId, rows_before: u64) {
        let shard = &self.all[id];
        let rows = shard.rows_in_flight();
        self.rows_in_flight = self.rows_in_flight - rows_before + rows;
        if let Some(of) = self.datasets.get_mut(&shard.plan.dataset) {
            of.rows_in_flight = of.rows_in_flight - rows_before + rows;
        }
    }

    fn count_reason(&mut self, reason: &str, rows: u64) {
        if rows == 0 {
            return;
        }
        let is_listed = self.reasons.contains_key(reason) || self.reasons.len() < REASONS;
        *self.reasons.entry(if is_listed { reason } else { OTHER }.into()).or_default() += rows;
    }

    pub(super) fn settle(&mut self, id: &ShardId, state: ShardState) {
        let shard = self.all.get_mut(id).expect("a planned shard is settled");
        let rows_before = shard.rows_in_flight();
        for ended in shard.attempts() {
            self.holdings.remove(ended.token.epoch, ended.worker, ended.until_ms);
        }
        self.pending.remove(&(shard.failures, id.clone()));
        self.leased.remove(id);
        (shard.state, shard.before) = (state, None);
        self.count_in_flight(id, rows_before);
    }

    /// Gives every attempt of `worker` a term until `until_ms`.
    pub fn absorb_renewal(&mut self, worker: WorkerId, until_ms: u64) {
        let held: Vec<_> = self.holdings.of(worker).map(|(epoch, shard)| (epoch, shard.clone())).collect();
        for (epoch, id) in held {
            self.renew(&id, |attempt| attempt.token.epoch == epoch, until_ms);
        }
    }

    /// Gives every attempt a term until `until_ms`.
    pub fn absorb_renewal_of_all(&mut self, until_ms: u64) {
        let leased: Vec<_> = self.leased.iter().cloned().collect();
        leased.iter().for_each(|id| self.renew(id, |_| true, until_ms));
    }

    fn renew(&mut self, id: &ShardId, which: impl Fn(&Attempt) -> bool, until_ms: u64) {
        if let Some(Shard { state: ShardState::Leased { attempts }, .. }) = self.all.get_mut(id) {
            for attempt in attempts.iter_mut().filter(|attempt| which(attempt)) {
                self.holdings.renew(attempt.token.epoch, attempt.until_ms, until_ms);
                attempt.until_ms = until_ms;
            }
        }
    }

    pub fn absorb_progress(&mut self, id: &ShardId, epoch: Epoch, rows_done: u64) {
        let Some(shard) = self.all.get_mut(id) else { return };
        let rows_before = shard.rows_in_flight();
        if let ShardState::Leased { attempts } = &mut shard.state {
            for attempt in attempts.iter_mut().filter(|attempt| attempt.token.epoch == epoch) {
                attempt.rows_done = rows_done;
            }
        }
        self.count_in_flight(id, rows_before);
    }

    /// Forgets how far attempts are, since their workers will say it again, and how long anything took: a restart
    /// comes in between.
    pub fn absorb_restart(&mut self, now_ms: u64) {
        for id in &self.leased {
            if let Some(Shard { state: ShardState::Leased { attempts }, .. }) = self.all.get_mut(id) {
                for attempt in attempts {
                    (attempt.rows_done, attempt.since_ms) = (0, now_ms);
                }
            }
        }
        self.rows_in_flight = 0;
        self.datasets.values_mut().for_each(|of| of.rows_in_flight = 0);
        self.pace.forget();
    }
}
