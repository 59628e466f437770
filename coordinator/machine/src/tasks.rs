//! Tasks: what is done with what was trained. Evaluation and export are a phase each, with one task that is leased like a
//! shard: attempts under epochs of their own, one accepted result, which the manifest names before the run goes on. A task
//! that fails too often fails the run.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::event::{Answer, Decision, Refusal, Work};
use crate::ids::{ShardToken, WorkerId};
use crate::machine::Machine;
use crate::members::Member;
use crate::mutation::{Mutation, planted};
use crate::record::Record;
use crate::run::{Phase, Stage};
use crate::training::Checkpoint;

/// The longest summary, in bytes.
const SUMMARY_BYTES: usize = 64 << 10;

/// What is to be done with the last stage's checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// To measure it.
    Evaluate,
    /// To write it for other tools.
    Export,
}

impl Task {
    /// `evaluate`, `export`.
    pub fn name(self) -> &'static str {
        match self {
            Task::Evaluate => "evaluate",
            Task::Export => "export",
        }
    }

    /// The task of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Task::Evaluate, Task::Export].into_iter().find(|task| task.name() == name)
    }
}

/// What came of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskResult {
    /// Its file or folder relative to the output.
    pub path: String,
    /// Digest of its contents.
    pub digest: String,
    /// What people want to know of it, in short.
    pub summary: String,
}

impl TaskResult {
    fn check(&self) -> Result<(), Refusal> {
        let TaskResult { path, summary, .. } = self;
        if path.is_empty() || path.starts_with('/') || path.contains("..") {
            return Err(Refusal::Malformed(format!("the result's path {path:?} is not under the output")));
        }
        if summary.len() > SUMMARY_BYTES {
            return Err(Refusal::Malformed(format!("a summary of {} bytes is too long", summary.len())));
        }
        Ok(())
    }
}

/// Who is at the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskAttempt {
    pub token: ShardToken,
    pub worker: WorkerId,
}

/// A task that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DoneTask {
    pub task: Task,
    pub token: ShardToken,
    pub result: TaskResult,
}

/// A task that is done, as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledTask {
    /// The task.
    pub task: Task,
    /// What it was done with.
    pub checkpoint: Checkpoint,
    /// What came of it.
    pub result: TaskResult,
}

/// Tasks: the one that the run is at, and those that are done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Tasks {
    pub attempt: Option<TaskAttempt>,
    /// Attempts at the current one that failed.
    pub failures: u32,
    /// Why the last one did.
    pub last_failure: String,
    pub done: Vec<DoneTask>,
}

impl Tasks {
    pub fn absorb_start(&mut self) {
        (self.attempt, self.failures) = (None, 0);
    }

    /// The attempt is over without a result; by its worker's fault: why.
    pub fn absorb_end(&mut self, blamed: Option<&str>) {
        self.attempt = None;
        if let Some(why) = blamed {
            self.failures += 1;
            self.last_failure = why.into();
        }
    }

    pub fn is_done(&self, task: Task) -> bool {
        self.done.iter().any(|done| done.task == task)
    }

    pub fn absorb_done(&mut self, task: Task, result: &TaskResult) {
        let made = self.attempt.take().expect("a result is accepted of a live attempt");
        self.done.push(DoneTask { task, token: made.token, result: result.clone() });
    }
}

impl Machine {
    /// All tasks that are done, in order.
    pub fn settled_tasks(&self) -> Vec<SettledTask> {
        let Some(trained) = self.training.done.last() else { return Vec::new() };
        let settled = |done: &DoneTask| SettledTask {
            task: done.task,
            checkpoint: trained.checkpoint.clone(),
            result: done.result.clone(),
        };
        self.tasks.done.iter().map(settled).collect()
    }

    /// The record that comes after training, or after a task.
    pub(crate) fn next_task(&self, after: Option<Task>) -> Record {
        let wanted = [(Task::Evaluate, self.config.evaluate), (Task::Export, self.config.export)];
        let next = wanted.into_iter().find(|(task, is_wanted)| *is_wanted && Some(*task) > after);
        next.map_or(Record::RunFinished, |(task, _)| Record::TaskStarted { task })
    }

