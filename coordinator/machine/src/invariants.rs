//! What must be true of every reachable state. Tests check it after every record.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::holdings::Holdings;
use crate::machine::Machine;
use crate::members::MemberState;
use crate::run::{End, Phase};
use crate::shards::{DatasetTotals, ShardState, Totals};
use crate::training::World;

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invariant violated: {0}")]
pub struct Violation(pub String);

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(what())) }
}

impl Machine {
    /// Checks all invariants; takes time in proportion to the number of shards.
    ///
    /// # Errors
    /// The first one that is violated.
    pub fn invariants(&self) -> Result<(), Violation> {
        self.shards_are_in_one_state()?;
        self.sums_match()?;
        self.attempts_are_sound()?;
        self.members_are_counted()?;
        self.the_world_is_sound()?;
        self.phases_are_sound()
    }

    fn shards_are_in_one_state(&self) -> Result<(), Violation> {
        for (id, shard) in &self.shards.all {
            let pending = self.shards.pending.contains(&(shard.failures, id.clone()));
            let leased = self.shards.leased.contains(id);
            let expected = match &shard.state {
                ShardState::Pending => (true, false),
                ShardState::Leased { .. } => (false, true),
                ShardState::Done { .. } | ShardState::Quarantined { .. } => (false, false),
            };
            ensure((pending, leased) == expected, || format!("{id} is indexed as another state than {shard:?}"))?;
        }
        let (all, pending, leased) = (self.shards.all.len(), self.shards.pending.len(), self.shards.leased.len());
        let settled = (self.shards.totals.done + self.shards.totals.quarantined) as usize;
        ensure(pending + leased + settled == all, || format!("{pending} + {leased} + {settled} shards are not {all}"))?;
        let given_up = self.shards.quarantined.len() as u64 == self.shards.totals.quarantined;
        ensure(given_up, || format!("{:?} are not the shards given up", self.shards.quarantined))
    }

    fn sums_match(&self) -> Result<(), Violation> {
        let mut datasets: BTreeMap<String, DatasetTotals> = BTreeMap::new();
        for shard in self.shards.all.values() {
            let of = datasets.entry(shard.plan.dataset.clone()).or_default();
            of.rows_in_flight += shard.attempts().iter().map(|attempt| attempt.rows_done).max().unwrap_or(0);
            let sums = &mut of.totals;
            sums.shards += 1;
            sums.rows += shard.plan.rows;
            match &shard.state {
                ShardState::Done { part, .. } => {
                    sums.done += 1;
                    sums.rows_done += part.rows;
                    sums.rows_kept += part.kept;
                    sums.rows_passed += part.passed;
                    sums.rows_quarantined += part.quarantined;
                    part.check(&shard.plan.shard, shard.plan.rows).map_err(Violation)?;
                }
                ShardState::Quarantined { .. } => {
                    sums.quarantined += 1;
                    sums.rows_quarantined += shard.plan.rows;
                }
                ShardState::Pending | ShardState::Leased { .. } => {}
            }
        }
        ensure(datasets == self.shards.datasets, || format!("{datasets:?} is not {:?}", self.shards.datasets))?;
        let sum = |of: fn(&Totals) -> u64| datasets.values().map(|dataset| of(&dataset.totals)).sum();
        let sums = Totals {
            shards: sum(|of| of.shards),
            done: sum(|of| of.done),
            quarantined: sum(|of| of.quarantined),
            rows: sum(|of| of.rows),
            rows_done: sum(|of| of.rows_done),
            rows_kept: sum(|of| of.rows_kept),
            rows_passed: sum(|of| of.rows_passed),
            rows_quarantined: sum(|of| of.rows_quarantined),
        };
        ensure(sums == self.shards.totals, || format!("{sums:?} is not {:?}", self.shards.totals))
    }

