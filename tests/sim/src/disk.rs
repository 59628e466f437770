//! The coordinator's disk: a production journal that fails as it is told, and what it holds.
//!
//! The journal in memory fails here, around it. Under the SQLite journal it is the disk itself that fails
//! (`quern-sim-vfs`): SQLite is the real one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quern_coordinator::JournalError;
use quern_coordinator::simulation::{Journal, MemoryJournal, RunIdentity, Snapshot, SqliteJournal};
use quern_machine::Record;
use quern_sim_vfs::{Chance, Fault, Storage};

use crate::dice::Dice;

/// How the next append goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendFault {
    /// It fails, and nothing of it counts.
    Nothing,
    /// It fails, though all is written.
    Written,
    /// The process dies before it.
    DieBefore,
    /// The process dies within it.
    DieWithin,
}

impl AppendFault {
    /// What a count of faults calls it.
    pub fn kind(self) -> &'static str {
        match self {
            AppendFault::Nothing => "append failed, nothing written",
            AppendFault::Written => "append failed, all written",
            AppendFault::DieBefore => "coordinator killed before an append",
            AppendFault::DieWithin => "coordinator killed within an append",
        }
    }

    /// A fault of the disk under SQLite that comes to this.
    fn below(self, dice: &mut Dice) -> Option<Fault> {
        let share = dice.between(0, 1_000);
        Some(match (self, dice.between(0, 2)) {
            (AppendFault::DieBefore, _) => return None,
            (AppendFault::Nothing, 0) => Fault::ReadFails,
            (AppendFault::Nothing, 1) => Fault::WriteFails,
            (AppendFault::Nothing, _) => Fault::WriteIsShort(share),
            (AppendFault::Written, _) => Fault::SyncFails,
            (AppendFault::DieWithin, 0) => Fault::DiesSyncing { after: dice.between(0, 1) },
            (AppendFault::DieWithin, _) => Fault::DiesWriting { after: dice.between(0, 4), share },
        })
    }
}

fn kind(fault: Fault) -> &'static str {
    match fault {
        Fault::ReadFails => "SQLite: read failed",
        Fault::WriteFails => "SQLite: write failed",
        Fault::WriteIsShort(_) => "SQLite: short write",
        Fault::SyncFails => "SQLite: sync failed",
        Fault::DiesWriting { .. } => "SQLite: killed within a write",
        Fault::DiesSyncing { .. } => "SQLite: killed within a sync",
    }
}

impl Chance for Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.between(0, bound - 1)
    }
}

/// What is known of the disk, shared with the journal that the coordinator holds.
#[derive(Debug, Default)]
pub struct Tape {
    /// The journal's records, as far as they are durable.
    pub records: Vec<Record>,
    /// What was replayed, until an append shows that it is durable.
    replayed: Option<Vec<Record>>,
    /// Whether they were replayed since this was last cleared.
    pub again: bool,
    /// What is to go wrong.
    fault: Option<AppendFault>,
    /// What has gone wrong since this was last taken.
    struck: Vec<&'static str>,
    /// No append succeeds.
    is_full: bool,
    /// Nothing can be read.
    is_unreadable: bool,
    /// The process has died.
    pub died: bool,
    /// What a sync had said to be durable may be gone.
    pub is_set_back: bool,
}

enum Medium {
    Memory(MemoryJournal),
    Sqlite(Storage),
}

/// The disk.
pub struct Disk {
    medium: Medium,
    tape: Arc<Mutex<Tape>>,
}

impl Disk {
    /// An empty disk.
    pub fn new(sqlite: bool) -> Self {
        let medium = if sqlite { Medium::Sqlite(Storage::new()) } else { Medium::Memory(MemoryJournal::default()) };
        Disk { medium, tape: Arc::default() }
    }

