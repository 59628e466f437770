//! Training: one world of ranks, `Absent → Forming{generation} → Running{generation} → Forming{generation + 1} …`, and
//! the checkpoint that it resumes from. Stages follow each other; the next one's world is the next generation.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::event::Refusal;
use crate::ids::{Generation, Incarnation, Rank, WorkerId, WorldToken};
use crate::record::Record;
use crate::run::Stage;

/// One training step, as rank 0 tells it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepLosses {
    /// The step, counted from 1.
    pub step: u64,
    /// Its losses.
    pub losses: Losses,
    /// Learning rate.
    pub lr: f64,
    /// Wall-clock time of the step.
    pub seconds: f64,
}

/// What a stage minimises.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Losses {
    /// Stage 1's three.
    Stage1 {
        /// Image-text contrast.
        itc: f64,
        /// Image-grounded text generation.
        itg: f64,
        /// Image-text matching.
        itm: f64,
    },
    /// Stage 2's one.
    Stage2 {
        /// The language model's, per token.
        lm: f64,
    },
}

/// A durable state of training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// Its folder relative to the output.
    pub path: String,
    /// Digest of its contents.
    pub digest: String,
}

/// The gang of ranks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum World {
    /// All is trained: this generation was the last.
    Over(Generation),
    /// There is nothing to train (yet).
    #[default]
    Absent,
    /// Ranks are missing.
    Forming { generation: Generation, joined: BTreeSet<WorkerId> },
    /// It trains. Ranks are contiguous: a rank is an index.
    Running { token: WorldToken, ranks: Vec<WorkerId> },
}

impl World {
    /// The current generation.
    pub fn generation(&self) -> Option<Generation> {
        match self {
            World::Absent => None,
            World::Over(generation) => Some(*generation),
            World::Forming { generation, .. } => Some(*generation),
            World::Running { token, .. } => Some(token.generation),
        }
    }

    /// The place of `worker` in the running world.
    pub fn rank(&self, worker: WorkerId) -> Option<Rank> {
        match self {
            World::Running { ranks, .. } => ranks.iter().position(|w| *w == worker).map(|i| Rank(i as u32)),
            _ => None,
        }
    }

    /// The place of `worker` in the running world that `token` names.
    ///
    /// # Errors
    /// When that world isn't the running one, or the worker isn't in it.
    pub fn live(&self, token: WorldToken, worker: WorkerId) -> Result<Rank, Refusal> {
        let stale = Refusal::StaleWorld { given: token.generation };
        match self {
            World::Running { token: current, .. } if *current == token => self.rank(worker).ok_or(stale),
            _ => Err(stale),
        }
    }
}

/// Why a world ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// A rank failed or vanished: it counts towards the limit on fruitless generations.
    Blamed,
    /// A rank went away as it should.
    Graceful,
}

/// A stage that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DoneStage {
    pub stage: Stage,
    pub checkpoint: Checkpoint,
    /// Which world made the checkpoint.
    pub token: WorldToken,
    pub losses: Option<StepLosses>,
}

/// Training's state: of the stage that it is at.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Training {
    pub stage: Stage,
    /// Stages before it.
    pub done: Vec<DoneStage>,
    pub world: World,
    /// The last accepted one.
    pub checkpoint: Option<Checkpoint>,
    /// Which world made it.
    pub checkpoint_token: Option<WorldToken>,
    /// Steps done in the current generation, those of the checkpoint that it began with among them.
    pub step: u64,
    pub losses: Option<StepLosses>,
    /// The furthest step of earlier generations.
    pub furthest_step: u64,
    /// Generations in a row that got no further than those before.
    pub fruitless: u32,
    /// Why the last generation ended.
    pub broken: Option<String>,
    /// Since when the world has been forming, if it is.
    pub forming_since_ms: u64,
}

