//! What operators ask for: pause, go on, cancel, send a worker away, give work again to a place. (What a retry comes to is
//! in `again`.)

use crate::event::{Control, Decision, Refusal};
use crate::ids::WorkerId;
use crate::machine::Machine;
use crate::members::MemberState;
use crate::record::Record;
use crate::run::End;
use crate::training::World;

impl Machine {
    pub(crate) fn control(&self, control: &Control) -> Decision {
        let decided = match control {
            Control::Pause { reason } => self.pause(reason),
            Control::Resume => self.resume(),
            Control::Cancel { reason } => self.cancel(reason),
            Control::Drain { worker, reason } => self.send_away(*worker, reason),
            Control::Retry { reasons } => self.retry(reasons),
            Control::Allow { name } => self.allow(name),
        };
        decided.map_or_else(Decision::refuse, Decision::noted)
    }

    /// Nothing new is begun: what is in hand is finished, and training stops with a checkpoint.
    fn pause(&self, reason: &str) -> Result<Vec<Record>, Refusal> {
        self.must_go_on("paused")?;
        let is_news = self.run.paused.is_none();
        Ok(is_news.then(|| Record::RunPaused { reason: reason.into() }).into_iter().collect())
    }

    fn resume(&self) -> Result<Vec<Record>, Refusal> {
        let has_failed = matches!(self.run.end, Some(End::Failed { .. }));
        if !has_failed {
            self.must_go_on("resumed")?;
        }
        let taken_up = has_failed.then_some(Record::RunResumed);
        let unpaused = self.run.paused.is_some().then_some(Record::RunUnpaused);
        Ok(taken_up.into_iter().chain(unpaused).collect())
    }

    fn cancel(&self, reason: &str) -> Result<Vec<Record>, Refusal> {
        match self.run.end {
            Some(End::Cancelled { .. }) => Ok(Vec::new()),
            Some(End::Failed { .. }) | None => Ok(vec![Record::RunCancelled { reason: reason.into() }]),
            Some(End::Done) => self.must_go_on("cancelled").map(|()| Vec::new()),
        }
    }

    /// The worker hears it with its next heartbeat, finishes what it has in hand, and leaves.
    fn send_away(&self, worker: WorkerId, reason: &str) -> Result<Vec<Record>, Refusal> {
        let member = self.members.all.get(&worker).filter(|member| member.state != MemberState::Lost);
        let member = member.ok_or(Refusal::NoSuchWorker(worker))?;
        if member.is_leaving() {
            return Ok(Vec::new());
        }
        let mut records = vec![Record::WorkerSentAway { worker, reason: reason.into() }];
        if let World::Forming { generation, joined } = &self.training.world
            && joined.contains(&worker)
        {
            records.push(Record::WorldLeft { generation: *generation, worker });
        }
        Ok(records)
    }

    fn must_go_on(&self, what: &'static str) -> Result<(), Refusal> {
        match self.run.end {
            None => Ok(()),
            Some(_) => Err(Refusal::Over { what, explanation: self.explain() }),
        }
    }
}
