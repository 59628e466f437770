//! For anything that is not moving, one sentence why.

use crate::ids::WorkerId;
use crate::machine::Machine;
use crate::run::{End, Phase, Stage};
use crate::training::World;

impl Machine {
    /// What is happening, or why nothing moves, in one sentence.
    pub fn explain(&self) -> String {
        match &self.run.end {
            Some(End::Done) => self.explain_done(),
            Some(End::Cancelled { reason }) => {
                format!("The run was cancelled in {}: {reason}.", self.run.phase.name())
            }
            Some(End::Failed { cause }) => format!("The run failed in {}: {cause}.", self.run.phase.name()),
            None if self.run.paused.is_some() => self.explain_pause(),
            None => match (&self.run.delay, self.run.phase) {
                (Some(reason), _) => format!("{reason}; trying again."),
                (None, _) if self.must_read_acceptances() => {
                    "This journal is older than the output: what was accepted since is being read beside the output."
                        .into()
                }
                (None, Phase::Planning) => "The corpus is being cut into shards.".into(),
                (None, Phase::CapFilt) => self.explain_capfilt(),
                (None, Phase::Training(stage)) => self.explain_training(stage),
                (None, Phase::Task(task)) => self.explain_task(task),
            },
        }
    }

    fn explain_pause(&self) -> String {
        let reason = self.run.paused.as_deref().unwrap_or_default();
        let in_hand = match (&self.training.world, self.shards.leased.len()) {
            (World::Running { token, .. }, _) => {
                format!("generation {} of the training world stops with a checkpoint", token.generation)
            }
            (_, 0) => "nothing is in work".into(),
            (_, 1) => "one shard is being finished".into(),
            (_, leased) => format!("{leased} shards are being finished"),
        };
        format!("The run is paused ({reason}) in {}: {in_hand}; `quern resume` lets it go on.", self.run.phase.name())
    }

    fn explain_done(&self) -> String {
        let totals = &self.shards.totals;
        if totals.shards == 0 {
            return "The run is done.".into();
        }
        let given_up = match totals.quarantined {
            0 => String::new(),
            shards => format!(", {shards} whole shards among the quarantined"),
        };
        format!(
            "The run is done: {} rows kept, {} passed, {} quarantined{given_up}.",
            totals.rows_kept, totals.rows_passed, totals.rows_quarantined
        )
    }

    fn explain_capfilt(&self) -> String {
        let totals = &self.shards.totals;
        let settled = totals.done + totals.quarantined;
        if self.shards.settled() {
            return format!("All {settled} shards are settled; the manifest is being written.");
        }
        let alive = self.members.alive();
        if alive == 0 {
            let left = totals.shards - settled;
            return format!("No worker is here and {left} of {} shards are left: start a worker.", totals.shards);
        }
        if self.able() == 0
            && let Some(why) = self.explain_inability()
        {
            let left = totals.shards - settled;
            let all = totals.shards;
            return format!(
                "No worker here can be given work and {left} of {all} shards are left: {why}; start another."
            );
        }
        if self.shards.pending.is_empty()
            && let Some(waits) = self.explain_last_shards()
        {
            return waits;
        }
        let second = match self.shards.second_attempts_live() {
            0 => String::new(),
            1 => ", a second attempt at one of them among these".into(),
            live => format!(", {live} second attempts among these"),
        };
        let unable = self.explain_inability().map_or(String::new(), |why| format!("; {why}"));
        let failing = self.explain_failing().map_or(String::new(), |why| format!("; {why}"));
        format!(
            "CapFilt: {settled} of {} shards are settled, {} in work on {alive} workers{second}{unable}{failing}.",
            totals.shards,
            self.shards.leased.len()
        )
    }

    fn explain_last_shards(&self) -> Option<String> {
        if let Some((shard, attempt)) = self.shards.attempts().find(|(_, held)| self.is_silent(held.worker)) {
            return Some(format!(
                "The last shards wait for {}, which holds {} and has been silent for {:.1} s.",
                self.members.title(attempt.worker),
                shard.plan.shard,
                self.silent_s(attempt.worker)
            ));
        }
        let (shard, attempt) = self.late_attempt()?;
        Some(format!(
            "The last shards wait for {}, which has held {} for {:.1} s, far longer than usual: the next worker that is free \
             makes a second attempt.",
            self.members.title(attempt.worker),
            shard.plan.shard,
            self.now_ms.saturating_sub(attempt.since_ms) as f64 / 1000.0
        ))
    }

    /// Somebody who only fails, and would be denied work if another place did better.
    fn explain_failing(&self) -> Option<String> {
        let (place, streak) = self.lone_failures().next()?;
        Some(format!(
            "{place} failed at the last {} shards that it tried (lastly: {}) and no other place does better: look at its log \
             with `quern logs`, or start a worker elsewhere",
            streak.failed.len(),
            streak.last
        ))
    }

    fn explain_training(&self, stage: Stage) -> String {
        let Some(config) = self.stage_config() else {
            return format!("The journal is at stage {}, but the recipe has no {}.", stage.number(), stage.name());
        };
        match &self.training.world {
            World::Absent | World::Over(_) => format!("Stage {} is about to begin.", stage.number()),
            World::Forming { generation, joined } => {
                let why = self.training.broken.as_ref().map_or(String::new(), |why| format!(" since {why}"));
                let missing = config.ranks as usize - joined.len().min(config.ranks as usize);
                let spare = self.members.alive().saturating_sub(joined.len());
                let able = self.able().saturating_sub(joined.len());
                let unable = self.explain_inability().filter(|_| able < missing);
                let hope = match unable {
                    Some(why) => format!(", but {why}: start others"),
                    None if spare < missing => ": start workers".into(),
                    None => String::new(),
                };
                format!(
                    "Generation {generation} of the training world is forming{why}: {} of {} ranks have joined, {spare} \
                     other workers are alive{hope}.",
                    joined.len(),
                    config.ranks
                )
            }
            World::Running { token, ranks } => {
                let silent = ranks.iter().find(|rank| self.is_silent(**rank));
                let silent = silent.map_or(String::new(), |rank| {
                    format!("; {} has been silent for {:.1} s", self.members.title(*rank), self.silent_s(*rank))
                });
                format!(
                    "Stage {}: step {} of {} on {} ranks, generation {}{silent}.",
                    stage.number(),
                    self.training.step,
                    config.steps,
                    ranks.len(),
                    token.generation
                )
            }
        }
    }

    pub(crate) fn silent_s(&self, worker: WorkerId) -> f64 {
        let silent_ms = self.members.all.get(&worker).map_or(0, |member| self.now_ms.saturating_sub(member.heard_ms));
        silent_ms as f64 / 1000.0
    }
}