    /// What is on it.
    pub fn tape(&self) -> MutexGuard<'_, Tape> {
        lock(&self.tape)
    }

    /// Whether it is one under SQLite.
    pub fn is_below_sqlite(&self) -> bool {
        matches!(self.medium, Medium::Sqlite(_))
    }

    /// Opens the journal, as a process that starts.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(&self) -> Result<Box<dyn Journal>, JournalError> {
        let inner: Box<dyn Journal> = match &self.medium {
            Medium::Memory(journal) => Box::new(journal.clone()),
            Medium::Sqlite(storage) => {
                let run = RunIdentity { recipe_hash: "simulated".into(), output: "simulated".into() };
                let opened = SqliteJournal::open_through(Storage::VFS, &storage.path("run.journal"), &run);
                self.tape().died |= storage.disk().is_dead();
                Box::new(opened?)
            }
        };
        Ok(Box::new(WatchedJournal { inner, tape: self.tape.clone() }))
    }

    /// Lets the next append go wrong, in place of what was to go wrong before.
    pub fn arm(&mut self, fault: Option<AppendFault>, dice: &mut Dice) {
        let mut tape = self.tape();
        match (&self.medium, fault) {
            (Medium::Sqlite(storage), Some(fault)) => {
                let below = fault.below(dice);
                tape.fault = below.is_none().then_some(fault);
                storage.disk().arm(below);
            }
            (Medium::Sqlite(storage), None) => {
                tape.fault = None;
                storage.disk().arm(None);
            }
            (Medium::Memory(_), fault) => tape.fault = fault,
        }
    }

    /// No space is left, and maybe nothing can be read either; or all is well again.
    pub fn fill(&mut self, is_full: bool, is_unreadable: bool) {
        match &self.medium {
            Medium::Memory(_) => {
                let mut tape = self.tape();
                (tape.is_full, tape.is_unreadable) = (is_full, is_unreadable);
            }
            Medium::Sqlite(storage) => {
                let mut disk = storage.disk();
                (disk.is_full, disk.is_unreadable) = (is_full, is_unreadable);
            }
        }
    }

    /// Whether syncs lie from now on; the journal in memory has none.
    pub fn lie(&mut self, is_lying: bool) {
        if let Medium::Sqlite(storage) = &self.medium {
            storage.disk().is_lying = is_lying;
        }
    }

    /// Takes notice of what the disk did: whether the process died of it, and what went wrong since this was last called.
    pub fn take_struck(&mut self) -> Vec<&'static str> {
        let mut tape = self.tape();
        if let Medium::Sqlite(storage) = &self.medium {
            let mut disk = storage.disk();
            tape.struck.extend(disk.take_struck().into_iter().map(kind));
            tape.died |= disk.is_dead();
        }
        std::mem::take(&mut tape.struck)
    }

    /// The process is killed: the next one finds the disk as it is at this moment; after a power cut, what was not
    /// synced in part at most. To be called while the journal is still open, since closing it tidies up.
    pub fn kill(&mut self, power_cut: Option<&mut Dice>) {
        let mut tape = lock(&self.tape);
        (tape.fault, tape.died, tape.replayed) = (None, false, None);
        if let Medium::Sqlite(storage) = &mut self.medium {
            *storage = match power_cut {
                None => storage.after_kill(),
                Some(dice) => storage.after_power_cut(dice),
            };
            tape.is_set_back |= storage.disk().is_betrayed();
        }
    }

    /// The operator moves a damaged journal away.
    pub fn replace(&mut self) {
        let mut tape = lock(&self.tape);
        tape.is_set_back = true;
        self.medium = Medium::Sqlite(Storage::new());
    }
}

fn lock(tape: &Mutex<Tape>) -> MutexGuard<'_, Tape> {
    tape.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A production journal, and a tape of what it holds.
struct WatchedJournal {
    inner: Box<dyn Journal>,
    tape: Arc<Mutex<Tape>>,
}

fn failed(what: &str) -> JournalError {
    JournalError::Io { path: "disk".into(), reason: format!("{what} (simulated)") }
}

impl Journal for WatchedJournal {
    fn snapshot(&mut self) -> Result<Option<Snapshot>, JournalError> {
        self.inner.snapshot()
    }

    fn replay(&mut self, after: u64, absorb: &mut dyn FnMut(Record)) -> Result<(), JournalError> {
        if self.tape().is_unreadable || self.tape().died {
            return Err(failed("the disk can't be read"));
        }
        let mut records = Vec::new();
        self.inner.replay(0, &mut |record| {
            if records.len() as u64 >= after {
                absorb(record.clone());
            }
            records.push(record);
        })?;
        let mut tape = self.tape();
        tape.replayed = Some(records);
        Ok(())
    }

    fn append(&mut self, records: &[&Record]) -> Result<(), JournalError> {
        if self.tape().is_full {
            return Err(JournalError::Full { path: "disk".into() });
        }
        let fault = self.tape().fault.take();
        self.tape().struck.extend(fault.map(AppendFault::kind));
        match fault {
            None => {
                self.inner.append(records)?;
                let mut tape = self.tape();
                if let Some(replayed) = tape.replayed.take() {
                    (tape.records, tape.again) = (replayed, true);
                }
                tape.records.extend(records.iter().copied().cloned());
                return Ok(());
            }
            Some(AppendFault::Nothing) => {}
            Some(AppendFault::Written) => self.inner.append(records)?,
            Some(AppendFault::DieBefore) => self.tape().died = true,
            Some(AppendFault::DieWithin) => {
                // Of two deaths within an append, one comes after all is written.
                if records.len().is_multiple_of(2) {
                    self.inner.append(records)?;
                }
                self.tape().died = true;
            }
        }
        Err(failed("the append failed"))
    }

    fn keep_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), JournalError> {
        self.inner.keep_snapshot(snapshot)
    }
}

impl WatchedJournal {
    fn tape(&self) -> MutexGuard<'_, Tape> {
        lock(&self.tape)
    }
}
