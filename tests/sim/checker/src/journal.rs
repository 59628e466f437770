//! What the journal says, as a small model of its own; every record must be possible after those before it.

use std::collections::{BTreeMap, BTreeSet};

use quern_machine::{
    Acceptance, Checkpoint, Epoch, Generation, Incarnation, PartSummary, Place, Record, ShardId, ShardPlan, ShardToken,
    Stage, WorkerId, WorldToken,
};

use crate::denials::Denials;
use crate::tasks::{TaskGrant, Tasks};
use crate::{Terms, Verdict, ensure};

/// Where a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    Alive,
    Draining,
    Lost,
}

impl Member {
    pub fn is_lost(self) -> bool {
        self == Member::Lost
    }
}

/// An attempt, as it was granted.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub shard: ShardId,
    pub token: ShardToken,
    pub worker: WorkerId,
}

/// How a shard ended.
#[derive(Debug, Clone)]
pub(crate) enum Settled {
    Done(Epoch, PartSummary),
    /// What was written beside the output of it was read, since this journal doesn't know of it.
    Read(PartSummary),
    Quarantined,
}

/// A running world.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub token: WorldToken,
    pub ranks: Vec<WorkerId>,
}

/// The journal's sense.
#[derive(Debug, Default)]
pub struct Ledger {
    pub(crate) incarnation: Incarnation,
    pub(crate) plans: BTreeMap<ShardId, ShardPlan>,
    pub(crate) members: BTreeMap<WorkerId, Member>,
    pub(crate) addresses: BTreeMap<WorkerId, String>,
    pub(crate) places: BTreeMap<WorkerId, Place>,
    memory_bytes: BTreeMap<WorkerId, u64>,
    pub(crate) denials: Denials,
    pub(crate) tasks: Tasks,
    grants: BTreeMap<Epoch, Grant>,
    pub(crate) live: BTreeSet<Epoch>,
    pub(crate) settled: BTreeMap<ShardId, Settled>,
    /// What shards were before they were retried, as long as nothing has come of that.
    pub(crate) retried: BTreeMap<ShardId, Settled>,
    pub(crate) world: Option<World>,
    /// All worlds that ever ran.
    pub(crate) worlds: BTreeMap<Generation, World>,
    /// The generation that forms or runs.
    generation: Generation,
    joined: BTreeSet<WorkerId>,
    stage: usize,
    is_training: bool,
    /// Accepted checkpoints: who made them, of which step, and where they are.
    pub(crate) checkpoints: Vec<(Generation, u64, String, String)>,
    /// The last accepted checkpoint's step in this stage.
    pub(crate) safe_step: u64,
    manifest: bool,
    /// How many parts and checkpoints were accepted, and how many of them are written beside the output.
    accepted: u64,
    kept: u64,
    /// Whether others have accepted what this journal doesn't know of.
    behind: bool,
    /// The last checkpoint of each stage that was read beside the output.
    read: BTreeMap<Stage, Checkpoint>,
    /// What the incarnation of the process that starts has to exceed.
    pub(crate) incarnation_before: Option<Incarnation>,
    pub(crate) done: bool,
    pub(crate) failed: bool,
    pub(crate) paused: bool,
    sent_away: BTreeSet<WorkerId>,
    second: BTreeSet<Epoch>,
    /// How often what is rare happened.
    pub(crate) marks: BTreeMap<&'static str, u64>,
}

impl Ledger {
    pub(crate) fn grant(&self, epoch: Epoch) -> Option<&Grant> {
        self.grants.get(&epoch)
    }

