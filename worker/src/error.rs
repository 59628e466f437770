//! Why a worker can't go on.

use crate::connection::CallError;

/// Why the agent stopped before the run was over.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The coordinator.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The device, a model, the recipe: nothing that another try would mend.
    #[error("{0}")]
    Setup(String),
    /// The run failed; the coordinator said why.
    #[error("the run failed: {0}")]
    RunFailed(String),
}
