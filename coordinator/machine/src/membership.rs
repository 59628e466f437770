//! Membership: who joins, who is heard, who goes away.

use std::collections::BTreeSet;

use crate::event::{Answer, Decision, Refusal, Registration, ShardProgress};
use crate::ids::{Place, WorkerId};
use crate::machine::Machine;
use crate::members::{Member, MemberState, Warmth};
use crate::mutation::{Mutation, planted};
use crate::record::Record;
use crate::run::End;
use crate::shards::Ending;
use crate::training::Loss;

impl Machine {
    pub(crate) fn register(&self, registration: &Registration) -> Decision {
        let Registration { host, device, name, .. } = registration;
        let place = Place::of(host, device, name);
        if let Some(reason) = self.denylist.reason(&place).filter(|_| !planted(Mutation::RegisterTheDenied)) {
            return Decision::refuse(Refusal::Denied { place, reason: reason.into() });
        }
        let worker = self.members.next_id();
        let record = Record::WorkerRegistered {
            worker,
            name: name.clone(),
            device: device.clone(),
            address: registration.address.clone(),
            secret: registration.secret.clone(),
            at_ms: self.now_ms,
            host: host.clone(),
            memory_bytes: registration.memory_bytes,
        };
        let answer = Answer::Registered { worker, incarnation: self.incarnation };
        Decision { records: vec![record], after_durable: Ok(answer) }
    }

    pub(crate) fn heartbeat(
        &self,
        worker: WorkerId,
        member: &Member,
        progress: &[ShardProgress],
        warm: &BTreeSet<Warmth>,
    ) -> Decision {
        let until_ms = self.now_ms + self.config.lease_ms;
        let mut records = vec![Record::WorkerHeard { worker, at_ms: self.now_ms, until_ms }];
        if *warm != member.warm {
            records.push(Record::WorkerWarmed { worker, warm: warm.clone() });
        }
        let mut revoked = Vec::new();
        let is_cancelled = matches!(self.run.end, Some(End::Cancelled { .. }));
        for ShardProgress { shard, token, rows_done } in progress {
            match self.shards.live(shard, *token, worker) {
                Ok(_) if is_cancelled => revoked.push(shard.clone()),
                Ok(attempt) => {
                    let rows_done = (*rows_done).min(self.shards.all[shard].plan.rows).max(attempt.rows_done);
                    let progressed = Record::ShardProgressed { shard: shard.clone(), epoch: token.epoch, rows_done };
                    records.push(progressed);
                }
                Err(_) => revoked.push(shard.clone()),
            }
        }
        let is_denied = self.denial(worker).is_some() && !planted(Mutation::KeepTheDenied);
        let drain = member.is_leaving() || is_denied;
        let pause = self.run.paused.is_some();
        let answer = Answer::Heard { drain, pause, revoked, world: self.training.world.generation() };
        Decision { records, after_durable: Ok(answer) }
    }

    pub(crate) fn drain(&self, worker: WorkerId, member: &Member, reason: &str) -> Decision {
        if member.state == MemberState::Draining {
            return Decision::noted(Vec::new());
        }
        let mut records = vec![Record::WorkerDraining { worker, reason: reason.into() }];
        let gone = BTreeSet::from([worker]);
        if !planted(Mutation::KeepLeasesOfTheDraining) {
            records.extend(self.end_attempts_of(&gone, &Ending::Returned));
        }
        records.extend(self.take_task_from(&gone, false));
        records.extend(self.part_with(&gone, Loss::Graceful, "a rank went away"));
        Decision::noted(records)
    }

    /// Whether a worker is to leave and gets nothing new: an operator sent it away, or its place is denied work.
    pub(crate) fn is_unwanted(&self, worker: WorkerId) -> bool {
        let is_sent_away = self.members.all.get(&worker).is_some_and(|member| member.sent_away);
        is_sent_away || self.denial(worker).is_some()
    }

    /// Whether a member has been silent for half of its term.
    pub(crate) fn is_silent(&self, worker: WorkerId) -> bool {
        let heard_ms = self.members.all.get(&worker).map_or(0, |member| member.heard_ms);
        self.now_ms.saturating_sub(heard_ms) * 2 >= self.config.lease_ms
    }
}