    /// Believes a record that is possible.
    ///
    /// # Errors
    /// When it isn't.
    pub(crate) fn absorb(&mut self, record: &Record, terms: &Terms) -> Verdict {
        match record {
            Record::CoordinatorStarted { incarnation, behind, .. } => {
                self.behind |= behind;
                // A process that has only lost its journal for a while goes on under its own.
                ensure(*incarnation >= self.incarnation, || format!("incarnation {incarnation} is an old one"))?;
                self.incarnation = *incarnation;
            }
            Record::AcceptancesKept { count } => {
                let is_due = *count > self.kept && *count <= self.accepted;
                ensure(is_due, || format!("{count} acceptances are kept of {}", self.accepted))?;
                self.kept = *count;
            }
            Record::AcceptancesRead { acceptances } => {
                ensure(self.behind, || "this journal knows all that was accepted".into())?;
                self.behind = false;
                acceptances.iter().for_each(|acceptance| self.believe(acceptance));
                self.resume_from_what_was_read();
                self.mark("acceptances read");
            }
            Record::Planned { shards } => {
                ensure(self.plans.is_empty(), || "the corpus is planned twice".into())?;
                self.plans = shards.iter().map(|plan| (plan.shard.clone(), plan.clone())).collect();
            }
            Record::ShardsAdded { shards } => {
                self.take_up()?;
                for plan in shards {
                    let known = self.plans.insert(plan.shard.clone(), plan.clone());
                    let had_no_rows = known.is_none_or(|known| known.rows == 0);
                    ensure(had_no_rows, || format!("{} is planned twice", plan.shard))?;
                    self.settled.remove(&plan.shard);
                }
                self.mark("shards added");
            }
            Record::ShardsRetried { shards, .. } => {
                self.take_up()?;
                for shard in shards {
                    let before =
                        self.settled.remove(shard).ok_or_else(|| format!("{shard} is retried and isn't settled"))?;
                    self.retried.insert(shard.clone(), before);
                }
                self.mark("shards retried");
            }
            Record::ShardRestored { shard, .. } => {
                let before = self.retried.remove(shard).filter(|before| !matches!(before, Settled::Quarantined));
                let before = before.ok_or_else(|| format!("{shard} is restored, and had no part"))?;
                self.settle(shard, before)?;
                self.mark("shard restored");
            }
            Record::ShardReplaced { shard, part } => {
                let known = self.settled.insert(shard.clone(), Settled::Read(part.clone()));
                let had_a_part = known.is_some_and(|known| !matches!(known, Settled::Quarantined));
                ensure(had_a_part, || format!("{shard} is replaced, and had no part"))?;
                self.mark("part replaced");
            }
            Record::WorkerRegistered { worker, address, host, device, name, memory_bytes, .. } => {
                let place = Place::of(host, device, name);
                self.denials.may_come(&place)?;
                self.places.insert(*worker, place);
                self.memory_bytes.insert(*worker, *memory_bytes);
                let known = self.members.insert(*worker, Member::Alive);
                ensure(known.is_none(), || format!("{worker} is registered twice"))?;
                self.addresses.insert(*worker, address.clone());
            }
            Record::WorkerDraining { worker, .. } => self.change(*worker, Member::Draining)?,
            Record::WorkerSentAway { worker, .. } => {
                let is_news = self.members.get(worker) == Some(&Member::Alive) && self.sent_away.insert(*worker);
                ensure(is_news, || format!("{worker} is sent away, and is gone or going already"))?;
            }
            Record::RunPaused { .. } => {
                ensure(!self.paused && !self.done && !self.failed, || "what doesn't run is paused".into())?;
                self.paused = true;
            }
            Record::RunUnpaused => {
                ensure(self.paused, || "a run goes on that was not paused".into())?;
                self.paused = false;
            }
            Record::WorkerLost { worker } => self.change(*worker, Member::Lost)?,
            Record::LeaseGranted { shard, epoch, incarnation, worker, .. } => {
                let token = ShardToken { incarnation: *incarnation, epoch: *epoch };
                self.granted(Grant { shard: shard.clone(), token, worker: *worker }, terms)?;
            }
            Record::LeaseReturned { shard, epoch } | Record::AttemptFailed { shard, epoch, permanent: true, .. } => {
                self.is_live(shard, *epoch)?;
                self.live.remove(epoch);
            }
            Record::LeaseExpired { shard, epoch } | Record::AttemptFailed { shard, epoch, .. } => {
                self.is_live(shard, *epoch)?;
                self.live.remove(epoch);
                let place = self.places[&self.grants[epoch].worker].clone();
                let others = self.working_places();
                self.denials.failed(&place, shard, &others, terms.worker_failures);
            }
            Record::PlaceDenied { place, .. } => {
                let others = self.working_places();
                self.denials.denied(place, &others, terms.worker_failures)?;
                self.mark("place denied");
            }
            Record::PlaceAllowed { place } => {
                self.denials.allowed(place)?;
                self.mark("place allowed");
            }
            Record::ShardCommitted { shard, epoch, part, .. } => {
                self.is_live(shard, *epoch)?;
                self.denials.succeeded(&self.places[&self.grants[epoch].worker]);
                if self.second.contains(epoch) {
                    self.mark("second attempt was first");
                }
                self.settle(shard, Settled::Done(*epoch, part.clone()))?;
                self.accepted += 1;
            }
            Record::ShardQuarantined { shard, .. } => {
                let had_a_part = self.retried.get(shard).is_some_and(|before| !matches!(before, Settled::Quarantined));
                ensure(!had_a_part, || format!("{shard} had a part and is given up"))?;
                self.settle(shard, Settled::Quarantined)?;
            }
            Record::ManifestWritten => {
                let all = self.settled.len() == self.plans.len();
                let is_news = !self.manifest || self.tasks.unnamed();
                ensure(all && is_news, || "the manifest is written too early, or twice".into())?;
                self.manifest = true;
                self.tasks.named = self.tasks.done.len();
            }
            Record::Stage1Started { generation } => self.begin(0, *generation)?,
            Record::Stage2Started { generation } => self.begin(1, *generation)?,
            Record::TaskStarted { task } => {
                let trained = self.safe_step > 0 && self.stage + 1 >= terms.ranks.iter().filter(|n| **n > 0).count();
                ensure(trained, || format!("{} comes before all is trained", task.name()))?;
                self.tasks.started(*task, terms.tasks)?;
                self.world = None;
                self.is_training = false;
            }
            Record::TaskGranted { task, epoch, incarnation, worker } => {
                self.may_begin(*worker, terms)?;
                ensure(*epoch > self.last_epoch(), || format!("epoch {epoch} comes after {}", self.last_epoch()))?;
                ensure(*incarnation == self.incarnation, || "a task of another incarnation".into())?;
                let token = ShardToken { incarnation: *incarnation, epoch: *epoch };
                self.tasks.granted(TaskGrant { task: *task, token, worker: *worker })?;
            }
            Record::TaskReturned { task, epoch }
            | Record::TaskExpired { task, epoch }
            | Record::TaskFailed { task, epoch, .. } => {
                self.tasks.ended(*task, *epoch)?;
                self.mark("task tried again");
            }
            Record::TaskDone { task, epoch, result } => {
                self.tasks.finished(*task, *epoch, result)?;
                self.mark("task done");
            }
            Record::WorldJoined { generation, worker } => {
                self.is_forming(*generation)?;
                self.may_begin(*worker, terms)?;
                ensure(self.members.get(worker) == Some(&Member::Alive), || format!("{worker} joins a world"))?;
                ensure(self.joined.insert(*worker), || format!("{worker} joins twice"))?;
            }
            Record::WorldLeft { generation, worker } => {
                self.is_forming(*generation)?;
                ensure(self.joined.remove(worker), || format!("{worker} leaves without having joined"))?;
            }
            Record::WorldFormed { generation, incarnation, ranks } => {
                self.is_forming(*generation)?;
                ensure(!self.paused, || "a world is formed in a pause".into())?;
                ensure(*incarnation == self.incarnation, || "a world of another incarnation is formed".into())?;
                let same = ranks.iter().copied().collect::<BTreeSet<_>>() == self.joined;
                let whole = ranks.len() == self.joined.len() && ranks.len() == terms.ranks[self.stage];
                ensure(same && whole, || "a world is formed of others than those who joined".into())?;
                let token = WorldToken { incarnation: *incarnation, generation: *generation };
                let world = World { token, ranks: ranks.clone() };
                self.worlds.insert(*generation, world.clone());
                self.world = Some(world);
            }
            Record::WorldBroken { generation, .. } => {
                self.is_running(*generation)?;
                self.form(generation.next())?;
            }
            Record::CheckpointAccepted { generation, step, path, digest, .. } => {
                self.is_running(*generation)?;
                ensure(*step > self.safe_step, || format!("step {step} comes after step {}", self.safe_step))?;
                self.safe_step = *step;
                self.checkpoints.push((*generation, *step, path.clone(), digest.clone()));
                self.accepted += 1;
            }
            Record::RunFinished => {
                ensure(self.tasks.are_done(terms.tasks), || "the run finishes before its tasks are done".into())?;
                ensure(!self.tasks.unnamed(), || "the run finishes before the manifest names its tasks".into())?;
                ensure(self.manifest && !self.done, || "the run finishes too early, or twice".into())?;
                self.done = true;
            }
            Record::RunFailed { .. } => self.failed = true,
            Record::RunResumed => {
                ensure(self.failed, || "a run is taken up again that has not failed".into())?;
                self.failed = false;
            }
            Record::CaptionsTaken { .. }
            | Record::RunCancelled { .. }
            | Record::TimePassed { .. }
            | Record::WorkerHeard { .. }
            | Record::WorkerWaits { .. }
            | Record::WorkerWarmed { .. }
            | Record::ShardProgressed { .. }
            | Record::StepsReported { .. }
            | Record::ChoreDelayed { .. } => return Err("it does not belong in this journal".into()),
        }
        Ok(())
    }