    /// The task, to whoever asks first; again to who has it, since its answer may have got lost.
    pub(crate) fn lease_task(&self, worker: WorkerId, member: &Member, task: Task) -> Decision {
        let wait = Decision::answer(Answer::Work(Work::Wait));
        let Some(trained) = self.training.done.last().filter(|_| !self.tasks.is_done(task)) else { return wait };
        let stage1 = self.training.done(Stage::One).map(|done| &done.checkpoint);
        let work = |token| Work::Task {
            task,
            token,
            stage: trained.stage,
            checkpoint: trained.checkpoint.clone(),
            stage1: stage1.cloned(),
        };
        match &self.tasks.attempt {
            Some(held) if held.worker == worker => Decision::answer(Answer::Work(work(held.token))),
            Some(_) => wait,
            None if !self.is_able(member) => wait,
            None => {
                let token = ShardToken { incarnation: self.incarnation, epoch: self.shards.last_epoch.next() };
                let (epoch, incarnation) = (token.epoch, token.incarnation);
                let granted = Record::TaskGranted { task, epoch, incarnation, worker };
                Decision { records: vec![granted], after_durable: Ok(Answer::Work(work(token))) }
            }
        }
    }

    pub(crate) fn commit_task(
        &self,
        worker: WorkerId,
        task: Task,
        token: ShardToken,
        result: &TaskResult,
    ) -> Result<Decision, Refusal> {
        if let Some(done) = self.tasks.done.iter().find(|done| done.task == task) {
            // The same offer again: its answer got lost.
            if (done.token, &done.result) == (token, result) || planted(Mutation::AcceptASecondResult) {
                return Ok(Decision::answer(Answer::Accepted));
            }
            let reason = format!("another result of {} was accepted before", task.name());
            return Ok(Decision::answer(Answer::Superseded { reason }));
        }
        if !planted(Mutation::SkipTaskTokens) || self.tasks.attempt.is_none() {
            self.live_task(worker, task, token)?;
        }
        result.check()?;
        let done = Record::TaskDone { task, epoch: token.epoch, result: result.clone() };
        Ok(Decision { records: vec![done], after_durable: Ok(Answer::Accepted) })
    }

    pub(crate) fn fail_task(
        &self,
        worker: WorkerId,
        task: Task,
        token: ShardToken,
        reason: &str,
    ) -> Result<Decision, Refusal> {
        self.live_task(worker, task, token)?;
        let failed = Record::TaskFailed { task, epoch: token.epoch, reason: reason.into() };
        Ok(Decision::noted(self.with_limit(task, failed, reason)))
    }

    fn live_task(&self, worker: WorkerId, task: Task, token: ShardToken) -> Result<(), Refusal> {
        let held = self.tasks.attempt.as_ref().filter(|held| (held.worker, held.token) == (worker, token));
        let is_current = self.run.end.is_none() && self.run.phase == Phase::Task(task);
        held.filter(|_| is_current).map(|_| ()).ok_or(Refusal::StaleTask { task, epoch: token.epoch })
    }

    /// The records that take the task from workers that are gone: without blame, or because they fell silent.
    pub(crate) fn take_task_from(&self, gone: &BTreeSet<WorkerId>, is_blamed: bool) -> Vec<Record> {
        let Phase::Task(task) = self.run.phase else { return Vec::new() };
        let Some(held) = self.tasks.attempt.as_ref().filter(|held| gone.contains(&held.worker)) else {
            return Vec::new();
        };
        let epoch = held.token.epoch;
        match is_blamed {
            _ if planted(Mutation::KeepTasksOfTheGone) => Vec::new(),
            true => self.with_limit(task, Record::TaskExpired { task, epoch }, "its worker was lost"),
            false => vec![Record::TaskReturned { task, epoch }],
        }
    }

    /// A failed attempt; one too many fails the run.
    fn with_limit(&self, task: Task, failed: Record, why: &str) -> Vec<Record> {
        let failures = self.tasks.failures + 1;
        let mut records = vec![failed];
        if failures >= self.config.attempts && self.run.end.is_none() {
            let cause = format!("{failures} attempts to {} failed, the last one: {why}", task.name());
            records.push(Record::RunFailed { cause });
        }
        records
    }

    pub(crate) fn explain_task(&self, task: Task) -> String {
        let failed = match self.tasks.failures {
            0 => String::new(),
            failures => format!("; {failures} attempts failed, the last one: {}", self.tasks.last_failure),
        };
        let name = task.name();
        match &self.tasks.attempt {
            None if self.tasks.is_done(task) => {
                format!("The run is to {name}: its result is being named in the manifest.")
            }
            Some(held) if self.is_silent(held.worker) => {
                let (worker, silent_s) = (self.members.title(held.worker), self.silent_s(held.worker));
                format!("The run is to {name}: {worker} is at it and has been silent for {silent_s:.1} s{failed}.")
            }
            Some(held) => format!("The run is to {name}: {} is at it{failed}.", self.members.title(held.worker)),
            None if self.able() > 0 => format!("The run is to {name}: a worker is about to take it up{failed}."),
            None => {
                let why = self.explain_inability().map_or(String::new(), |why| format!(" ({why})"));
                format!("The run is to {name}, and no worker here can do it{why}: start one{failed}.")
            }
        }
    }
}
