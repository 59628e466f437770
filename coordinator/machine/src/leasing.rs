//! Shards to workers and back: who is given which, what is accepted, what is handed back.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{Answer, Decision, Redo, Refusal, Work};
use crate::ids::{ShardId, ShardToken, WorkerId};
use crate::machine::Machine;
use crate::members::{Member, Warmth};
use crate::mutation::{Mutation, planted};
use crate::pace::{is_straggling, remaining_ms};
use crate::part::PartSummary;
use crate::record::Record;
use crate::run::Phase;
use crate::shards::{Attempt, Before, Ending, Shard, ShardState};
use crate::training::World;

/// Attempts at one shard at a time.
const ATTEMPTS_AT_ONCE: usize = 2;

impl Machine {
    pub(crate) fn lease(&self, worker: WorkerId, member: &Member) -> Decision {
        if let Some(finished) = self.run.finished() {
            return Decision::answer(Answer::Work(Work::Finished(finished)));
        }
        let is_denied = self.denial(worker).is_some() && !planted(Mutation::LeaseToTheDenied);
        let work = match self.run.phase {
            _ if self.must_read_acceptances() => Work::Wait,
            // It hears with its next heartbeat what it waits for.
            _ if self.run.paused.is_some() || member.sent_away || is_denied => Work::Wait,
            Phase::Planning => Work::Wait,
            Phase::CapFilt => return self.lease_shard(worker, member),
            Phase::Task(task) => return self.lease_task(worker, member, task),
            Phase::Training(_) => match &self.training.world {
                World::Forming { generation, .. } if self.may_join(worker, member) => Work::World(*generation),
                // Its answer to JoinWorld got lost: it may ask again.
                World::Running { token, ranks } if ranks.contains(&worker) => Work::World(token.generation),
                World::Forming { .. } | World::Running { .. } | World::Absent | World::Over(_) => Work::Wait,
            },
        };
        Decision::answer(Answer::Work(work))
    }

    /// The shard that the worker holds already (its answer got lost), the pending one that failed least often, or one that
    /// a second attempt is likely to finish sooner.
    fn lease_shard(&self, worker: WorkerId, member: &Member) -> Decision {
        if let Some((shard, attempt)) = self.shards.held_by(worker) {
            return Decision::answer(Answer::Work(work_at(shard, attempt.token)));
        }
        let is_big_enough = self.is_big_enough(member);
        let idle = if self.shards.pending.len() > self.members.alive() { Vec::new() } else { self.idle_beside(worker) };
        let chosen = self.pending_for(member, &idle).or_else(|| self.straggler(member, &idle));
        let Some(shard) = chosen.filter(|_| is_big_enough) else {
            let record = Record::WorkerWaits { worker, at_ms: self.now_ms };
            return Decision { records: vec![record], after_durable: Ok(Answer::Work(Work::Wait)) };
        };
        let last = self.shards.last_epoch;
        let epoch = if planted(Mutation::ReuseEpoch) { last } else { last.next() };
        let token = ShardToken { incarnation: self.incarnation, epoch };
        let granted = Record::LeaseGranted {
            shard: shard.plan.shard.clone(),
            epoch: token.epoch,
            incarnation: token.incarnation,
            worker,
            until_ms: self.now_ms + self.config.lease_ms,
        };
        Decision { records: vec![granted], after_durable: Ok(Answer::Work(work_at(shard, token))) }
    }

    /// Others that could take a shard now: they asked within the last half term and still wait. Whoever stops asking no
    /// longer counts, so that nobody waits for it.
    fn idle_beside(&self, worker: WorkerId) -> Vec<&Member> {
        let is_recent = |at_ms: u64| self.now_ms.saturating_sub(at_ms) * 2 < self.config.lease_ms;
        let is_idle = |id: WorkerId, member: &Member| {
            id != worker && member.waits_since_ms.is_some_and(is_recent) && self.is_able(member)
        };
        self.members.here().filter(|(id, member)| is_idle(*id, member)).map(|(_, member)| member).collect()
    }

    /// A pending shard for this worker. What its place failed at last, another place is to try, if one is idle; and the
    /// last shards are left to idle workers that have the models loaded and did not fail at them themselves.
    fn pending_for(&self, member: &Member, idle: &[&Member]) -> Option<&Shard> {
        let failed_at = |shard: &Shard, member: &Member| shard.failed_at.as_ref() == Some(&member.place);
        let is_for_another =
            |shard: &Shard| failed_at(shard, member) && idle.iter().any(|other| other.place != member.place);
        // Beyond the first few, those that never failed have all been passed: what is left has failed somewhere.
        let mut shards = self.shards.pending.iter().map(|(_, id)| &self.shards.all[id]).take(self.members.alive() + 1);
        let shard = shards.find(|shard| !is_for_another(shard))?;
        let is_warm = |member: &Member| member.warm.contains(&Warmth::CapFilt);
        let warm_idle = idle.iter().filter(|other| is_warm(other) && !failed_at(shard, other)).count();
        let is_left = !is_warm(member) && warm_idle > 0 && warm_idle >= self.shards.pending.len();
        (!is_left).then_some(shard)
    }