    /// What must be so between transactions.
    ///
    /// # Errors
    /// When somebody who is gone still holds something.
    pub(crate) fn at_rest(&self) -> Verdict {
        self.denials.at_rest()?;
        let holder = self.tasks.holder();
        let state = holder.map(|worker| self.members.get(&worker));
        ensure(state.is_none_or(|state| state == Some(&Member::Alive)), || {
            format!("{holder:?} is {state:?} and holds a task")
        })?;
        for epoch in &self.live {
            let grant = &self.grants[epoch];
            let state = self.members.get(&grant.worker);
            let what = || format!("{} is {state:?} and holds {}", grant.worker, grant.shard);
            ensure(state == Some(&Member::Alive), what)?;
        }
        if let Some(world) = self.world.as_ref().filter(|_| !self.done && !self.failed) {
            let gone = world.ranks.iter().find(|rank| self.members.get(rank) != Some(&Member::Alive));
            ensure(gone.is_none(), || format!("{gone:?} is gone, and generation {} goes on", world.token.generation))?;
        }
        Ok(())
    }

    /// The stage that trains.
    pub(crate) fn stage(&self) -> Stage {
        if self.stage == 0 { Stage::One } else { Stage::Two }
    }

    pub(crate) fn mark(&mut self, what: &'static str) {
        *self.marks.entry(what).or_default() += 1;
    }

