//! What a run looks like, as plain values.

use crate::event::Finished;
use crate::ids::{Generation, Incarnation, Place, ShardId, WorkerId};
use crate::machine::Machine;
use crate::members::{Member, MemberState};
use crate::run::{End, Phase, Stage};
use crate::shards::{DatasetTotals, SecondAttempts, ShardState, Totals};
use crate::tasks::{Task, TaskResult};
use crate::training::{Checkpoint, DoneStage, StepLosses, World};

/// Members that are lost are listed up to this number, and quarantined shards too: they are counted anyway.
const LISTED_AT_MOST: usize = 256;

/// A run at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// `planning`, `capfilt`, `stage1`, `stage2`, `evaluate`, `export`, `done`, `failed`, `cancelled`.
    pub phase: &'static str,
    /// Why an operator paused it, if so.
    pub paused: Option<String>,
    /// How it ended.
    pub finished: Option<Finished>,
    /// One sentence: what is happening, or why nothing moves.
    pub explanation: String,
    /// Sums over all shards.
    pub totals: Totals,
    /// Sums over each data set's shards, by its name.
    pub datasets: Vec<(String, DatasetTotals)>,
    /// Shards that wait for a worker.
    pub shards_pending: u64,
    /// Shards that are worked on.
    pub shards_leased: u64,
    /// Rows that live attempts are through with.
    pub rows_in_flight: u64,
    /// Live attempts at shards.
    pub attempts_live: u64,
    /// Those of them that run beside another one.
    pub second_live: u64,
    /// Second attempts so far.
    pub second: SecondAttempts,
    /// What is to be done with what was trained, in order.
    pub tasks: Vec<TaskStatus>,
    /// Places that get no work.
    pub denied: Vec<DeniedPlace>,
    /// The recipe's stages of training, in order.
    pub stages: Vec<StageStatus>,
    /// The one that the run is at, or was when it ended.
    pub stage: Option<Stage>,
    /// All members, and the last of those that were lost.
    pub workers: Vec<WorkerStatus>,
    /// How many workers the run can use now or soon.
    pub workers_needed: u64,
    /// The coordinator's incarnation.
    pub incarnation: Incarnation,
    /// The training world's current generation.
    pub world: Option<Generation>,
    /// The first shards that were given up.
    pub quarantined: Vec<ShardFailure>,
    /// Rows in quarantine by `STAGE/REASON`, most rows first; the last one is empty for those whose reason nobody said.
    pub reasons: Vec<(String, u64)>,
}

/// A stage of training at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct StageStatus {
    /// Which.
    pub stage: Stage,
    /// Steps done.
    pub step: u64,
    /// Steps of the recipe.
    pub steps: u64,
    /// The last reported step.
    pub losses: Option<StepLosses>,
    /// The last accepted checkpoint.
    pub checkpoint: Option<Checkpoint>,
}

/// A worker at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Its id.
    pub worker: WorkerId,
    /// For people.
    pub name: String,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// `alive`, `denied`, `draining`, `lost`.
    pub state: &'static str,
    /// Why it is denied work; empty: it isn't.
    pub reason: String,
    /// Memory of its device; 0: it said nothing of it.
    pub memory_bytes: u64,
    /// What it works on; empty: nothing.
    pub doing: String,
    /// For how long it has been silent.
    pub silent_ms: u64,
    /// Rows of its accepted parts, and those that its live attempt is through with.
    pub rows: u64,
}

/// A task at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// Which.
    pub task: Task,
    /// What came of it; `None`: it isn't done.
    pub result: Option<TaskResult>,
}

/// A place that gets no work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedPlace {
    /// The place.
    pub place: Place,
    /// Why.
    pub reason: String,
}

/// A shard that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardFailure {
    /// The shard.
    pub shard: ShardId,
    /// Why.
    pub reason: String,
    /// Its rows.
    pub rows: u64,
}

impl Status {
    /// The stage that the run is at, was when it ended, or will be at first.
    pub fn current_stage(&self) -> Option<&StageStatus> {
        let current = self.stages.iter().find(|status| Some(status.stage) == self.stage);
        current.or(self.stages.first())
    }
}

impl Machine {
    /// What the run looks like now.
    pub fn status(&self) -> Status {
        let finished = self.run.finished();
        let phase = match &self.run.end {
            Some(End::Done) => "done",
            Some(End::Failed { .. }) => "failed",
            Some(End::Cancelled { .. }) => "cancelled",
            None => self.run.phase.name(),
        };
        Status {
            phase,
            paused: self.run.paused.clone().filter(|_| self.run.end.is_none()),
            explanation: self.explain(),
            totals: self.shards.totals,
            datasets: self.shards.datasets.iter().map(|(name, of)| (name.clone(), *of)).collect(),
            shards_pending: self.shards.pending.len() as u64,
            shards_leased: self.shards.leased.len() as u64,
            rows_in_flight: self.shards.rows_in_flight,
            attempts_live: self.shards.holdings.len() as u64,
            second_live: self.shards.second_attempts_live(),
            second: self.shards.second,
            tasks: self.task_list(),
            denied: self.denied_list(),
            stage: matches!(self.run.phase, Phase::Training(_) | Phase::Task(_)).then_some(self.training.stage),
            stages: self.config.stages().map(|(stage, config)| self.stage_status(stage, config.steps)).collect(),
            workers: self.worker_list(),
            workers_needed: self.workers_needed(),
            incarnation: self.incarnation,
            world: self.training.world.generation(),
            quarantined: self.quarantined_list(),
            reasons: self.reason_list(),
            finished,
        }
    }

