//! What a journal's records come to.

use quern_machine::{Config, Machine, STATE};

/// The machine that a journal's first records make, as it is kept in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// How many records are in it.
    pub(super) records: u64,
    /// Of which state it is: [`STATE`].
    pub(super) state: u32,
    /// The machine as MessagePack.
    pub(super) machine: Vec<u8>,
}

impl Snapshot {
    /// Of a machine that has absorbed so many records, and nothing else.
    pub(crate) fn of(machine: &Machine, records: u64) -> Self {
        let machine = rmp_serde::to_vec_named(machine).expect("a machine is plain data");
        Snapshot { records, state: STATE, machine }
    }

    /// How many records are in it.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// The machine; `None`: another version's, which this one doesn't read.
    pub(crate) fn machine(&self, config: Config) -> Option<Machine> {
        let machine: Machine = (self.state == STATE).then(|| rmp_serde::from_slice(&self.machine).ok())??;
        Some(machine.under(config))
    }
}