impl Training {
    /// Steps of the accepted checkpoint.
    pub fn safe_step(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step)
    }

    /// The generation that a stage which begins now has.
    pub fn next_generation(&self) -> Generation {
        self.world.generation().unwrap_or_default().next()
    }

    /// The checkpoint that a stage ended with, if it has.
    pub fn done(&self, stage: Stage) -> Option<&DoneStage> {
        self.done.iter().find(|done| done.stage == stage)
    }

    /// Whether this offer was accepted before.
    pub fn has_accepted(&self, offered: &Checkpoint, token: WorldToken) -> bool {
        let current = self.checkpoint.as_ref().zip(self.checkpoint_token);
        let before = self.done.iter().map(|done| (&done.checkpoint, done.token));
        current.into_iter().chain(before).any(|accepted| accepted == (offered, token))
    }

    /// The records that take `gone` out of the world; more than `limit` fruitless generations in a row fail the run.
    pub fn part_with(&self, gone: &BTreeSet<WorkerId>, loss: Loss, reason: &str, limit: u32) -> Vec<Record> {
        match &self.world {
            World::Absent | World::Over(_) => Vec::new(),
            World::Forming { generation, joined } => {
                let left = joined.intersection(gone);
                left.map(|worker| Record::WorldLeft { generation: *generation, worker: *worker }).collect()
            }
            World::Running { token, ranks } if ranks.iter().any(|rank| gone.contains(rank)) => {
                self.break_up(token.generation, loss, reason, limit)
            }
            World::Running { .. } => Vec::new(),
        }
    }

    /// The records that end the running generation.
    pub fn break_up(&self, generation: Generation, loss: Loss, reason: &str, limit: u32) -> Vec<Record> {
        let fruitless = match loss {
            _ if self.step > self.furthest_step => 0,
            Loss::Blamed => self.fruitless + 1,
            Loss::Graceful => self.fruitless,
        };
        let mut records = vec![Record::WorldBroken { generation, reason: reason.into(), fruitless }];
        if fruitless >= limit {
            let cause = format!(
                "stage {} got no further than step {} in {fruitless} attempts, the last one ended because {reason}",
                self.stage.number(),
                self.furthest_step.max(self.step)
            );
            records.push(Record::RunFailed { cause });
        }
        records
    }

    /// The stage before, if there was one, is done.
    pub fn absorb_stage(&mut self, stage: Stage, generation: Generation, now_ms: u64) {
        let before = std::mem::take(self);
        self.stage = stage;
        self.forming_since_ms = now_ms;
        self.world = World::Forming { generation, joined: BTreeSet::new() };
        self.done = before.done;
        let end = before.checkpoint.zip(before.checkpoint_token);
        let losses = before.losses;
        let ended = end.map(|(checkpoint, token)| DoneStage { stage: before.stage, checkpoint, token, losses });
        self.done.extend(ended);
    }

    /// All stages are done.
    pub fn absorb_end(&mut self) {
        if let Some(generation) = self.world.generation() {
            self.world = World::Over(generation);
        }
        let end = self.checkpoint.take().zip(self.checkpoint_token.take());
        let (stage, losses) = (self.stage, self.losses);
        self.done.extend(end.map(|(checkpoint, token)| DoneStage { stage, checkpoint, token, losses }));
    }

    pub fn absorb_formed(&mut self, generation: Generation, incarnation: Incarnation, ranks: &[WorkerId]) {
        let token = WorldToken { incarnation, generation };
        self.world = World::Running { token, ranks: ranks.to_vec() };
        self.step = self.safe_step();
    }

    pub fn absorb_broken(&mut self, generation: Generation, reason: &str, fruitless: u32, now_ms: u64) {
        self.forming_since_ms = now_ms;
        self.world = World::Forming { generation: generation.next(), joined: BTreeSet::new() };
        self.furthest_step = self.furthest_step.max(self.step);
        self.step = self.safe_step();
        self.fruitless = fruitless;
        self.broken = Some(reason.into());
    }

    pub fn absorb_checkpoint(&mut self, checkpoint: Checkpoint) {
        if let World::Running { token, .. } = &self.world {
            self.checkpoint_token = Some(*token);
        }
        self.step = self.step.max(checkpoint.step);
        self.fruitless = 0;
        self.checkpoint = Some(checkpoint);
    }

    /// A checkpoint that another journal of this run has accepted; one of a world that runs is known here already.
    pub fn absorb_recovered(&mut self, checkpoint: Checkpoint) {
        if matches!(self.world, World::Forming { .. }) && checkpoint.step > self.safe_step() {
            self.step = checkpoint.step;
            self.furthest_step = checkpoint.step;
            self.checkpoint = Some(checkpoint);
            self.checkpoint_token = None;
        }
    }

    /// Forgets steps that only their workers know of: they will say them again.
    pub fn absorb_restart(&mut self, now_ms: u64) {
        self.forming_since_ms = now_ms;
        self.step = self.safe_step();
        self.furthest_step = self.step;
        self.losses = None;
        self.done.iter_mut().for_each(|done| done.losses = None);
    }
}
