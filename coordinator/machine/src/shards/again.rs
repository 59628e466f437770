//! Facts about shards of a pass that is taken up again. Each keeps the indices and sums in step, as in `absorb`.

use std::collections::BTreeSet;

use super::absorb::OTHER;
use super::{Before, Shard, ShardPlan, ShardState, Shards};
use crate::again::GIVEN_UP;
use crate::ids::{ShardId, ShardToken};
use crate::mutation::{Mutation, planted};
use crate::part::PartSummary;

impl Shards {
    /// More shards. One that stood for a file which couldn't be read makes room for it.
    pub fn absorb_added(&mut self, plans: &[ShardPlan]) {
        for plan in plans {
            if self.all.contains_key(&plan.shard) {
                self.unsettle(&plan.shard);
                self.pending.remove(&(0, plan.shard.clone()));
                self.count(&plan.shard, |totals| totals.shards -= 1);
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
        self.count_done(id, &part);
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
                self.uncount_done(id, &part);
                Some((token, part))
            }
            ShardState::Quarantined { .. } => {
                self.quarantined.remove(id);
                self.count(id, |totals| {
                    totals.quarantined -= 1;
                    totals.rows_quarantined -= settled.plan.rows;
                });
                self.uncount_reason(GIVEN_UP, settled.plan.rows);
                None
            }
            ShardState::Pending | ShardState::Leased { .. } => panic!("{id} is taken up again before it is settled"),
        }
    }

    fn uncount_done(&mut self, id: &ShardId, part: &PartSummary) {
        for (reason, rows) in &part.reasons {
            self.uncount_reason(reason, *rows);
        }
        self.count(id, |totals| {
            totals.done -= 1;
            totals.rows_done -= part.rows;
            totals.rows_kept -= part.kept;
            totals.rows_passed -= part.passed;
            totals.rows_quarantined -= part.quarantined;
        });
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
}
