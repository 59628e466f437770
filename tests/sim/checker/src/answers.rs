//! Answers, each against the journal: what an answer promises must be there by the time it leaves.

use std::collections::BTreeSet;

use quern_machine::{
    Answer, Call, Caller, Epoch, Generation, Place, Record, Refusal, Registration, Seat, ShardId, ShardToken, Work,
    WorkerId, WorldToken,
};

use crate::journal::{Ledger, Member, Settled};
use crate::{Checker, Verdict, ensure};

/// What a caller hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// A good answer.
    Answer(Answer),
    /// The coordinator refuses.
    Refused(Refusal),
    /// Nothing happened: try again.
    Unavailable,
}

/// What was live when the turn began or came to life in it: an answer may be about anything of these.
#[derive(Debug, Default)]
pub(crate) struct Before {
    live: BTreeSet<Epoch>,
    worlds: BTreeSet<Generation>,
    checkpoints: Vec<Option<String>>,
    /// Places that got no work all through the turn.
    denied: BTreeSet<Place>,
    /// Places that got no work at some time in it.
    denied_within: BTreeSet<Place>,
}

impl Before {
    pub fn of(ledger: &Ledger) -> Self {
        let worlds = ledger.world.iter().map(|world| world.token.generation).collect();
        Before {
            live: ledger.live.iter().copied().chain(ledger.tasks.live).collect(),
            worlds,
            checkpoints: vec![last_path(ledger)],
            denied: ledger.denials.denied.clone(),
            denied_within: ledger.denials.denied.clone(),
        }
    }

    /// Adds what a record, which the ledger has absorbed, made live.
    pub fn add(&mut self, record: &Record, ledger: &Ledger) {
        match record {
            Record::LeaseGranted { epoch, .. } | Record::TaskGranted { epoch, .. } => {
                self.live.insert(*epoch);
            }
            Record::WorldFormed { generation, .. } => {
                self.worlds.insert(*generation);
            }
            Record::PlaceDenied { place, .. } => {
                self.denied_within.insert(place.clone());
            }
            Record::PlaceAllowed { place } => {
                self.denied.remove(place);
            }
            Record::CheckpointAccepted { path, .. } => self.checkpoints.push(Some(path.clone())),
            Record::Stage1Started { .. } | Record::Stage2Started { .. } | Record::AcceptancesRead { .. } => {
                self.checkpoints.push(last_path(ledger));
            }
            _ => {}
        }
    }
}

fn last_path(ledger: &Ledger) -> Option<String> {
    ledger.checkpoints.last().filter(|_| ledger.safe_step > 0).map(|(_, _, path, _)| path.clone())
}

impl Checker {
    /// A registration is answered.
    ///
    /// # Errors
    /// When the answer promises what isn't so.
    pub fn registered(&mut self, registration: &Registration, told: &Told) -> Verdict {
        let own = Place::of(&registration.host, &registration.device, &registration.name);
        if let Told::Refused(Refusal::Denied { place, .. }) = told {
            let is_denied = *place == own && self.before.denied_within.contains(&own);
            return ensure(is_denied, || format!("{own} is not let in, and was not denied work"));
        }
        let Told::Answer(Answer::Registered { worker, incarnation }) = told else {
            return ensure(*told == Told::Unavailable, || format!("a registration is answered {told:?}"));
        };
        let known = self.ledger.addresses.get(worker);
        ensure(!self.before.denied.contains(&own), || format!("{own} gets no work, and {worker} is let in there"))?;
        ensure(known == Some(&registration.address), || format!("{worker} is told its name, but not in the journal"))?;
        ensure(*incarnation == self.ledger.incarnation, || format!("{worker} hears of incarnation {incarnation}"))
    }

    /// A call is answered, at this time of the coordinator's clock.
    ///
    /// # Errors
    /// When the answer promises what isn't so.
    pub fn answered(&mut self, now_ms: u64, caller: &Caller, call: &Call, told: &Told) -> Verdict {
        let Told::Answer(answer) = told else { return Ok(()) };
        let worker = caller.worker;
        let about = |what: String| format!("{what}, as {worker} hears upon {call:?}");
        ensure(self.is_genuine(caller), || about("somebody who is not that worker is answered".into()))?;
        self.promise(now_ms, worker, call, answer).map_err(about)
    }

