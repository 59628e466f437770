//! The machine: `decide` and `absorb`.

use std::collections::BTreeSet;

use crate::event::{
    Answer, Call, Caller, Decision, Event, Refusal, Registration, Seat, ShardProgress, UnreadableFile, Work,
};
use crate::ids::{Generation, Incarnation, Rank, ShardId, ShardToken, WorkerId, WorldToken};
use crate::members::{Member, MemberState, Members};
use crate::mutation::{Mutation, planted};
use crate::part::PartSummary;
use crate::record::Record;
use crate::run::{Chore, End, Phase, Run, Stage};
use crate::shards::{Choice, Ending, SettledShard, ShardPlan, ShardState, Shards};
use crate::training::{Checkpoint, Loss, StepLosses, Training, World};

/// What the recipe says about the cluster. It guides decisions only: no record's meaning depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How long a worker may be silent.
    pub lease_ms: u64,
    /// Attempts per shard, and fruitless generations of a training world in a row.
    pub attempts: u32,
    /// Stage 1, when the recipe has it.
    pub stage1: Option<StageConfig>,
    /// Stage 2, when the recipe has it.
    pub stage2: Option<StageConfig>,
}

impl Config {
    /// What the recipe says about a stage.
    pub fn stage(&self, stage: Stage) -> Option<StageConfig> {
        match stage {
            Stage::One => self.stage1,
            Stage::Two => self.stage2,
        }
    }

    /// The stages that the recipe has, in order.
    pub fn stages(&self) -> impl Iterator<Item = (Stage, StageConfig)> {
        let both = [Stage::One, Stage::Two].map(|stage| self.stage(stage).map(|config| (stage, config)));
        both.into_iter().flatten()
    }

    fn first_stage(&self) -> Option<Stage> {
        self.stages().next().map(|(stage, _)| stage)
    }

    fn stage_after(&self, stage: Stage) -> Option<Stage> {
        self.stages().map(|(next, _)| next).find(|next| *next > stage)
    }
}

/// What the recipe says about a stage of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageConfig {
    /// Ranks of the world.
    pub ranks: u32,
    /// Optimiser steps.
    pub steps: u64,
}

/// The state of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    pub(crate) config: Config,
    pub(crate) now_ms: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) run: Run,
    pub(crate) shards: Shards,
    pub(crate) members: Members,
    pub(crate) training: Training,
}

impl Machine {
    /// A run of which nothing has happened yet.
    pub fn new(config: Config) -> Self {
        Machine {
            config,
            now_ms: 0,
            incarnation: Incarnation(0),
            run: Run::default(),
            shards: Shards::default(),
            members: Members::default(),
            training: Training::default(),
        }
    }

    /// What the coordinator has to do now, beside answering.
    pub fn chore(&self) -> Option<Chore> {
        match (&self.run.end, self.run.phase) {
            (None, Phase::Planning) => Some(Chore::Plan),
            (None, Phase::CapFilt) if self.shards.settled() => Some(Chore::WriteManifest),
            _ => None,
        }
    }

    /// How the run ended.
    pub fn end(&self) -> Option<&End> {
        self.run.end.as_ref()
    }

    /// What the run is at, or was when it ended.
    pub fn phase(&self) -> Phase {
        self.run.phase
    }

    /// The coordinator's incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// All shards that are done or given up, in shard order.
    pub fn settled_shards(&self) -> Vec<SettledShard> {
        self.shards.settled_shards()
    }

    /// Decides what an event makes true. Changes nothing.
    pub fn decide(&self, event: &Event) -> Decision {
        match event {
            Event::Start { now_ms, resume } => self.start(*now_ms, *resume),
            Event::Tick { now_ms } => self.tick(*now_ms),
            Event::Planned { shards, unreadable } => self.planned(shards, unreadable),
            Event::CaptionsFound { rows } => self.captions_found(*rows),
            // What comes of a chore that is no longer due is old news.
            Event::ChoreFailed { .. } | Event::ChoreDelayed { .. } if self.chore().is_none() => {
                Decision::noted(Vec::new())
            }
            Event::ChoreFailed { cause } => Decision::noted(vec![Record::RunFailed { cause: cause.clone() }]),
            Event::ChoreDelayed { reason } => Decision::noted(vec![Record::ChoreDelayed { reason: reason.clone() }]),
            Event::ManifestWritten => self.manifest_written(),
            Event::Control(control) => self.control(control),
            Event::Register(registration) => self.register(registration),
            Event::Call { caller, call } => match self.members.authenticate(caller) {
                Ok(member) => self.call(caller, member, call).unwrap_or_else(Decision::refuse),
                Err(refusal) => Decision::refuse(refusal),
            },
        }
    }

