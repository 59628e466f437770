//! Tasks: a model of its own of who is at one, and what came of it.

use std::collections::BTreeMap;

use quern_machine::{Epoch, ShardToken, Task, TaskResult, WorkerId};

use crate::{Verdict, ensure};

/// An attempt, as it was granted.
#[derive(Debug, Clone)]
pub(crate) struct TaskGrant {
    pub task: Task,
    pub token: ShardToken,
    pub worker: WorkerId,
}

/// All tasks of a run.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// The one that the run is at.
    pub current: Option<Task>,
    grants: BTreeMap<Epoch, TaskGrant>,
    pub live: Option<Epoch>,
    pub done: BTreeMap<Task, (ShardToken, TaskResult)>,
    /// How many of them the manifest names.
    pub named: usize,
}

impl Tasks {
    pub fn grant(&self, epoch: Epoch) -> Option<&TaskGrant> {
        self.grants.get(&epoch)
    }

    /// The last attempt's epoch.
    pub fn last_epoch(&self) -> Epoch {
        self.grants.last_key_value().map_or(Epoch(0), |(last, _)| *last)
    }

    /// Who is at the task.
    pub fn holder(&self) -> Option<WorkerId> {
        self.live.map(|epoch| self.grants[&epoch].worker)
    }

    /// A task begins; `wanted` says which the recipe has.
    ///
    /// # Errors
    /// When it doesn't come now.
    pub fn started(&mut self, task: Task, wanted: [bool; 2]) -> Verdict {
        ensure(wanted[task as usize], || format!("nobody wants to {}", task.name()))?;
        ensure(self.current.is_none_or(|before| before < task), || format!("{} comes again", task.name()))?;
        let before = self.current.is_none_or(|before| self.done.contains_key(&before));
        let is_time = before && self.live.is_none() && !self.unnamed();
        ensure(is_time, || format!("{} comes too early", task.name()))?;
        self.current = Some(task);
        Ok(())
    }

    /// An attempt begins.
    ///
    /// # Errors
    /// When it may not.
    pub fn granted(&mut self, grant: TaskGrant) -> Verdict {
        let is_current = self.current == Some(grant.task) && !self.done.contains_key(&grant.task);
        ensure(is_current, || format!("{} is not to be done now", grant.task.name()))?;
        ensure(self.live.is_none(), || format!("{} is given to two", grant.task.name()))?;
        self.live = Some(grant.token.epoch);
        self.grants.insert(grant.token.epoch, grant);
        Ok(())
    }

    /// An attempt ends.
    ///
    /// # Errors
    /// When it isn't live.
    pub fn ended(&mut self, task: Task, epoch: Epoch) -> Verdict {
        let is_live = self.live == Some(epoch) && self.current == Some(task);
        ensure(is_live, || format!("attempt {epoch} to {} is not live", task.name()))?;
        self.live = None;
        Ok(())
    }

    /// A result is accepted.
    ///
    /// # Errors
    /// When it isn't one of the live attempt, or not the first.
    pub fn finished(&mut self, task: Task, epoch: Epoch, result: &TaskResult) -> Verdict {
        self.ended(task, epoch)?;
        let before = self.done.insert(task, (self.grants[&epoch].token, result.clone()));
        ensure(before.is_none(), || format!("{} is done twice", task.name()))
    }

    /// Whether the manifest lacks one that is done.
    pub fn unnamed(&self) -> bool {
        self.named < self.done.len()
    }

    /// Whether all that the recipe wants is done.
    pub fn are_done(&self, wanted: [bool; 2]) -> bool {
        [Task::Evaluate, Task::Export].iter().all(|task| !wanted[*task as usize] || self.done.contains_key(task))
    }
}
