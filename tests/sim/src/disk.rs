//! The coordinator's disk: a production journal that fails as it is told, and what it holds.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quern_coordinator::JournalError;
use quern_coordinator::simulation::{Journal, MemoryJournal, RunIdentity, SqliteJournal};
use quern_machine::Record;
use tempfile::TempDir;

/// How the next append goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendFault {
    /// It fails, and nothing is written.
    Nothing,
    /// It fails, though all is written.
    Written,
    /// The process dies before it.
    DieBefore,
    /// The process dies within it: how much of it is on the disk, in thousandths of its bytes.
    DieWithin(u64),
}

impl AppendFault {
    /// What a count of faults calls it.
    pub fn kind(self) -> &'static str {
        match self {
            AppendFault::Nothing => "append failed, nothing written",
            AppendFault::Written => "append failed, all written",
            AppendFault::DieBefore => "coordinator killed before an append",
            AppendFault::DieWithin(_) => "coordinator killed within an append",
        }
    }
}

/// What is known of the disk, shared with the journal that the coordinator holds.
#[derive(Debug, Default)]
pub struct Tape {
    /// The journal's records, as they were last appended or replayed.
    pub records: Vec<Record>,
    /// Whether they were replayed since this was last cleared.
    pub again: bool,
    /// What is to go wrong.
    pub fault: Option<AppendFault>,
    /// What has gone wrong since this was last taken.
    pub struck: Option<AppendFault>,
    /// No append succeeds.
    pub full: bool,
    /// Nothing can be read.
    pub unreadable: bool,
    /// The process has died.
    pub died: bool,
    /// Where the write-ahead log is to be cut.
    cut: Option<u64>,
}

enum Medium {
    Memory(MemoryJournal),
    Sqlite { folder: TempDir, life: u64 },
}

/// The disk.
pub struct Disk {
    medium: Medium,
    tape: Arc<Mutex<Tape>>,
}

const UNREADABLE: &str = "the disk can't be read (simulated)";

impl Disk {
    /// An empty disk.
    pub fn new(sqlite: bool) -> std::io::Result<Self> {
        let medium = match sqlite {
            true => Medium::Sqlite { folder: folder()?, life: 0 },
            false => Medium::Memory(MemoryJournal::default()),
        };
        Ok(Disk { medium, tape: Arc::default() })
    }

    /// What is on it, and what is to go wrong with it.
    pub fn tape(&self) -> MutexGuard<'_, Tape> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the journal, as a process that starts.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(&self) -> Result<Box<dyn Journal>, JournalError> {
        let (inner, log): (Box<dyn Journal>, _) = match &self.medium {
            Medium::Memory(journal) => (Box::new(journal.clone()), None),
            Medium::Sqlite { folder, life } => {
                let path = journal_path(folder.path(), *life);
                let run = RunIdentity { recipe_hash: "simulated".into(), output: "simulated".into() };
                (Box::new(SqliteJournal::open(&path, &run)?), Some(log_of(&path)))
            }
        };
        Ok(Box::new(FaultyJournal { inner, log, tape: self.tape.clone() }))
    }

    /// The process is killed: the next one finds the files as they are at this moment, a torn log among them. To be
    /// called while the journal is still open, since closing it tidies up.
    ///
    /// # Errors
    /// When the files can't be copied.
    pub fn kill(&mut self) -> std::io::Result<()> {
        let (cut, died) = {
            let mut tape = self.tape();
            tape.fault = None;
            (tape.cut.take(), std::mem::take(&mut tape.died))
        };
        let Medium::Sqlite { folder, life } = &mut self.medium else { return Ok(()) };
        let before = journal_path(folder.path(), *life);
        *life += 1;
        let after = journal_path(folder.path(), *life);
        std::fs::create_dir_all(after.parent().expect("a journal lies in a folder"))?;
        std::fs::copy(&before, &after)?;
        if log_of(&before).exists() {
            std::fs::copy(log_of(&before), log_of(&after))?;
            if let Some(cut) = cut.filter(|_| died) {
                std::fs::OpenOptions::new().write(true).open(log_of(&after))?.set_len(cut)?;
            }
        }
        Ok(())
    }
}

/// A folder in memory where there is one: what a power cut leaves is simulated, and real syncs would take minutes.
fn folder() -> std::io::Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

fn journal_path(folder: &Path, life: u64) -> PathBuf {
    folder.join(life.to_string()).join("run.journal")
}

fn log_of(path: &Path) -> PathBuf {
    path.with_extension("journal-wal")
}

struct FaultyJournal {
    inner: Box<dyn Journal>,
    /// SQLite's write-ahead log.
    log: Option<PathBuf>,
    tape: Arc<Mutex<Tape>>,
}

impl FaultyJournal {
    fn log_bytes(&self) -> u64 {
        self.log.as_ref().and_then(|log| std::fs::metadata(log).ok()).map_or(0, |metadata| metadata.len())
    }

    /// Dies within an append: of an SQLite log some bytes are there, of the journal in memory all or nothing.
    fn die_within(&mut self, share: u64, records: &[&Record]) -> Result<Option<u64>, JournalError> {
        if self.log.is_none() {
            return if share < 500 { Ok(None) } else { self.inner.append(records).map(|()| None) };
        }
        let before = self.log_bytes();
        self.inner.append(records)?;
        let written = self.log_bytes().saturating_sub(before);
        // When the log was begun anew from its start, no cut tells old from new.
        Ok((written > 0).then(|| before + written * share / 1000))
    }
}

impl Journal for FaultyJournal {
    fn replay(&mut self, absorb: &mut dyn FnMut(Record)) -> Result<(), JournalError> {
        let shared = self.tape.clone();
        let mut tape = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if tape.unreadable || tape.died {
            return Err(JournalError::Io { path: "disk".into(), reason: UNREADABLE.into() });
        }
        tape.records.clear();
        tape.again = true;
        self.inner.replay(&mut |record| {
            tape.records.push(record.clone());
            absorb(record);
        })
    }

    fn append(&mut self, records: &[&Record]) -> Result<(), JournalError> {
        let shared = self.tape.clone();
        let mut tape = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |reason: &str| JournalError::Io { path: "disk".into(), reason: reason.into() };
        if tape.full {
            return Err(JournalError::Full { path: "disk".into() });
        }
        let fault = tape.fault.take();
        tape.struck = fault.or(tape.struck);
        match fault {
            None => {
                self.inner.append(records)?;
                tape.records.extend(records.iter().copied().cloned());
                return Ok(());
            }
            Some(AppendFault::Nothing) => {}
            Some(AppendFault::Written) => self.inner.append(records)?,
            Some(AppendFault::DieBefore) => tape.died = true,
            Some(AppendFault::DieWithin(share)) => {
                tape.cut = self.die_within(share, records)?;
                tape.died = true;
            }
        }
        Err(failed("the append failed (simulated)"))
    }
}
