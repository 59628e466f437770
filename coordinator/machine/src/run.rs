//! The run: its phases, and what the coordinator itself has to do in them.

use serde::{Deserialize, Serialize};

use crate::event::Finished;
use crate::tasks::Task;

/// What the run is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Phase {
    /// The corpus is cut into shards.
    #[default]
    Planning,
    /// Workers make parts of shards.
    CapFilt,
    /// Workers train.
    Training(Stage),
    /// A worker does something with what was trained.
    Task(Task),
}

impl Phase {
    /// `planning`, `capfilt`, `stage1`, `stage2`, `evaluate`, `export`.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Planning => "planning",
            Phase::CapFilt => "capfilt",
            Phase::Training(stage) => stage.name(),
            Phase::Task(task) => task.name(),
        }
    }
}

/// What workers train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, Hash)]
pub enum Stage {
    /// The Q-Former, with the frozen image encoder.
    #[default]
    #[serde(rename = "stage1")]
    One,
    /// Its projection to a frozen language model.
    #[serde(rename = "stage2")]
    Two,
}

impl Stage {
    /// `stage1`, `stage2`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::One => "stage1",
            Stage::Two => "stage2",
        }
    }

    /// 1, 2.
    pub fn number(self) -> u32 {
        match self {
            Stage::One => 1,
            Stage::Two => 2,
        }
    }
}

/// How the run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// All phases are done.
    Done,
    /// It can't go on.
    Failed {
        /// Why, in one sentence.
        cause: String,
    },
    /// An operator ended it.
    Cancelled {
        /// Why, in the operator's words.
        reason: String,
    },
}

/// What the coordinator has to do now, beside answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chore {
    /// Cut the corpus into shards and tell with `Event::Planned`.
    Plan,
    /// Read what was accepted beside the output and tell with `Event::AcceptancesRead`.
    ReadAcceptances,
    /// Write the acceptances beside the output and tell with `Event::AcceptancesKept`.
    KeepAcceptances {
        /// The number of the first one.
        first: u64,
    },
    /// Write the manifest of all settled shards and tasks and tell with `Event::ManifestWritten`.
    WriteManifest,
}

/// The run's state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Run {
    pub phase: Phase,
    pub end: Option<End>,
    /// Why a chore has to be tried again.
    pub delay: Option<String>,
    /// Why an operator paused it.
    pub paused: Option<String>,
}

impl Run {
    /// What a worker hears when the run is over.
    pub fn finished(&self) -> Option<Finished> {
        match self.end.as_ref()? {
            End::Done => Some(Finished { succeeded: true, message: "the run is done".into() }),
            End::Failed { cause } => Some(Finished { succeeded: false, message: format!("the run failed: {cause}") }),
            End::Cancelled { reason } => {
                Some(Finished { succeeded: false, message: format!("the run was cancelled: {reason}") })
            }
        }
    }
}
