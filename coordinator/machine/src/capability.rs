//! Who is able to do what: device memory against what the recipe asks for, and models that are at hand.

use crate::ids::WorkerId;
use crate::machine::Machine;
use crate::members::{Member, Warmth};
use crate::mutation::{Mutation, planted};
use crate::run::Phase;
use crate::training::World;

impl Machine {
    /// Device memory that a worker must have for the phase that the run is at.
    pub(crate) fn memory_needed(&self) -> u64 {
        match self.run.phase {
            Phase::Planning => 0,
            Phase::CapFilt => self.config.memory.capfilt_bytes,
            Phase::Training(stage) => self.config.memory.stage_bytes(stage),
            Phase::Task(_) => self.config.memory.stage_bytes(self.training.stage),
        }
    }

    /// Whether a worker's device has the memory for the phase that the run is at.
    pub(crate) fn is_big_enough(&self, member: &Member) -> bool {
        member.memory_bytes >= self.memory_needed() || planted(Mutation::LeaseToTheSmall)
    }

    /// Whether a worker that is here can be given work of the phase that the run is at.
    pub(crate) fn is_able(&self, member: &Member) -> bool {
        member.gets_work() && self.is_big_enough(member) && self.denylist.reason(&member.place).is_none()
    }

    /// Whether a worker may join the forming world. For half a term after it began to form, its places are kept for
    /// workers that have the stage's models at hand, as far as such are here.
    pub(crate) fn may_join(&self, worker: WorkerId, member: &Member) -> bool {
        let World::Forming { joined, .. } = &self.training.world else { return false };
        if !self.is_big_enough(member) {
            return false;
        }
        let warmth = Warmth::of(self.training.stage);
        let forming_ms = self.now_ms.saturating_sub(self.training.forming_since_ms);
        if joined.contains(&worker) || member.warm.contains(&warmth) || forming_ms * 2 >= self.config.lease_ms {
            return true;
        }
        let missing = self.stage_config().map_or(0, |stage| stage.ranks as usize).saturating_sub(joined.len());
        let is_awaited = |(id, other): &(WorkerId, &Member)| {
            other.warm.contains(&warmth) && !joined.contains(id) && self.is_able(other) && !self.is_silent(*id)
        };
        self.members.here().filter(is_awaited).count() < missing
    }

    /// Why workers that are here are not able to do the phase's work, as the end of a sentence; `None`: nobody is
    /// kept from it.
    pub(crate) fn explain_inability(&self) -> Option<String> {
        let here = || self.members.here().filter(|(_, member)| member.gets_work());
        if let Some((worker, member)) = here().find(|(_, member)| !self.is_big_enough(member)) {
            let has = match member.memory_bytes {
                0 => "says nothing of its memory".into(),
                bytes => format!("has {:.1} GiB", gib(bytes)),
            };
            let (needed, phase) = (gib(self.memory_needed()), self.run.phase.name());
            return Some(format!(
                "{} {has} of the {needed:.1} GiB that cluster.min_device_memory_gib.{phase} asks for",
                self.members.title(worker)
            ));
        }
        let (place, reason) = self.denylist.denied.first_key_value()?;
        Some(format!("{place} gets no work ({reason}), which `quern allow {place}` lifts"))
    }

    /// How many workers that are here can be given the phase's work.
    pub(crate) fn able(&self) -> usize {
        self.members.here().filter(|(_, member)| self.is_able(member)).count()
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
