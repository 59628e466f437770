//! What the recipe says about the cluster, as far as it guides decisions.

use serde::{Deserialize, Serialize};

use crate::run::Stage;

/// What the recipe says about the cluster. It guides decisions only: no record's meaning depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// How long a worker may be silent.
    pub lease_ms: u64,
    /// Attempts per shard and per task, and fruitless generations of a training world in a row.
    pub attempts: u32,
    /// Failures in a row, each at another shard, after which a place gets no work any more; 0: never.
    pub worker_failures: u32,
    /// Device memory that a worker must have, by phase.
    pub memory: MemoryNeeds,
    /// Stage 1, when the recipe has it.
    pub stage1: Option<StageConfig>,
    /// Stage 2, when the recipe has it.
    pub stage2: Option<StageConfig>,
    /// Whether what was trained is measured.
    pub evaluate: bool,
    /// Whether what was trained is written for other tools.
    pub export: bool,
}

impl Config {
    /// A run of CapFilt alone, for workers of any size.
    pub const fn new(lease_ms: u64, attempts: u32) -> Self {
        let memory = MemoryNeeds { capfilt_bytes: 0, stage1_bytes: 0, stage2_bytes: 0 };
        Config {
            lease_ms,
            attempts,
            worker_failures: 3,
            memory,
            stage1: None,
            stage2: None,
            evaluate: false,
            export: false,
        }
    }

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

    pub(crate) fn first_stage(&self) -> Option<Stage> {
        self.stages().next().map(|(stage, _)| stage)
    }

    pub(crate) fn stage_after(&self, stage: Stage) -> Option<Stage> {
        self.stages().map(|(next, _)| next).find(|next| *next > stage)
    }
}

/// What the recipe says about a stage of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageConfig {
    /// Ranks of the world.
    pub ranks: u32,
    /// Optimiser steps.
    pub steps: u64,
}

/// Device memory that a worker must have to be given a phase's work; 0: any will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryNeeds {
    /// Of CapFilt.
    pub capfilt_bytes: u64,
    /// Of stage 1.
    pub stage1_bytes: u64,
    /// Of stage 2, and of what is done with its checkpoint.
    pub stage2_bytes: u64,
}

impl MemoryNeeds {
    /// Of a stage of training.
    pub fn stage_bytes(self, stage: Stage) -> u64 {
        match stage {
            Stage::One => self.stage1_bytes,
            Stage::Two => self.stage2_bytes,
        }
    }
}