    fn call(&self, caller: &Caller, member: &Member, call: &Call) -> Result<Decision, Refusal> {
        let worker = caller.worker;
        match call {
            Call::Heartbeat { progress } => Ok(self.heartbeat(worker, member, progress)),
            Call::Drain { reason } => Ok(self.drain(worker, member, reason)),
            Call::Lease | Call::JoinWorld { .. } if member.state == MemberState::Draining => {
                Err(Refusal::Draining(worker))
            }
            // It hears with its next heartbeat what it waits for.
            Call::Lease if member.sent_away && self.run.end.is_none() => Ok(Decision::answer(Answer::Work(Work::Wait))),
            Call::JoinWorld { generation } if member.sent_away && self.training.world.rank(worker).is_none() => {
                Err(Refusal::StaleWorld { given: *generation })
            }
            Call::Lease => Ok(self.lease(worker)),
            Call::JoinWorld { generation } => self.join_world(worker, *generation),
            Call::Commit { shard, token, part } => self.commit(worker, shard, *token, part),
            Call::Fail { shard, token, reason, permanent } => self.fail(worker, shard, *token, reason, *permanent),
            Call::ReportSteps { token, losses } => self.report_steps(worker, *token, losses),
            Call::CommitCheckpoint { token, checkpoint, last } => {
                self.commit_checkpoint(worker, *token, checkpoint, *last)
            }
            Call::LeaveWorld { token, reason } => self.leave_world(worker, *token, reason),
        }
    }

    // ---- the coordinator's own events ----

    fn start(&self, now_ms: u64, resume: bool) -> Decision {
        let until_ms = now_ms + self.config.lease_ms;
        let incarnation = self.incarnation.next();
        let mut records = vec![Record::CoordinatorStarted { incarnation, at_ms: now_ms, until_ms }];
        if resume && matches!(self.run.end, Some(End::Failed { .. })) {
            records.push(Record::RunResumed);
        }
        Decision::noted(records)
    }

    fn tick(&self, now_ms: u64) -> Decision {
        if now_ms <= self.now_ms {
            return Decision::noted(Vec::new());
        }
        let mut lost = self.members.silent(now_ms, self.config.lease_ms);
        if planted(Mutation::NeverLoseTheSilent) {
            lost.clear();
        }
        let mut records = vec![Record::TimePassed { now_ms }];
        records.extend(lost.iter().map(|worker| Record::WorkerLost { worker: *worker }));
        let ended = |attempt: &crate::shards::Attempt| {
            let over = lost.contains(&attempt.worker) || attempt.until_ms <= now_ms;
            (over && !planted(Mutation::KeepLeasesOfTheLost)).then_some(Ending::Expired)
        };
        records.extend(self.shards.end_attempts(self.config.attempts, ended));
        records.extend(self.part_with(&lost, Loss::Blamed, "a rank fell silent"));
        Decision::noted(records)
    }

    fn planned(&self, shards: &[ShardPlan], unreadable: &[UnreadableFile]) -> Decision {
        if self.chore() != Some(Chore::Plan) {
            return Decision::noted(Vec::new());
        }
        if shards.is_empty() {
            let cause = match unreadable.first() {
                None => "the data sets hold no rows".into(),
                Some(first) => {
                    format!("no file of the data sets can be read, the first is {}: {}", first.shard.file, first.reason)
                }
            };
            return Decision::noted(vec![Record::RunFailed { cause }]);
        }
        let all = shards.iter().chain(unreadable.iter().map(|file| &file.shard)).cloned().collect();
        let mut records = vec![Record::Planned { shards: all }];
        records.extend(
            unreadable
                .iter()
                .map(|file| Record::ShardQuarantined { shard: file.shard.shard.clone(), reason: file.reason.clone() }),
        );
        Decision::noted(records)
    }