    fn change(&mut self, worker: WorkerId, to: Member) -> Verdict {
        let Some(state) = self.members.get_mut(&worker) else { return Err(format!("{worker} is nobody")) };
        ensure(*state != Member::Lost && *state != to, || format!("{worker} goes from {state:?} to {to:?}"))?;
        *state = to;
        Ok(())
    }

    fn granted(&mut self, grant: Grant, terms: &Terms) -> Verdict {
        let epoch = grant.token.epoch;
        let last = self.last_epoch();
        self.may_begin(grant.worker, terms)?;
        let live = || self.live.iter().map(|epoch| &self.grants[epoch]);
        let beside = live().filter(|other| other.shard == grant.shard).count();
        ensure(beside < 2, || format!("{} gets an attempt beside {beside} others", grant.shard))?;
        let holds = live().find(|other| other.worker == grant.worker);
        ensure(holds.is_none(), || format!("{} holds {holds:?} and gets {}", grant.worker, grant.shard))?;
        ensure(epoch > last, || format!("epoch {epoch} comes after {last}"))?;
        ensure(grant.token.incarnation == self.incarnation, || "a lease of another incarnation".into())?;
        ensure(self.plans.contains_key(&grant.shard), || "a lease on what is no shard".into())?;
        ensure(!self.settled.contains_key(&grant.shard), || "a lease on a settled shard".into())?;
        if beside > 0 {
            self.second.insert(epoch);
            self.mark("second attempt");
        }
        self.live.insert(epoch);
        self.grants.insert(epoch, grant);
        Ok(())
    }