    fn promise(&mut self, now_ms: u64, worker: WorkerId, call: &Call, answer: &Answer) -> Verdict {
        match (call, answer) {
            (Call::Heartbeat { .. }, Answer::Heard { world, drain, .. }) => {
                let denials = &self.ledger.denials;
                let is_denied = self
                    .ledger
                    .places
                    .get(&worker)
                    .is_some_and(|place| self.before.denied.contains(place) && !denials.pardoned.contains(place));
                ensure(*drain || !is_denied, || "it gets no work and is not told to leave".into())?;
                let heard = self.heard_ms.entry(worker).or_default();
                *heard = now_ms.max(*heard);
                let generation = world.map_or(0, |generation| generation.0);
                let last = std::mem::replace(&mut self.last_heard_generation, generation);
                ensure(generation >= last, || format!("generation {generation} comes after {last}"))
            }
            (Call::Lease, Answer::Work(work)) => self.work(worker, work),
            (Call::Commit { shard, token, part }, Answer::Accepted) => match self.part_of(shard) {
                Some(Settled::Done(epoch, accepted)) => {
                    let grant = self.ledger.grant(*epoch).expect("it was checked when it was committed");
                    // Whoever asks, under whichever name it has by now, the answer must be true.
                    let same = (grant.token, accepted) == (*token, part);
                    ensure(same, || format!("accepted, but {shard} is another part"))
                }
                _ => Err(format!("accepted, but {shard} is not done in the journal")),
            },
            (Call::Commit { shard, .. }, Answer::Superseded { .. }) => {
                let done = matches!(self.part_of(shard), Some(Settled::Done(..) | Settled::Read(_)));
                ensure(done, || format!("superseded, but {shard} is not done"))
            }
            (Call::Fail { shard, token, .. }, Answer::Noted) => {
                self.was_granted(worker, shard, *token)?;
                let live = self.ledger.live.contains(&token.epoch);
                ensure(!live, || format!("attempt {} at {shard} is still live", token.epoch))
            }
            (Call::CommitTask { task, token, result }, Answer::Accepted) => {
                let done = self.ledger.tasks.done.get(task);
                ensure(done == Some(&(*token, result.clone())), || format!("accepted, but {done:?} is in the journal"))
            }
            (Call::CommitTask { task, .. }, Answer::Superseded { .. }) => {
                ensure(self.ledger.tasks.done.contains_key(task), || format!("superseded, but {task:?} is not done"))
            }
            (Call::FailTask { token, .. }, Answer::Noted) => {
                let over = self.ledger.tasks.live != Some(token.epoch);
                ensure(over, || format!("attempt {} at a task is still live", token.epoch))
            }
            (Call::Drain { .. }, Answer::Noted) => {
                let state = self.ledger.members.get(&worker);
                ensure(state.is_some_and(|state| *state != Member::Alive), || "it is not draining".into())
            }
            (Call::JoinWorld { generation }, Answer::Seat(seat)) => self.seat(worker, *generation, seat),
            (Call::ReportSteps { token, .. }, Answer::Noted) => {
                self.speaks(worker, *token)?;
                let last = std::mem::replace(&mut self.last_step_generation, token.generation.0);
                ensure(token.generation.0 >= last, || format!("a step of an older generation than {last}"))
            }
            (Call::CommitCheckpoint { token, checkpoint, .. }, Answer::Accepted) => {
                let found = self.ledger.checkpoints.iter().any(|(generation, step, path, digest)| {
                    let (path, digest) = (*path == checkpoint.path, *digest == checkpoint.digest);
                    *generation == token.generation && *step == checkpoint.step && path && digest
                });
                let world = self.ledger.worlds.get(&token.generation);
                let genuine = world.is_some_and(|world| world.token == *token);
                ensure(found && genuine, || "accepted, but not in the journal".into())
            }
            (Call::CommitCheckpoint { token, .. }, Answer::Superseded { .. }) => self.speaks(worker, *token),
            (Call::LeaveWorld { token, .. }, Answer::Noted) => {
                let over = self.ledger.world.as_ref().is_none_or(|world| world.token != *token);
                ensure(over || self.ledger.done || self.ledger.failed, || format!("{token:?} goes on"))
            }
            _ => Err(format!("an answer to another question: {answer:?}")),
        }
    }