    fn manifest_written(&self) -> Decision {
        if self.chore() != Some(Chore::WriteManifest) {
            return Decision::noted(Vec::new());
        }
        let totals = &self.shards.totals;
        let records = match self.config.first_stage() {
            None => vec![Record::ManifestWritten, Record::RunFinished],
            Some(_) if totals.rows_kept + totals.rows_passed == 0 => {
                let cause = format!("all {} rows were quarantined, there is nothing to train on", totals.rows);
                vec![Record::RunFailed { cause }]
            }
            Some(stage) => vec![Record::ManifestWritten, self.begun(stage)],
        };
        Decision::noted(records)
    }

    fn captions_found(&self, rows: u64) -> Decision {
        if self.chore() != Some(Chore::Plan) {
            return Decision::noted(Vec::new());
        }
        Decision::noted(match self.config.first_stage() {
            Some(stage) if rows > 0 => vec![Record::CaptionsTaken { rows }, self.begun(stage)],
            _ => vec![Record::RunFailed { cause: "there is nothing to train, or no caption to train on".into() }],
        })
    }

    fn begun(&self, stage: Stage) -> Record {
        let generation = self.training.next_generation();
        match stage {
            Stage::One => Record::Stage1Started { generation },
            Stage::Two => Record::Stage2Started { generation },
        }
    }

    /// What the recipe says about the stage that the run is at.
    pub(crate) fn stage_config(&self) -> Option<StageConfig> {
        self.config.stage(self.training.stage)
    }

    // ---- members ----

    fn register(&self, registration: &Registration) -> Decision {
        let worker = self.members.next_id();
        let record = Record::WorkerRegistered {
            worker,
            name: registration.name.clone(),
            device: registration.device.clone(),
            address: registration.address.clone(),
            secret: registration.secret.clone(),
            at_ms: self.now_ms,
        };
        let answer = Answer::Registered { worker, incarnation: self.incarnation };
        Decision { records: vec![record], after_durable: Ok(answer) }
    }

    fn heartbeat(&self, worker: WorkerId, member: &Member, progress: &[ShardProgress]) -> Decision {
        let until_ms = self.now_ms + self.config.lease_ms;
        let mut records = vec![Record::WorkerHeard { worker, at_ms: self.now_ms, until_ms }];
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
        let drain = member.is_leaving();
        let pause = self.run.paused.is_some();
        let answer = Answer::Heard { drain, pause, revoked, world: self.training.world.generation() };
        Decision { records, after_durable: Ok(answer) }
    }

    fn drain(&self, worker: WorkerId, member: &Member, reason: &str) -> Decision {
        if member.state == MemberState::Draining {
            return Decision::noted(Vec::new());
        }
        let mut records = vec![Record::WorkerDraining { worker, reason: reason.into() }];
        let ended = |attempt: &crate::shards::Attempt| {
            (attempt.worker == worker && !planted(Mutation::KeepLeasesOfTheDraining)).then_some(Ending::Returned)
        };
        records.extend(self.shards.end_attempts(self.config.attempts, ended));
        records.extend(self.part_with(&BTreeSet::from([worker]), Loss::Graceful, "a rank went away"));
        Decision::noted(records)
    }

    /// Whether a member has been silent for half of its term.
    pub(crate) fn is_silent(&self, worker: WorkerId) -> bool {
        let heard_ms = self.members.all.get(&worker).map_or(0, |member| member.heard_ms);
        self.now_ms.saturating_sub(heard_ms) * 2 >= self.config.lease_ms
    }

    // ---- shards ----

