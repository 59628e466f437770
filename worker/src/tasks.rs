//! Tasks of a run: what was trained is measured, or written for other tools.
//!
//! `job` does one as `quern eval` and `quern export` do; its thread is told to stop when the worker is to leave or is no
//! member any more. Here its result is offered, or the reason why there is none. A worker that leaves hands the task back
//! with all else that it holds.

mod job;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quern_proto::{CommitTaskRequest, FailTaskRequest, TaskLease, TaskResult};
use quern_recipes::Recipe;
use tch::Device;
use tokio::sync::watch;

use crate::connection::{CallError, Connection, Membership};
use crate::error::AgentError;
use crate::faults::Script;
use crate::heartbeat::Board;
use job::Job;

/// What is needed to do tasks.
pub struct Tasks<'a> {
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
    /// Scripted faults.
    pub script: &'a Script,
}

impl Tasks<'_> {
    /// Does the leased task, to its end for this worker: then ask the coordinator for work again.
    ///
    /// # Errors
    /// When this worker can't go on at all.
    pub async fn carry_out(&self, lease: TaskLease) -> Result<(), AgentError> {
        tracing::info!(task = lease.task, checkpoint = lease.checkpoint, "a task of the run");
        let stop = Arc::new(AtomicBool::new(false));
        self.board.begin_task(stop.clone());
        let result = self.result(&lease, &stop).await;
        self.board.end();
        match result {
            Ok(result) => self.commit(lease, result).await,
            Err(_) if stop.load(Ordering::SeqCst) => Ok(()),
            Err(reason) => self.fail(lease, reason).await,
        }
    }

    /// What comes of it, made on a thread of its own: tensor arithmetic must not hold up heartbeats.
    async fn result(&self, lease: &TaskLease, stop: &Arc<AtomicBool>) -> Result<TaskResult, String> {
        let mut leave = self.leave.clone();
        if let Some(delay) = self.script.task_delay() {
            let _ = tokio::time::timeout(delay, told_to_leave(&mut leave)).await;
        }
        if *leave.borrow() {
            stop.store(true, Ordering::SeqCst);
            return Err("the worker is leaving".into());
        }
        let job = Job {
            lease: lease.clone(),
            recipe: self.recipe.clone(),
            device: self.device,
            stop: stop.clone(),
            script: self.script.clone(),
        };
        let mut thread = tokio::task::spawn_blocking(move || job.run());
        let result = tokio::select! {
            result = &mut thread => result,
            () = told_to_leave(&mut leave) => {
                stop.store(true, Ordering::SeqCst);
                thread.await
            }
        };
        result.unwrap_or_else(|error| Err(format!("the task's thread died: {error}")))
    }

    async fn commit(&self, lease: TaskLease, result: TaskResult) -> Result<(), AgentError> {
        let request = CommitTaskRequest {
            credentials: Some(self.member.credentials.clone()),
            task: lease.task.clone(),
            token: lease.token,
            result: Some(result),
        };
        let answer = self
            .connection
            .call("CommitTask", |mut client| {
                let request = request.clone();
                async move { client.commit_task(request).await }
            })
            .await;
        match answer {
            Ok(reply) if reply.accepted => Ok(()),
            Ok(reply) => {
                tracing::info!(task = lease.task, reason = reply.reason, "the result was not needed");
                Ok(())
            }
            Err(CallError::Stale(reason)) => {
                tracing::info!(task = lease.task, reason, "the task was lost");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn fail(&self, lease: TaskLease, reason: String) -> Result<(), AgentError> {
        tracing::warn!(task = lease.task, reason, "the task can't be done");
        let credentials = Some(self.member.credentials.clone());
        let request = FailTaskRequest { credentials, task: lease.task, token: lease.token, reason };
        let answer = self
            .connection
            .call("FailTask", |mut client| {
                let request = request.clone();
                async move { client.fail_task(request).await }
            })
            .await;
        match answer {
            Ok(_) | Err(CallError::Stale(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns when the worker is told to leave.
async fn told_to_leave(leave: &mut watch::Receiver<bool>) {
    if leave.wait_for(|leaving| *leaving).await.is_err() {
        // Nobody is left to say so.
        std::future::pending().await
    }
}