    fn attempts_are_sound(&self) -> Result<(), Violation> {
        let mut epochs = BTreeSet::new();
        for (id, shard) in &self.shards.all {
            if let ShardState::Leased { attempts } = &shard.state {
                ensure(!attempts.is_empty(), || format!("{id} is leased to nobody"))?;
            }
        }
        let mut holdings = Holdings::default();
        let mut rows_in_flight = 0;
        for (id, shard) in &self.shards.all {
            let rows = shard.attempts().iter().map(|attempt| attempt.rows_done).max();
            rows_in_flight += rows.unwrap_or(0);
            shard.attempts().iter().for_each(|held| holdings.add(id, held.token.epoch, held.worker, held.until_ms));
            let seconds = shard.attempts().len() <= 2;
            ensure(seconds, || format!("{} attempts are made at {id}", shard.attempts().len()))?;
        }
        ensure(holdings == self.shards.holdings, || format!("{:?} is not {holdings:?}", self.shards.holdings))?;
        let counted = self.shards.rows_in_flight;
        ensure(rows_in_flight == counted, || format!("{rows_in_flight} rows are in flight, not {counted}"))?;
        for (shard, attempt) in self.shards.attempts() {
            let (id, epoch) = (&shard.plan.shard, attempt.token.epoch);
            ensure(epochs.insert(epoch), || format!("two attempts have epoch {epoch}"))?;
            ensure(epoch <= self.shards.last_epoch, || format!("epoch {epoch} is beyond the last one"))?;
            let holder = self.members.all.get(&attempt.worker).map(|member| member.state);
            let works = holder == Some(MemberState::Alive);
            ensure(works, || format!("{id} is held by {}, which is {holder:?}", attempt.worker))?;
        }
        Ok(())
    }

    fn members_are_counted(&self) -> Result<(), Violation> {
        let members = || self.members.all.values();
        let alive = members().filter(|member| member.state == MemberState::Alive).count();
        ensure(alive == self.members.alive(), || format!("{alive} members are alive, not {}", self.members.alive()))?;
        let here = members().filter(|member| member.state != MemberState::Lost).count();
        ensure(here == self.members.here().count(), || format!("{here} members are here"))?;
        let both = self.denylist.denied.keys().find(|place| place.0.is_empty());
        ensure(both.is_none(), || "nowhere is denied work".into())
    }

    fn the_world_is_sound(&self) -> Result<(), Violation> {
        let ranks = self.stage_config().map_or(0, |stage| stage.ranks as usize);
        match &self.training.world {
            World::Absent | World::Over(_) => Ok(()),
            World::Forming { joined, .. } => {
                ensure(joined.len() < ranks, || format!("{} workers wait for a world of {ranks}", joined.len()))
            }
            World::Running { ranks: members, .. } => {
                let distinct: BTreeSet<_> = members.iter().collect();
                ensure(distinct.len() == members.len(), || "a worker has two ranks".into())?;
                ensure(members.len() == ranks, || format!("{} ranks run a world of {ranks}", members.len()))
            }
        }
    }

    fn phases_are_sound(&self) -> Result<(), Violation> {
        let training = matches!(self.run.phase, Phase::Training(stage) if stage == self.training.stage);
        let task = matches!(self.run.phase, Phase::Task(_));
        let over = matches!(self.training.world, World::Over(_));
        let absent = self.training.world == World::Absent;
        ensure(training || absent || task && over, || "a world beside its stage".into())?;
        ensure(task || self.tasks.attempt.is_none(), || "a task before its phase".into())?;
        let holder = self.tasks.attempt.as_ref().and_then(|held| self.members.all.get(&held.worker));
        let works = holder.is_none_or(|member| member.state == MemberState::Alive);
        ensure(works, || format!("{:?} is held by who is gone", self.tasks.attempt))?;
        ensure(!training || self.shards.settled(), || "training before all shards are settled".into())?;
        let earlier =
            self.training.done.iter().all(|done| done.stage < self.training.stage || task || self.run.end.is_some());
        ensure(earlier, || format!("{:?} are done before {:?}", self.training.done, self.training.stage))?;
        let done = self.run.end == Some(End::Done);
        ensure(!done || self.shards.settled(), || "done before all shards are settled".into())
    }
}