    fn lease(&self, worker: WorkerId) -> Decision {
        if let Some(finished) = self.run.finished() {
            return Decision::answer(Answer::Work(Work::Finished(finished)));
        }
        let work = match self.run.phase {
            _ if self.run.paused.is_some() => Work::Wait,
            Phase::Planning => Work::Wait,
            Phase::CapFilt => return self.lease_shard(worker),
            Phase::Training(_) => match &self.training.world {
                World::Forming { generation, .. } => Work::World(*generation),
                // Its answer to JoinWorld got lost: it may ask again.
                World::Running { token, ranks } if ranks.contains(&worker) => Work::World(token.generation),
                World::Running { .. } | World::Absent => Work::Wait,
            },
        };
        Decision::answer(Answer::Work(work))
    }

    fn lease_shard(&self, worker: WorkerId) -> Decision {
        match self.shards.choose(worker, |holder| self.is_silent(holder)) {
            Choice::Nothing => Decision::answer(Answer::Work(Work::Wait)),
            Choice::Held(shard, attempt) => {
                Decision::answer(Answer::Work(Work::Shard { plan: shard.plan.clone(), token: attempt.token }))
            }
            Choice::Grant(shard) => {
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
                let work = Work::Shard { plan: shard.plan.clone(), token };
                Decision { records: vec![granted], after_durable: Ok(Answer::Work(work)) }
            }
        }
    }

    fn commit(
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
        let epoch = self.shards.live(shard, token, worker)?.token.epoch;
        part.check(shard, known.plan.rows).map_err(Refusal::Malformed)?;
        let record = Record::ShardCommitted { shard: shard.clone(), epoch, part: part.clone() };
        Ok(Decision { records: vec![record], after_durable: Ok(Answer::Accepted) })
    }

    fn fail(
        &self,
        worker: WorkerId,
        shard: &ShardId,
        token: ShardToken,
        reason: &str,
        permanent: bool,
    ) -> Result<Decision, Refusal> {
        self.shards.live(shard, token, worker)?;
        if permanent {
            let failed = Record::AttemptFailed { shard: shard.clone(), epoch: token.epoch, reason: reason.into() };
            let given_up = Record::ShardQuarantined { shard: shard.clone(), reason: reason.into() };
            return Ok(Decision::noted(vec![failed, given_up]));
        }
        let ended =
            |attempt: &crate::shards::Attempt| (attempt.token == token).then(|| Ending::Failed(reason.to_owned()));
        Ok(Decision::noted(self.shards.end_attempts(self.config.attempts, ended)))
    }

    // ---- training ----

    fn join_world(&self, worker: WorkerId, generation: Generation) -> Result<Decision, Refusal> {
        if let Some(finished) = self.run.finished() {
            return Ok(Decision::answer(Answer::Seat(Seat::Finished(finished))));
        }
        if self.training.world.generation() != Some(generation) {
            return Err(Refusal::StaleWorld { given: generation });
        }
        match &self.training.world {
            World::Running { token, ranks } => match self.training.world.rank(worker) {
                Some(rank) => Ok(Decision::answer(Answer::Seat(self.seat(*token, rank, ranks)))),
                None => Err(Refusal::StaleWorld { given: generation }),
            },
            // Its place is given up: the world forms anew when the run goes on.
            World::Forming { .. } if self.run.paused.is_some() => Err(Refusal::StaleWorld { given: generation }),
            World::Forming { joined, .. } => {
                let mut members = joined.clone();
                let is_new = members.insert(worker);
                let mut records = Vec::new();
                if is_new {
                    records.push(Record::WorldJoined { generation, worker });
                }
                if members.len() < self.stage_config().map_or(0, |stage| stage.ranks as usize) {
                    return Ok(Decision { records, after_durable: Ok(Answer::Seat(Seat::Wait)) });
                }
                let ranks: Vec<_> = members.into_iter().collect();
                let token = WorldToken { incarnation: self.incarnation, generation };
                let rank = ranks.iter().position(|rank| *rank == worker).expect("it has just joined");
                let seat = self.seat(token, Rank(rank as u32), &ranks);
                records.push(Record::WorldFormed { generation, incarnation: self.incarnation, ranks });
                Ok(Decision { records, after_durable: Ok(Answer::Seat(seat)) })
            }
            World::Absent => Err(Refusal::StaleWorld { given: generation }),
        }
    }