    fn stage_status(&self, stage: Stage, steps: u64) -> StageStatus {
        let training = &self.training;
        if let Some(done) = training.done(stage) {
            let DoneStage { checkpoint, losses, .. } = done.clone();
            return StageStatus { stage, step: steps, steps, losses, checkpoint: Some(checkpoint) };
        }
        if self.run.phase != Phase::Training(stage) {
            return StageStatus { stage, step: 0, steps, losses: None, checkpoint: None };
        }
        let (step, losses, checkpoint) = (training.step, training.losses, training.checkpoint.clone());
        StageStatus { stage, step, steps, losses, checkpoint }
    }

    fn worker_list(&self) -> Vec<WorkerStatus> {
        let lost = self.members.lost();
        let mut hidden = lost.saturating_sub(LISTED_AT_MOST);
        let mut listed = |member: &Member| {
            let hide = member.state == MemberState::Lost && hidden > 0;
            hidden -= usize::from(hide);
            !hide
        };
        let members = self.members.all.iter().filter(|(_, member)| listed(member));
        let show = |(worker, member): (&WorkerId, &Member)| WorkerStatus {
            worker: *worker,
            name: member.name.clone(),
            device: member.device.clone(),
            state: self.state_name(member),
            reason: self.denylist.reason(&member.place).unwrap_or_default().into(),
            memory_bytes: member.memory_bytes,
            doing: self.doing(*worker),
            silent_ms: self.now_ms.saturating_sub(member.heard_ms),
            rows: member.rows + self.shards.held_by(*worker).map_or(0, |(_, attempt)| attempt.rows_done),
        };
        members.map(show).collect()
    }

    fn state_name(&self, member: &Member) -> &'static str {
        match member.state {
            MemberState::Alive if member.sent_away => MemberState::Draining.name(),
            MemberState::Alive if self.denylist.reason(&member.place).is_some() => "denied",
            state => state.name(),
        }
    }

    fn task_list(&self) -> Vec<TaskStatus> {
        let wanted = [(Task::Evaluate, self.config.evaluate), (Task::Export, self.config.export)];
        let show = |(task, _): &(Task, bool)| {
            let result = self.tasks.done.iter().find(|done| done.task == *task).map(|done| done.result.clone());
            TaskStatus { task: *task, result }
        };
        wanted.iter().filter(|(_, is_wanted)| *is_wanted).map(show).collect()
    }

    fn denied_list(&self) -> Vec<DeniedPlace> {
        let show = |(place, reason): (&Place, &String)| DeniedPlace { place: place.clone(), reason: reason.clone() };
        self.denylist.denied.iter().map(show).collect()
    }

    fn doing(&self, worker: WorkerId) -> String {
        if self.run.end.is_some() {
            return String::new();
        }
        if let Some(rank) = self.training.world.rank(worker) {
            return format!("stage {}, rank {rank}", self.training.stage.number());
        }
        if let World::Forming { joined, .. } = &self.training.world
            && joined.contains(&worker)
        {
            return "waiting for the training world".into();
        }
        if let (Phase::Task(task), Some(held)) = (self.run.phase, &self.tasks.attempt)
            && held.worker == worker
        {
            return task.name().into();
        }
        self.shards.held_by(worker).map_or(String::new(), |(shard, attempt)| {
            let second = if attempt.is_second { ", second attempt" } else { "" };
            format!("capfilt {}{second}", shard.plan.shard)
        })
    }

    fn reason_list(&self) -> Vec<(String, u64)> {
        let said = &self.shards.reasons;
        let mut reasons: Vec<_> = said.iter().map(|(reason, rows)| (reason.clone(), *rows)).collect();
        reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let unsaid = self.shards.totals.rows_quarantined - said.values().sum::<u64>();
        reasons.extend((unsaid > 0).then(|| (String::new(), unsaid)));
        reasons
    }

    fn quarantined_list(&self) -> Vec<ShardFailure> {
        let failure = |shard: &crate::shards::Shard| match &shard.state {
            ShardState::Quarantined { reason } => {
                Some(ShardFailure { shard: shard.plan.shard.clone(), reason: reason.clone(), rows: shard.plan.rows })
            }
            _ => None,
        };
        let given_up = self.shards.quarantined.iter().map(|id| &self.shards.all[id]);
        given_up.filter_map(failure).take(LISTED_AT_MOST).collect()
    }
}