    /// A shard for a second attempt: one whose only holder has been silent for half a term, or else the one that will
    /// take longest of those that take too long. Nobody makes one who has yet to load the models while somebody who has
    /// them waits.
    fn straggler(&self, member: &Member, idle: &[&Member]) -> Option<&Shard> {
        let is_warm = |member: &Member| member.warm.contains(&Warmth::CapFilt);
        if !self.shards.pending.is_empty() || !is_warm(member) && idle.iter().any(|other| is_warm(other)) {
            return None;
        }
        let limit = ATTEMPTS_AT_ONCE + usize::from(planted(Mutation::ThirdAttempts));
        let leased = self.shards.leased.iter().map(|id| &self.shards.all[id]);
        let open: Vec<_> = leased.filter(|shard| shard.attempts().len() < limit).collect();
        let is_forsaken = |shard: &&&Shard| shard.attempts().iter().all(|held| self.is_silent(held.worker));
        let lateness = |shard: &Shard| shard.attempts().iter().map(|held| self.lateness(shard, held)).min().flatten();
        let slowest = || open.iter().filter_map(|shard| Some((lateness(shard)?, *shard))).max_by_key(|(late, _)| *late);
        open.iter().find(is_forsaken).copied().or_else(|| slowest().map(|(_, shard)| shard))
    }

    /// How long an attempt that takes too long will still take, and how old it is; `None`: it is as fast as others.
    fn lateness(&self, shard: &Shard, attempt: &Attempt) -> Option<(u64, u64)> {
        let usual_ms = self.shards.pace.usual_ms(shard.plan.rows)?;
        let age_ms = self.now_ms.saturating_sub(attempt.since_ms);
        let remaining_ms = remaining_ms(age_ms, attempt.rows_done, shard.plan.rows);
        let straggles = is_straggling(age_ms, remaining_ms, usual_ms, self.config.lease_ms);
        straggles.then_some((remaining_ms, age_ms))
    }

    /// The attempt that takes too long and waits for a second one, if any: the first in shard order.
    pub(crate) fn late_attempt(&self) -> Option<(&Shard, &Attempt)> {
        let alone =
            self.shards.leased.iter().map(|id| &self.shards.all[id]).filter(|shard| shard.attempts().len() == 1);
        let mut late = alone.filter_map(|shard| Some((shard, shard.attempts().first()?)));
        late.find(|(shard, attempt)| self.lateness(shard, attempt).is_some())
    }

    pub(crate) fn commit(
        &self,
        worker: WorkerId,
        shard: &ShardId,
        token: ShardToken,
        part: &PartSummary,
    ) -> Result<Decision, Refusal> {
        let known = self.shards.all.get(shard).ok_or_else(|| Refusal::UnknownShard(shard.clone()))?;
        if let ShardState::Done { token: accepted, part: accepted_part } = &known.state {
            // The same offer again: its answer got lost.
            if *accepted == token && accepted_part == part || planted(Mutation::AcceptASecondPart) {
                return Ok(Decision::answer(Answer::Accepted));
            }
            let reason = format!("another part of {shard} was accepted before");
            return Ok(Decision::answer(Answer::Superseded { reason }));
        }
        let attempt = self.shards.live(shard, token, worker)?;
        let (epoch, took_ms) = (attempt.token.epoch, Some(self.now_ms.saturating_sub(attempt.since_ms)));
        part.check(shard, known.plan.rows).map_err(Refusal::Malformed)?;
        let record = Record::ShardCommitted { shard: shard.clone(), epoch, part: part.clone(), took_ms };
        Ok(Decision { records: vec![record], after_durable: Ok(Answer::Accepted) })
    }

    pub(crate) fn fail(
        &self,
        worker: WorkerId,
        shard: &ShardId,
        token: ShardToken,
        reason: &str,
        permanent: bool,
    ) -> Result<Decision, Refusal> {
        self.shards.live(shard, token, worker)?;
        if permanent {
            let given_up = self.shards.all[shard].given_up(reason.to_owned());
            let (shard, reason) = (shard.clone(), reason.to_owned());
            let failed = Record::AttemptFailed { shard, epoch: token.epoch, reason, permanent };
            return Ok(Decision::noted(vec![failed, given_up]));
        }
        let ending = ((shard.clone(), token.epoch), Ending::Failed(reason.to_owned()));
        let mut records = self.shards.end_attempts(self.config.attempts, BTreeMap::from([ending]));
        records.extend(self.denials(&records));
        Ok(Decision::noted(records))
    }

    /// The records that end all attempts of these workers.
    pub(crate) fn end_attempts_of(&self, workers: &BTreeSet<WorkerId>, ending: &Ending) -> Vec<Record> {
        let held = workers.iter().flat_map(|worker| self.shards.holdings.of(*worker));
        let endings = held.map(|(epoch, shard)| ((shard.clone(), epoch), ending.clone())).collect();
        self.shards.end_attempts(self.config.attempts, endings)
    }
}

/// The shard at this attempt. One that is still live beside it may have died with its worker already.
fn work_at(shard: &Shard, token: ShardToken) -> Work {
    let others = shard.attempts().iter().filter(|attempt| attempt.token != token).count() as u32;
    let again = |before: &Before| Redo { part: before.part.clone(), reasons: before.reasons.clone() };
    let redo = shard.before.as_deref().map(again).map(Box::new);
    Work::Shard { plan: shard.plan.clone(), token, without_part: shard.failures + others, redo }
}
