//! Where a worker stands when it takes up work that is no shard: what a training world and a task need alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quern_recipes::Recipe;
use tch::Device;
use tokio::sync::watch;

use crate::connection::{CallError, Connection, Membership};
use crate::error::AgentError;
use crate::heartbeat::Board;

/// What is needed to take up work.
pub struct Post<'a> {
    /// To the coordinator.
    pub connection: &'a Connection,
    /// This worker's.
    pub member: &'a Membership,
    /// The run's.
    pub recipe: &'a Arc<Recipe>,
    /// Where tensors live.
    pub device: Device,
    /// What the coordinator says meanwhile.
    pub board: &'a Arc<Board>,
    /// Turns true when the worker is told to leave.
    pub leave: watch::Receiver<bool>,
}

/// The coordinator was told of something that is over: that it is another's by now is as good.
pub(crate) fn noted<T>(answer: Result<T, CallError>) -> Result<(), AgentError> {
    match answer {
        Ok(_) | Err(CallError::Stale(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Raises `stop` when the worker is told to leave.
pub(crate) async fn raise_on_leave(mut leave: watch::Receiver<bool>, stop: Arc<AtomicBool>) {
    if leave.wait_for(|leaving| *leaving).await.is_ok() {
        stop.store(true, Ordering::SeqCst);
    }
}