    /// Nobody begins anything in a pause, nor who was sent away, is denied work or has too little memory.
    fn may_begin(&self, worker: WorkerId, terms: &Terms) -> Verdict {
        let bytes = self.memory_bytes.get(&worker).copied().unwrap_or(0);
        ensure(bytes >= terms.memory_bytes, || format!("{worker} has {bytes} bytes of memory, and begins something"))?;
        self.denials.may_begin(&self.places[&worker])?;
        ensure(!self.paused, || format!("{worker} begins something in a pause"))?;
        ensure(!self.sent_away.contains(&worker), || format!("{worker} was sent away, and begins something"))
    }

    /// Where workers are that may be given work, but for the denials.
    fn working_places(&self) -> BTreeSet<Place> {
        let alive = self.members.iter().filter(|(_, state)| **state == Member::Alive).map(|(worker, _)| worker);
        alive.filter(|worker| !self.sent_away.contains(worker)).map(|worker| self.places[worker].clone()).collect()
    }

    fn last_epoch(&self) -> Epoch {
        let last = self.grants.last_key_value().map_or(Epoch(0), |(last, _)| *last);
        last.max(self.tasks.last_epoch())
    }

    fn is_live(&self, shard: &ShardId, epoch: Epoch) -> Verdict {
        let live = self.live.contains(&epoch) && self.grants[&epoch].shard == *shard;
        ensure(live, || format!("attempt {epoch} at {shard} is not live"))
    }

    fn settle(&mut self, shard: &ShardId, how: Settled) -> Verdict {
        ensure(self.plans.contains_key(shard), || format!("{shard} is no shard"))?;
        let before = self.settled.insert(shard.clone(), how);
        ensure(before.is_none(), || format!("{shard} is settled twice"))?;
        self.retried.remove(shard);
        let grants = &self.grants;
        self.live.retain(|epoch| grants[epoch].shard != *shard);
        Ok(())
    }

    fn begin(&mut self, stage: usize, generation: Generation) -> Verdict {
        ensure(self.manifest, || "training begins before the manifest is written".into())?;
        self.stage = stage;
        self.safe_step = 0;
        self.form(generation)?;
        self.is_training = true;
        self.resume_from_what_was_read();
        Ok(())
    }

    /// The CapFilt pass goes on, though it may have been done.
    fn take_up(&mut self) -> Verdict {
        ensure(!self.is_training && self.tasks.done.is_empty(), || "captions are added to that are trained on".into())?;
        (self.manifest, self.done) = (false, false);
        Ok(())
    }

    /// Takes over what was accepted by whom this journal doesn't know.
    fn believe(&mut self, acceptance: &Acceptance) {
        match acceptance {
            Acceptance::Part { shard, part, .. } if !self.settled.contains_key(shard) => {
                self.settled.insert(shard.clone(), Settled::Read(part.clone()));
                let grants = &self.grants;
                self.live.retain(|epoch| grants[epoch].shard != *shard);
            }
            Acceptance::Part { .. } => {}
            Acceptance::Checkpoint { stage, checkpoint } => {
                let known = self.read.get(stage).map_or(0, |known| known.step);
                if checkpoint.step > known {
                    self.read.insert(*stage, checkpoint.clone());
                }
            }
        }
    }

    /// The stage that forms its world goes on from a checkpoint that was read, if that got further.
    fn resume_from_what_was_read(&mut self) {
        if !self.is_training {
            return;
        }
        let Some(Checkpoint { step, path, digest }) = self.read.remove(&self.stage()) else { return };
        if self.world.is_none() && step > self.safe_step {
            self.safe_step = step;
            self.checkpoints.push((Generation(0), step, path, digest));
        }
    }

    fn form(&mut self, generation: Generation) -> Verdict {
        ensure(generation > self.generation, || format!("generation {generation} comes after {}", self.generation))?;
        self.generation = generation;
        self.world = None;
        self.joined.clear();
        Ok(())
    }

    fn is_forming(&self, generation: Generation) -> Verdict {
        let training = self.world.is_none() && self.tasks.current.is_none();
        let forming = training && generation == self.generation;
        ensure(forming, || format!("generation {generation} is not forming"))
    }

    fn is_running(&self, generation: Generation) -> Verdict {
        let running = self.world.as_ref().is_some_and(|world| world.token.generation == generation);
        ensure(running, || format!("generation {generation} is not running"))
    }
}
