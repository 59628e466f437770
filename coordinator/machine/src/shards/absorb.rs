//! Facts about shards. Each keeps the indices and sums in step.

use std::collections::BTreeSet;

use super::{Attempt, Before, Shard, ShardPlan, ShardState, Shards};
use crate::again::GIVEN_UP;
use crate::ids::{Epoch, Incarnation, Place, ShardId, ShardToken, WorkerId};
use crate::mutation::{Mutation, planted};
use crate::part::PartSummary;

/// Reasons that are counted one by one; the rest is [`OTHER`].
const REASONS: usize = 256;
const OTHER: &str = "shard/other";

impl Shards {
    pub fn absorb_plan(&mut self, plans: &[ShardPlan]) {
        for plan in plans {
            self.totals.shards += 1;
            self.totals.rows += plan.rows;
            self.pending.insert((0, plan.shard.clone()));
            self.all.insert(plan.shard.clone(), Shard::new(plan.clone()));
        }
    }

    /// More shards. One that stood for a file which couldn't be read makes room for it.
    pub fn absorb_added(&mut self, plans: &[ShardPlan]) {
        for plan in plans {
            if self.all.contains_key(&plan.shard) {
                self.unsettle(&plan.shard);
                self.pending.remove(&(0, plan.shard.clone()));
                self.totals.shards -= 1;
            }
        }
        self.absorb_plan(plans);
    }

    /// A settled shard is worked on again; what it became is kept aside.
    pub fn absorb_retried(&mut self, id: &ShardId, reasons: &BTreeSet<String>) {
        let before = self.unsettle(id).filter(|_| !planted(Mutation::ForgetTheRetriedPart));
        let before = before.map(|(token, part)| Before { token, part, reasons: reasons.clone() });
        self.all.get_mut(id).expect("a planned shard is retried").before = before.map(Box::new);
    }

    /// A shard is what it was before it was retried.
    pub fn absorb_restored(&mut self, id: &ShardId) {
        let before = self.all.get_mut(id).and_then(|shard| shard.before.take());
        let Before { token, part, .. } = *before.expect("a shard that is restored was retried");
        self.settle(id, ShardState::Done { token, part: part.clone() });
        self.count_done(&part);
    }

    /// A later part of a shard that is done already.
    pub fn absorb_replaced(&mut self, id: &ShardId, part: &PartSummary) {
        self.unsettle(id);
        self.absorb_recovered(id, part);
    }

    /// Makes a settled shard pending, as if nobody had worked on it. Gives the part, if it had one.
    fn unsettle(&mut self, id: &ShardId) -> Option<(ShardToken, PartSummary)> {
        let shard = self.all.get_mut(id).expect("a planned shard is taken up again");
        let plan = shard.plan.clone();
        let settled = std::mem::replace(shard, Shard::new(plan));
        self.pending.insert((0, id.clone()));
        match settled.state {
            ShardState::Done { token, part } => {
                self.uncount_done(&part);
                Some((token, part))
            }
            ShardState::Quarantined { .. } => {
                self.quarantined.remove(id);
                self.totals.quarantined -= 1;
                self.totals.rows_quarantined -= settled.plan.rows;
                self.uncount_reason(GIVEN_UP, settled.plan.rows);
                None
            }
            ShardState::Pending | ShardState::Leased { .. } => panic!("{id} is taken up again before it is settled"),
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
        self.rows_in_flight = self.rows_in_flight - rows_before + self.all[id].rows_in_flight();
    }

    pub fn absorb_commit(&mut self, id: &ShardId, epoch: Epoch, part: &PartSummary, now_ms: u64) {
        let made = self.all[id].attempts().iter().find(|attempt| attempt.token.epoch == epoch);
        let made = made.unwrap_or_else(|| panic!("{id} is committed without the attempt {epoch}"));
        let (token, took_ms) = (made.token, now_ms.saturating_sub(made.since_ms));
        self.second.won += u64::from(made.is_second);
        self.pace.add(took_ms, part.rows);
        self.settle(id, ShardState::Done { token, part: part.clone() });
        self.count_done(part);
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
        self.count_done(part);
    }

    fn count_done(&mut self, part: &PartSummary) {
        for (reason, rows) in &part.reasons {
            self.count_reason(reason, *rows);
        }
        self.totals.done += 1;
        self.totals.rows_done += part.rows;
        self.totals.rows_kept += part.kept;
        self.totals.rows_passed += part.passed;
        self.totals.rows_quarantined += part.quarantined;
    }

    fn uncount_done(&mut self, part: &PartSummary) {
        for (reason, rows) in &part.reasons {
            self.uncount_reason(reason, *rows);
        }
        self.totals.done -= 1;
        self.totals.rows_done -= part.rows;
        self.totals.rows_kept -= part.kept;
        self.totals.rows_passed -= part.passed;
        self.totals.rows_quarantined -= part.quarantined;
    }

    pub fn absorb_quarantine(&mut self, id: &ShardId, reason: &str) {
        self.settle(id, ShardState::Quarantined { reason: reason.into() });
        self.quarantined.insert(id.clone());
        self.totals.quarantined += 1;
        let rows = self.all[id].plan.rows;
        self.totals.rows_quarantined += rows;
        self.count_reason(GIVEN_UP, rows);
    }

    fn count_reason(&mut self, reason: &str, rows: u64) {
        if rows == 0 {
            return;
        }
        let is_listed = self.reasons.contains_key(reason) || self.reasons.len() < REASONS;
        *self.reasons.entry(if is_listed { reason } else { OTHER }.into()).or_default() += rows;
    }

    fn uncount_reason(&mut self, reason: &str, rows: u64) {
        let name = if self.reasons.contains_key(reason) { reason } else { OTHER };
        if let Some(counted) = self.reasons.get_mut(name) {
            *counted = counted.saturating_sub(rows);
            if *counted == 0 {
                self.reasons.remove(name);
            }
        }
    }

    fn settle(&mut self, id: &ShardId, state: ShardState) {
        let shard = self.all.get_mut(id).expect("a planned shard is settled");
        self.rows_in_flight -= shard.rows_in_flight();
        for ended in shard.attempts() {
            self.holdings.remove(ended.token.epoch, ended.worker, ended.until_ms);
        }
        self.pending.remove(&(shard.failures, id.clone()));
        self.leased.remove(id);
        shard.state = state;
        shard.before = None;
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
        self.rows_in_flight = self.rows_in_flight - rows_before + shard.rows_in_flight();
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
        self.pace.forget();
    }
}
