//! What the output store is told of what was accepted, so that the journal can be had again from there.
//!
//! Every accepted part and checkpoint waits here, in the journal's order, until the coordinator has written it beside the
//! output; the manifest is not written before. A coordinator whose journal is older than the last incarnation in the
//! store (its disk was lost, or a backup restored) is *behind*: it gives out no work until it has read what was accepted
//! since. What nobody wrote down is done again, to the same bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::event::Decision;
use crate::ids::ShardId;
use crate::machine::Machine;
use crate::part::PartSummary;
use crate::record::Record;
use crate::run::{Chore, End, Phase, Stage};
use crate::shards::{Shard, ShardState};
use crate::training::Checkpoint;

/// As many are written at once at the latest.
const ENOUGH: usize = 512;

/// One accepted output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "accepted", rename_all = "snake_case")]
pub enum Acceptance {
    /// A shard's part.
    Part {
        /// The shard.
        shard: ShardId,
        /// Its file; empty where an older version said none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        file: String,
        /// What it became.
        part: PartSummary,
    },
    /// A stage's checkpoint.
    Checkpoint {
        /// The stage: `stage1`, `stage2`.
        stage: Stage,
        /// The checkpoint.
        checkpoint: Checkpoint,
    },
}

/// What is written beside the output, and what was read from there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Acceptances {
    /// Whether the store knows of a coordinator that this journal doesn't.
    pub behind: bool,
    /// How many were written.
    pub kept: u64,
    /// Those that are to be written, the oldest first, and since when each waits.
    pub unkept: VecDeque<(u64, Acceptance)>,
    /// The last checkpoint of each stage that was read there and not trained on yet.
    pub checkpoints: BTreeMap<Stage, Checkpoint>,
}

impl Acceptances {
    /// Whether a part of the shard waits to be written: it is later than any that is read.
    fn has_unkept(&self, shard: &ShardId) -> bool {
        let of =
            |acceptance: &Acceptance| matches!(acceptance, Acceptance::Part { shard: other, .. } if other == shard);
        self.unkept.iter().any(|(_, acceptance)| of(acceptance))
    }

    /// Whether enough of them wait, or the oldest for long enough.
    fn are_due(&self, now_ms: u64, patience_ms: u64) -> bool {
        let oldest = self.unkept.front();
        self.unkept.len() >= ENOUGH || oldest.is_some_and(|(since_ms, _)| now_ms >= since_ms + patience_ms)
    }

    pub fn absorb(&mut self, now_ms: u64, acceptance: Acceptance) {
        self.unkept.push_back((now_ms, acceptance));
    }

    /// How long each has waited is in no journal.
    pub fn absorb_restart(&mut self, at_ms: u64, behind: bool) {
        self.behind |= behind;
        self.unkept.iter_mut().for_each(|(since_ms, _)| *since_ms = at_ms);
    }

    pub fn absorb_kept(&mut self, count: u64) {
        let written = count.saturating_sub(self.kept).min(self.unkept.len() as u64);
        self.unkept.drain(..written as usize);
        self.kept = count;
    }
}

impl Machine {
    /// How many acceptances are written beside the output, as the journal says.
    pub fn kept_acceptances(&self) -> u64 {
        self.acceptances.kept
    }

    /// What is to be written beside the output now.
    pub fn unkept_acceptances(&self) -> Vec<Acceptance> {
        self.acceptances.unkept.iter().map(|(_, acceptance)| acceptance.clone()).collect()
    }

    /// Whether acceptances have to be read or written before anything else, or may be written now.
    pub(crate) fn acceptance_chore(&self) -> Option<Chore> {
        if self.must_read_acceptances() {
            return Some(Chore::ReadAcceptances);
        }
        let is_over = self.run.end.is_some() || self.run.phase == Phase::CapFilt && self.shards.settled();
        let patience_ms = if is_over { 0 } else { self.config.lease_ms / 2 };
        let due = self.acceptances.are_due(self.now_ms, patience_ms);
        due.then_some(Chore::KeepAcceptances { first: self.acceptances.kept })
    }

