//! A CapFilt pass that is taken up again: rows in quarantine are tried once more, and files that came later are milled.
//!
//! What is done stays done. A shard whose rows are retried keeps its part aside until another one is accepted, and gets
//! it back when none comes of it; only the rows that failed for the reasons in question are worked on. Once training has
//! begun nothing is taken up: its checkpoints are of the captions that there were.

use std::collections::BTreeSet;

use crate::event::{Decision, Refusal, UnreadableFile};
use crate::ids::ShardId;
use crate::machine::Machine;
use crate::mutation::{Mutation, planted};
use crate::record::Record;
use crate::run::{End, Phase};
use crate::shards::{Shard, ShardPlan, ShardState};

/// What a shard given up as a whole is in quarantine for.
pub(crate) const GIVEN_UP: &str = "shard/given_up";

/// Whether `STAGE/REASON` is one of `reasons`, each of which may leave the stage out.
pub(crate) fn is_among(reason: &str, reasons: &BTreeSet<String>) -> bool {
    let without_stage = reason.split_once('/').map_or(reason, |(_, word)| word);
    reasons.contains(reason) || reasons.contains(without_stage)
}

impl Machine {
    /// Rows in quarantine for one of these reasons are tried again.
    pub(crate) fn retry(&self, reasons: &BTreeSet<String>) -> Result<Vec<Record>, Refusal> {
        self.may_be_taken_up("retried")?;
        let wanted = |shard: &&Shard| match &shard.state {
            // A part without reasons is an older worker's: whoever gets it reads them in the part.
            ShardState::Done { part, .. } if part.reasons.is_empty() => part.quarantined > 0,
            ShardState::Done { part, .. } => part.reasons.keys().any(|reason| is_among(reason, reasons)),
            // A file that can't be read has no rows to retry: it is looked at with all the input.
            ShardState::Quarantined { .. } => shard.plan.rows > 0 && is_among(GIVEN_UP, reasons),
            ShardState::Pending | ShardState::Leased { .. } => false,
        };
        let shards: Vec<ShardId> =
            self.shards.all.values().filter(wanted).map(|shard| shard.plan.shard.clone()).collect();
        if shards.is_empty() {
            let there = self.shards.reasons.keys().cloned().collect::<Vec<_>>().join(", ");
            let asked = reasons.iter().cloned().collect::<Vec<_>>().join(", ");
            return Err(Refusal::NothingToRetry {
                asked,
                there: if there.is_empty() { "nothing".into() } else { there },
            });
        }
        Ok(vec![Record::ShardsRetried { reasons: reasons.clone(), shards }])
    }

    /// Shards of files that nobody has milled, or that couldn't be read and can be now. What is known is left out.
    pub(crate) fn extended(&self, shards: &[ShardPlan], unreadable: &[UnreadableFile]) -> Decision {
        if let Err(refusal) = self.may_be_taken_up("extended") {
            return Decision::refuse(refusal);
        }
        let is_placeholder =
            |shard: &Shard| matches!(shard.state, ShardState::Quarantined { .. }) && shard.plan.rows == 0;
        let is_new = |plan: &&ShardPlan| self.shards.all.get(&plan.shard).is_none_or(is_placeholder);
        let unknown = |file: &&UnreadableFile| !self.shards.all.contains_key(&file.shard.shard);
        let unreadable = || unreadable.iter().filter(unknown);
        let added: Vec<_> = shards.iter().filter(is_new).chain(unreadable().map(|file| &file.shard)).cloned().collect();
        if added.is_empty() {
            return Decision::noted(Vec::new());
        }
        let given_up = unreadable()
            .map(|file| Record::ShardQuarantined { shard: file.shard.shard.clone(), reason: file.reason.clone() });
        Decision::noted([Record::ShardsAdded { shards: added }].into_iter().chain(given_up).collect())
    }

    fn may_be_taken_up(&self, what: &'static str) -> Result<(), Refusal> {
        let why = match (&self.run.end, self.run.phase) {
            (Some(End::Cancelled { .. }), _) => return Err(Refusal::Over { what, explanation: self.explain() }),
            (_, Phase::Planning) => "its corpus is being cut into shards: ask again in a moment",
            (_, Phase::CapFilt) if self.must_read_acceptances() => {
                "what was accepted before is being read: ask again in a moment"
            }
            // Its files are swept with it: none may be made meanwhile.
            (None, Phase::CapFilt) if self.shards.settled() => "its manifest is being written: ask again in a moment",
            (_, Phase::CapFilt) => return Ok(()),
            _ if planted(Mutation::AddWhileTraining) => return Ok(()),
            (_, Phase::Training(_) | Phase::Task(_)) => {
                "it trains on its captions, or has: mill the corpus in a run without training, and train on that with \
                 `captions:`"
            }
        };
        Err(Refusal::NotNow { what, why })
    }
}
