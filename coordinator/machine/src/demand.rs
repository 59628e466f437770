//! How many workers a run can use: by this a coordinator of several runs shares its workers out.

use crate::machine::Machine;
use crate::run::Phase;

impl Machine {
    /// Workers that have something to do now, or in the phase that comes next; more of them would only wait.
    pub(crate) fn workers_needed(&self) -> u64 {
        if self.run.end.is_some() || self.run.paused.is_some() {
            return 0;
        }
        let first_ranks = self.config.stages().next().map_or(0, |(_, config)| u64::from(config.ranks));
        match self.run.phase {
            Phase::Planning => first_ranks.max(1),
            Phase::CapFilt => first_ranks.max((self.shards.pending.len() + self.shards.leased.len()) as u64),
            Phase::Task(_) => 1,
            Phase::Training(_) => self.stage_config().map_or(0, |config| u64::from(config.ranks)),
        }
    }
}