    fn work(&self, worker: WorkerId, work: &Work) -> Verdict {
        match work {
            Work::Shard { plan, token, .. } => {
                ensure(self.before.live.contains(&token.epoch), || format!("attempt {} is not live", token.epoch))?;
                ensure(self.ledger.plans.get(&plan.shard) == Some(plan), || format!("{plan:?} is not the plan"))?;
                self.was_granted(worker, &plan.shard, *token)
            }
            Work::Task { task, token, checkpoint, .. } => {
                ensure(self.before.live.contains(&token.epoch), || format!("attempt {} is not live", token.epoch))?;
                let grant = self.ledger.tasks.grant(token.epoch);
                let same =
                    grant.is_some_and(|grant| (grant.task, grant.token, grant.worker) == (*task, *token, worker));
                ensure(same, || format!("{token:?} to {} was not granted to it", task.name()))?;
                let last = self.ledger.checkpoints.last().map(|(_, _, path, _)| path);
                ensure(last == Some(&checkpoint.path), || format!("{checkpoint:?} is not the last one, {last:?}"))
            }
            Work::Finished(finished) if finished.succeeded => {
                ensure(self.ledger.done, || "finished, but not in the journal".into())
            }
            Work::Finished(_) => ensure(self.ledger.failed, || "failed, but not in the journal".into()),
            Work::World(_) | Work::Wait => Ok(()),
        }
    }

    /// What a shard became. One that was retried in this turn may be what it was before.
    fn part_of(&self, shard: &ShardId) -> Option<&Settled> {
        self.ledger.settled.get(shard).or_else(|| self.ledger.retried.get(shard))
    }

    fn was_granted(&self, worker: WorkerId, shard: &ShardId, token: ShardToken) -> Verdict {
        let grant = self.ledger.grant(token.epoch);
        let same = grant.is_some_and(|grant| (grant.token, grant.worker, &grant.shard) == (token, worker, shard));
        ensure(same, || format!("{token:?} at {shard} was not granted to it"))
    }

    fn seat(&self, worker: WorkerId, generation: Generation, seat: &Seat) -> Verdict {
        let Seat::Taken { token, rank, addresses, checkpoint, .. } = seat else { return Ok(()) };
        let world = self.ledger.worlds.get(&generation).filter(|world| world.token == *token);
        let world = world.ok_or_else(|| format!("{token:?} is not in the journal"))?;
        ensure(self.before.worlds.contains(&generation), || format!("{token:?} is over"))?;
        ensure(world.ranks.get(rank.0 as usize) == Some(&worker), || format!("it is not rank {rank}"))?;
        let known = world.ranks.iter().map(|rank| &self.ledger.addresses[rank]);
        ensure(known.eq(addresses), || "the addresses are not the ranks'".into())?;
        let path = checkpoint.as_ref().map(|checkpoint| checkpoint.path.clone());
        ensure(self.before.checkpoints.contains(&path), || format!("{path:?} is not the last checkpoint"))
    }

    fn speaks(&self, worker: WorkerId, token: WorldToken) -> Verdict {
        let world = self.ledger.worlds.get(&token.generation);
        let genuine = world.is_some_and(|world| world.token == token && world.ranks.first() == Some(&worker));
        let current = self.before.worlds.contains(&token.generation);
        ensure(genuine && current, || format!("{token:?} is not a world that it speaks for"))
    }

    /// The coordinator has taken a tick at this time, so its journal works: nobody may be a member who was silent for a
    /// whole term. To be asked before the turn's answers are shown.
    ///
    /// # Errors
    /// When somebody was given up too late.
    pub fn ticked(&self, now_ms: u64) -> Verdict {
        let members = self.members();
        let late = members.iter().find(|worker| now_ms.saturating_sub(self.heard_ms[worker]) >= self.terms.lease_ms);
        ensure(late.is_none(), || format!("{late:?} has been silent for too long and is a member at {now_ms} ms"))
    }
}