    fn seat(&self, token: WorldToken, rank: Rank, ranks: &[WorkerId]) -> Seat {
        let addresses = ranks.iter().map(|worker| self.members.all[worker].address.clone()).collect();
        let stage = self.training.stage;
        let stage1 = self.training.done(Stage::One).map(|done| done.checkpoint.clone());
        Seat::Taken { token, rank, addresses, stage, checkpoint: self.training.checkpoint.clone(), stage1 }
    }

    fn speaks_for_the_world(&self, worker: WorkerId, token: WorldToken) -> Result<(), Refusal> {
        match self.training.world.live(token, worker)? {
            Rank(0) if self.run.end.is_none() => Ok(()),
            Rank(0) => Err(Refusal::StaleWorld { given: token.generation }),
            rank => Err(Refusal::NotRankZero(rank)),
        }
    }

    fn report_steps(&self, worker: WorkerId, token: WorldToken, losses: &StepLosses) -> Result<Decision, Refusal> {
        if !planted(Mutation::AcceptOldSteps) {
            self.speaks_for_the_world(worker, token)?;
        }
        let record = Record::StepsReported { generation: token.generation, losses: *losses };
        Ok(Decision::noted(vec![record]))
    }

    fn commit_checkpoint(
        &self,
        worker: WorkerId,
        token: WorldToken,
        offered: &Checkpoint,
        last: bool,
    ) -> Result<Decision, Refusal> {
        // The same offer again: its answer got lost.
        if self.training.has_accepted(offered, token) {
            return Ok(Decision::answer(Answer::Accepted));
        }
        if !planted(Mutation::AcceptOldCheckpoints) {
            self.speaks_for_the_world(worker, token)?;
        }
        let safe = self.training.safe_step();
        if self.training.checkpoint.is_some() && offered.step <= safe {
            let reason = format!("the checkpoint of step {safe} was accepted before");
            return Ok(Decision::answer(Answer::Superseded { reason }));
        }
        if offered.path.is_empty() || offered.path.starts_with('/') || offered.path.contains("..") {
            let what = format!("the checkpoint's path {:?} is not a folder under the output", offered.path);
            return Err(Refusal::Malformed(what));
        }
        let mut records = vec![Record::CheckpointAccepted {
            generation: token.generation,
            step: offered.step,
            path: offered.path.clone(),
            digest: offered.digest.clone(),
            last,
        }];
        if last {
            records.push(match self.config.stage_after(self.training.stage) {
                Some(next) => self.begun(next),
                None => Record::RunFinished,
            });
        }
        Ok(Decision { records, after_durable: Ok(Answer::Accepted) })
    }

    fn leave_world(&self, worker: WorkerId, token: WorldToken, reason: &str) -> Result<Decision, Refusal> {
        self.training.world.live(token, worker)?;
        if self.run.end.is_some() {
            return Ok(Decision::noted(Vec::new()));
        }
        let (loss, reason) = match &self.run.paused {
            Some(_) => (Loss::Graceful, "the run was paused".to_owned()),
            None => (Loss::Blamed, format!("{} said: {reason}", self.members.title(worker))),
        };
        let records = self.training.break_up(token.generation, loss, &reason, self.config.attempts);
        Ok(Decision::noted(records))
    }

    fn part_with(&self, gone: &BTreeSet<WorkerId>, loss: Loss, reason: &str) -> Vec<Record> {
        match self.run.end {
            Some(_) => Vec::new(),
            None => self.training.part_with(gone, loss, reason, self.config.attempts),
        }
    }

    // ---- facts ----