    /// Whether no work may be given out: this journal doesn't know all that was accepted. A pass that is done may have been
    /// taken up again by whom it doesn't know of.
    pub(crate) fn must_read_acceptances(&self) -> bool {
        let may_go_on = match self.run.end {
            None => self.run.phase != Phase::Planning,
            Some(End::Done) => self.run.phase == Phase::CapFilt,
            Some(End::Failed { .. } | End::Cancelled { .. }) => false,
        };
        self.acceptances.behind && may_go_on
    }

    pub(crate) fn acceptances_kept(&self, count: u64) -> Decision {
        let known = self.acceptances.kept + self.acceptances.unkept.len() as u64;
        let is_news = count > self.acceptances.kept && count <= known;
        Decision::noted(if is_news { vec![Record::AcceptancesKept { count }] } else { Vec::new() })
    }

    pub(crate) fn acceptances_read(&self, read: &[Acceptance]) -> Decision {
        if !self.must_read_acceptances() {
            return Decision::noted(Vec::new());
        }
        let mut seen = BTreeSet::new();
        let (mut news, mut replaced) = (Vec::new(), Vec::new());
        for acceptance in read {
            match acceptance {
                Acceptance::Part { shard, file, part } => {
                    let planned = self.shards.all.get(shard);
                    // The corpus may have been cut anew, with other files: a shard is its rows of its file.
                    let is_it = |planned: &&Shard| file.is_empty() || *file == planned.plan.file;
                    let fits = |planned: &&Shard| part.check(shard, planned.plan.rows).is_ok();
                    let Some(planned) = planned.filter(is_it).filter(fits).filter(|_| seen.insert(shard)) else {
                        continue;
                    };
                    match &planned.state {
                        ShardState::Done { part: known, .. }
                            if known != part && !self.acceptances.has_unkept(shard) =>
                        {
                            replaced.push(Record::ShardReplaced { shard: shard.clone(), part: part.clone() });
                        }
                        ShardState::Done { .. } | ShardState::Quarantined { .. } => {}
                        // What it was before its rows are retried is no news.
                        _ if planned.before.as_ref().is_some_and(|before| before.part == *part) => {}
                        ShardState::Pending | ShardState::Leased { .. } => news.push(acceptance.clone()),
                    }
                }
                // A stage's last one would leave nothing to commit that ends the stage: its last stretch is trained again.
                Acceptance::Checkpoint { stage, checkpoint } => {
                    if self.config.stage(*stage).is_some_and(|planned| checkpoint.step < planned.steps) {
                        news.push(acceptance.clone());
                    }
                }
            }
        }
        let news = Record::AcceptancesRead { acceptances: news };
        Decision::noted([news].into_iter().chain(replaced).collect())
    }

    pub(crate) fn absorb_acceptances_read(&mut self, read: &[Acceptance]) {
        self.acceptances.behind = false;
        self.run.delay = None;
        for acceptance in read {
            match acceptance {
                Acceptance::Part { shard, part, .. } => self.shards.absorb_recovered(shard, part),
                Acceptance::Checkpoint { stage, checkpoint } => {
                    let known = self.acceptances.checkpoints.get(stage);
                    if known.is_none_or(|known| known.step < checkpoint.step) {
                        self.acceptances.checkpoints.insert(*stage, checkpoint.clone());
                    }
                }
            }
        }
        self.absorb_recovered_checkpoint();
    }

    /// The stage that is forming its world starts from what was read, if that got further.
    pub(crate) fn absorb_recovered_checkpoint(&mut self) {
        if let Phase::Training(stage) = self.run.phase
            && let Some(checkpoint) = self.acceptances.checkpoints.remove(&stage)
        {
            self.training.absorb_recovered(checkpoint);
        }
    }
}
