//! Tasks of a run: what was trained is measured, or written for other tools.
//!
//! `job` does one as `quern eval` and `quern export` do; its thread is told to stop when the worker is to leave or is no
//! member any more. Here its result is offered, or the reason why there is none. A worker that leaves hands the task back
//! with all else that it holds.

mod job;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quern_proto::{CommitTaskRequest, FailTaskRequest, TaskLease, TaskResult};

use crate::connection::CallError;
use crate::error::AgentError;
use crate::faults::Script;
use crate::post::{Post, noted, raise_on_leave};
use job::Job;

/// A worker that does tasks.
pub struct Tasks<'a> {
    /// Where it stands.
    pub post: Post<'a>,
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
        self.post.board.begin_task(stop.clone());
        let result = self.result(&lease, &stop).await;
        self.post.board.end();
        match result {
            Ok(result) => self.commit(lease, result).await,
            Err(_) if stop.load(Ordering::SeqCst) => Ok(()),
            Err(reason) => self.fail(lease, reason).await,
        }
    }

    /// What comes of it, made on a thread of its own: tensor arithmetic must not hold up heartbeats.
    async fn result(&self, lease: &TaskLease, stop: &Arc<AtomicBool>) -> Result<TaskResult, String> {
        let mut leave = self.post.leave.clone();
        if let Some(delay) = self.script.task_delay() {
            let _ = tokio::time::timeout(delay, leave.wait_for(|leaving| *leaving)).await;
        }
        if *leave.borrow() {
            stop.store(true, Ordering::SeqCst);
            return Err("the worker is leaving".into());
        }
        let job = Job {
            lease: lease.clone(),
            recipe: self.post.recipe.clone(),
            device: self.post.device,
            stop: stop.clone(),
            script: self.script.clone(),
        };
        let watcher = tokio::spawn(raise_on_leave(leave, stop.clone()));
        let result = tokio::task::spawn_blocking(move || job.run()).await;
        watcher.abort();
        result.unwrap_or_else(|error| Err(format!("the task's thread died: {error}")))
    }

    async fn commit(&self, lease: TaskLease, result: TaskResult) -> Result<(), AgentError> {
        let request = CommitTaskRequest {
            credentials: Some(self.post.member.credentials.clone()),
            task: lease.task.clone(),
            token: lease.token,
            result: Some(result),
        };
        let answer = self
            .post
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
        let credentials = Some(self.post.member.credentials.clone());
        let request = FailTaskRequest { credentials, task: lease.task, token: lease.token, reason };
        let answer = self
            .post
            .connection
            .call("FailTask", |mut client| {
                let request = request.clone();
                async move { client.fail_task(request).await }
            })
            .await;
        noted(answer)
    }
}
