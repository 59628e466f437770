//! Ranks: places in the training world, what its speaker tells and offers, and how it ends.

use std::collections::BTreeSet;

use crate::event::{Answer, Decision, Refusal, Seat};
use crate::ids::{Generation, Rank, WorkerId, WorldToken};
use crate::machine::Machine;
use crate::members::Member;
use crate::mutation::{Mutation, planted};
use crate::record::Record;
use crate::run::Stage;
use crate::training::{Checkpoint, Loss, StepLosses, World};

impl Machine {
    pub(crate) fn join_world(
        &self,
        worker: WorkerId,
        member: &Member,
        generation: Generation,
    ) -> Result<Decision, Refusal> {
        if let Some(finished) = self.run.finished() {
            return Ok(Decision::answer(Answer::Seat(Seat::Finished(finished))));
        }
        if self.training.world.generation() != Some(generation) {
            return Err(Refusal::StaleWorld { given: generation });
        }
        match &self.training.world {
            World::Running { token, ranks } => match self.training.world.rank(worker) {
                Some(rank) => Ok(Decision::answer(Answer::Seat(self.seat(*token, rank, ranks)))),
                None => Err(Refusal::StaleWorld { given: generation }),
            },
            World::Forming { .. } if !self.is_big_enough(member) => Err(Refusal::StaleWorld { given: generation }),
            // Its place is given up: the world forms anew when the run goes on.
            World::Forming { .. } if self.run.paused.is_some() || self.must_read_acceptances() => {
                Err(Refusal::StaleWorld { given: generation })
            }
            World::Forming { joined, .. } => {
                let mut members = joined.clone();
                let is_new = members.insert(worker);
                let mut records = Vec::new();
                if is_new {
                    records.push(Record::WorldJoined { generation, worker });
                }
                if members.len() < self.stage_config().map_or(0, |stage| stage.ranks as usize) {
                    return Ok(Decision { records, after_durable: Ok(Answer::Seat(Seat::Wait)) });
                }
                let ranks: Vec<_> = members.into_iter().collect();
                let token = WorldToken { incarnation: self.incarnation, generation };
                let rank = ranks.iter().position(|rank| *rank == worker).expect("it has just joined");
                let seat = self.seat(token, Rank(rank as u32), &ranks);
                records.push(Record::WorldFormed { generation, incarnation: self.incarnation, ranks });
                Ok(Decision { records, after_durable: Ok(Answer::Seat(seat)) })
            }
            World::Absent | World::Over(_) => Err(Refusal::StaleWorld { given: generation }),
        }
    }

    fn seat(&self, token: WorldToken, rank: Rank, ranks: &[WorkerId]) -> Seat {
        let addresses = ranks.iter().map(|worker| self.members.all[worker].address.clone()).collect();
        let stage = self.training.stage;
        let stage1 = self.training.done(Stage::One).map(|done| done.checkpoint.clone());
        Seat::Taken { token, rank, addresses, stage, checkpoint: self.training.checkpoint.clone(), stage1 }
    }

    fn speaks_for_the_world(&self, worker: WorkerId, token: WorldToken) -> Result<(), Refusal> {
        match self.training.world.live(token, worker)? {
            Rank(0) if self.run.end.is_none() => Ok(()),
            Rank(0) => Err(Refusal::StaleWorld { given: token.generation }),
            rank => Err(Refusal::NotRankZero(rank)),
        }
    }

    pub(crate) fn report_steps(
        &self,
        worker: WorkerId,
        token: WorldToken,
        losses: &StepLosses,
    ) -> Result<Decision, Refusal> {
        if !planted(Mutation::AcceptOldSteps) {
            self.speaks_for_the_world(worker, token)?;
        }
        let record = Record::StepsReported { generation: token.generation, losses: *losses };
        Ok(Decision::noted(vec![record]))
    }

    pub(crate) fn commit_checkpoint(
        &self,
        worker: WorkerId,
        token: WorldToken,
        offered: &Checkpoint,
        last: bool,
    ) -> Result<Decision, Refusal> {
        // The same offer again: its answer got lost.
        if self.training.has_accepted(offered, token) {
            return Ok(Decision::answer(Answer::Accepted));
        }
        if !planted(Mutation::AcceptOldCheckpoints) {
            self.speaks_for_the_world(worker, token)?;
        }
        let safe = self.training.safe_step();
        if self.training.checkpoint.is_some() && offered.step <= safe {
            let reason = format!("the checkpoint of step {safe} was accepted before");
            return Ok(Decision::answer(Answer::Superseded { reason }));
        }
        if offered.path.is_empty() || offered.path.starts_with('/') || offered.path.contains("..") {
            let what = format!("the checkpoint's path {:?} is not a folder under the output", offered.path);
            return Err(Refusal::Malformed(what));
        }
        let mut records = vec![Record::CheckpointAccepted {
            generation: token.generation,
            step: offered.step,
            path: offered.path.clone(),
            digest: offered.digest.clone(),
            last,
        }];
        if last {
            records.push(match self.config.stage_after(self.training.stage) {
                Some(next) => self.begun(next),
                None => self.next_task(None),
            });
        }
        Ok(Decision { records, after_durable: Ok(Answer::Accepted) })
    }

    pub(crate) fn leave_world(&self, worker: WorkerId, token: WorldToken, reason: &str) -> Result<Decision, Refusal> {
        self.training.world.live(token, worker)?;
        if self.run.end.is_some() {
            return Ok(Decision::noted(Vec::new()));
        }
        let (loss, reason) = match &self.run.paused {
            Some(_) => (Loss::Graceful, "the run was paused".to_owned()),
            None => (Loss::Blamed, format!("{} said: {reason}", self.members.title(worker))),
        };
        let records = self.training.break_up(token.generation, loss, &reason, self.config.attempts);
        Ok(Decision::noted(records))
    }

    pub(crate) fn part_with(&self, gone: &BTreeSet<WorkerId>, loss: Loss, reason: &str) -> Vec<Record> {
        match self.run.end {
            Some(_) => Vec::new(),
            None => self.training.part_with(gone, loss, reason, self.config.attempts),
        }
    }
}
