//! A journal in memory that fails when it is told to: the double that tests script faults with.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use quern_machine::Record;

use super::{Journal, JournalError, Snapshot};

/// How an append goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing is written: the disk is full.
    Full,
    /// All is written, but the sync fails: the caller can't know.
    Torn,
}

#[derive(Debug, Default)]
struct Shared {
    records: Vec<Record>,
    snapshot: Option<Snapshot>,
    faults: VecDeque<Option<Fault>>,
    full: bool,
    appends: u64,
}

/// A journal in memory. Clones share the records, as a restarted process shares the file.
#[derive(Debug, Clone, Default)]
pub struct MemoryJournal(Arc<Mutex<Shared>>);

impl MemoryJournal {
    /// Makes appends fail with a full disk until told otherwise.
    pub fn set_full(&self, full: bool) {
        self.shared().full = full;
    }

    /// Makes the append after `good` good ones fail; with `torn` its records are there nevertheless.
    pub fn fail_after(&self, good: usize, torn: bool) {
        let mut shared = self.shared();
        shared.faults.extend(std::iter::repeat_n(None, good));
        shared.faults.push_back(Some(if torn { Fault::Torn } else { Fault::Full }));
    }

    /// How many appends were tried.
    pub fn appends(&self) -> u64 {
        self.shared().appends
    }

    /// Another journal with the same records and no snapshot; neither hears what is appended to the other.
    #[cfg(test)]
    pub(crate) fn without_snapshot(&self) -> MemoryJournal {
        let records = self.shared().records.clone();
        MemoryJournal(Arc::new(Mutex::new(Shared { records, ..Shared::default() })))
    }

    /// The records as JSON, in order.
    pub fn lines(&self) -> Vec<String> {
        self.shared().records.iter().map(super::sqlite::line).collect()
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for MemoryJournal {
    fn snapshot(&mut self) -> Result<Option<Snapshot>, JournalError> {
        Ok(self.shared().snapshot.clone())
    }

    fn replay(&mut self, after: u64, absorb: &mut dyn FnMut(Record)) -> Result<(), JournalError> {
        self.shared().records.iter().skip(after as usize).cloned().for_each(absorb);
        Ok(())
    }

    fn append(&mut self, records: &[&Record]) -> Result<(), JournalError> {
        let mut shared = self.shared();
        shared.appends += 1;
        let fault = if shared.full { Some(Fault::Full) } else { shared.faults.pop_front().flatten() };
        if fault != Some(Fault::Full) {
            shared.records.extend(records.iter().copied().cloned());
        }
        match fault {
            None => Ok(()),
            Some(Fault::Full) => Err(JournalError::Full { path: "memory".into() }),
            Some(Fault::Torn) => {
                Err(JournalError::Io { path: "memory".into(), reason: "the sync failed (scripted)".into() })
            }
        }
    }

    fn keep_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), JournalError> {
        self.shared().snapshot = Some(snapshot.clone());
        Ok(())
    }
}