    /// Makes a record true. Decides nothing.
    ///
    /// # Panics
    /// When the record contradicts those before, such as a commit of a shard that nobody planned: the journal is not one
    /// that a machine wrote.
    pub fn absorb(&mut self, record: &Record) {
        match record {
            Record::CoordinatorStarted { incarnation, at_ms, until_ms } => {
                self.incarnation = *incarnation;
                self.now_ms = *at_ms;
                self.run.delay = None;
                if !planted(Mutation::ForgetNewTerms) {
                    self.members.absorb_restart(*at_ms);
                    self.shards.absorb_renewal(None, *until_ms);
                }
                self.shards.absorb_restart();
                self.training.absorb_restart();
            }
            Record::Planned { shards } => {
                self.shards.absorb_plan(shards);
                self.run.phase = Phase::CapFilt;
                self.run.delay = None;
            }
            Record::WorkerRegistered { worker, name, device, address, secret, at_ms } => {
                let member = Member {
                    name: name.clone(),
                    device: device.clone(),
                    address: address.clone(),
                    secret: secret.clone(),
                    state: MemberState::Alive,
                    heard_ms: *at_ms,
                    sent_away: false,
                };
                self.members.all.insert(*worker, member);
            }
            Record::WorkerDraining { worker, .. } => self.members.absorb_state(*worker, MemberState::Draining),
            Record::WorkerSentAway { worker, .. } => self.members.absorb_sent_away(*worker),
            Record::WorkerLost { worker } => self.members.absorb_state(*worker, MemberState::Lost),
            Record::LeaseGranted { shard, epoch, incarnation, worker, until_ms } => {
                self.shards.absorb_grant(shard, *epoch, *incarnation, *worker, *until_ms);
            }
            Record::LeaseReturned { shard, epoch } => self.shards.absorb_end(shard, *epoch, false),
            Record::LeaseExpired { shard, epoch } | Record::AttemptFailed { shard, epoch, .. } => {
                self.shards.absorb_end(shard, *epoch, true);
            }
            Record::ShardCommitted { shard, epoch, part } => self.shards.absorb_commit(shard, *epoch, part),
            Record::ShardQuarantined { shard, reason } => self.shards.absorb_quarantine(shard, reason),
            Record::ManifestWritten | Record::CaptionsTaken { .. } => self.run.delay = None,
            Record::Stage1Started { generation } => self.absorb_stage(Stage::One, *generation),
            Record::Stage2Started { generation } => self.absorb_stage(Stage::Two, *generation),
            Record::WorldJoined { worker, .. } => {
                if let World::Forming { joined, .. } = &mut self.training.world {
                    joined.insert(*worker);
                }
            }
            Record::WorldLeft { worker, .. } => {
                if let World::Forming { joined, .. } = &mut self.training.world {
                    joined.remove(worker);
                }
            }
            Record::WorldFormed { generation, incarnation, ranks } => {
                self.training.absorb_formed(*generation, *incarnation, ranks);
            }
            Record::WorldBroken { generation, reason, fruitless } => {
                self.training.absorb_broken(*generation, reason, *fruitless);
            }
            Record::CheckpointAccepted { step, path, digest, .. } => {
                let checkpoint = Checkpoint { step: *step, path: path.clone(), digest: digest.clone() };
                self.training.absorb_checkpoint(checkpoint);
            }
            Record::RunFinished => self.run.end = Some(End::Done),
            Record::RunFailed { cause } => self.run.end = Some(End::Failed { cause: cause.clone() }),
            Record::RunPaused { reason } => self.run.paused = Some(reason.clone()),
            Record::RunUnpaused => self.run.paused = None,
            Record::RunCancelled { reason } => self.run.end = Some(End::Cancelled { reason: reason.clone() }),
            Record::RunResumed => {
                self.run.end = None;
                self.training.fruitless = 0;
            }
            Record::TimePassed { now_ms } => self.now_ms = *now_ms,
            Record::WorkerHeard { worker, at_ms, until_ms } => {
                self.members.absorb_heard(*worker, *at_ms);
                self.shards.absorb_renewal(Some(*worker), *until_ms);
            }
            Record::ShardProgressed { shard, epoch, rows_done } => {
                self.shards.absorb_progress(shard, *epoch, *rows_done);
            }
            Record::StepsReported { losses, .. } => {
                self.training.step = losses.step;
                self.training.losses = Some(*losses);
            }
            Record::ChoreDelayed { reason } => self.run.delay = Some(reason.clone()),
        }
    }

    fn absorb_stage(&mut self, stage: Stage, generation: Generation) {
        self.run.phase = Phase::Training(stage);
        self.training.absorb_stage(stage, generation);
    }
}
