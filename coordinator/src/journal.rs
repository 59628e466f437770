//! The journal: a run's durable records, in order.
//!
//! What a journal must guarantee: when [`Journal::append`] has returned `Ok`, all its records survive the machine's
//! power being cut; when it has returned an error, [`Journal::replay`] says which of them are there, and they are so in
//! every later replay. Appending is all or nothing.
//!
//! Beside the records a journal keeps a [`Snapshot`] of what they come to, so that a start reads only those after it. It is
//! a cache: without it, or when it is another version's or damaged, all records are read.

mod backup;
mod memory;
mod snapshot;
mod sqlite;

use std::path::PathBuf;

use quern_machine::Record;

pub use backup::back_up;
pub use memory::MemoryJournal;
pub use snapshot::Snapshot;
pub use sqlite::SqliteJournal;

/// Which run a journal is of. A journal of another one is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunIdentity {
    /// The recipe's hash.
    pub recipe_hash: String,
    /// Where the parts are.
    pub output: String,
}

/// A run's durable records.
pub trait Journal: Send {
    /// The last snapshot that was kept, when it is whole.
    ///
    /// # Errors
    /// When the journal can't be read.
    fn snapshot(&mut self) -> Result<Option<Snapshot>, JournalError>;

    /// Hands over all records after the first `after`, in order.
    ///
    /// # Errors
    /// When the journal can't be read, or holds what this version doesn't understand.
    fn replay(&mut self, after: u64, absorb: &mut dyn FnMut(Record)) -> Result<(), JournalError>;

    /// Appends records in one transaction and syncs it.
    ///
    /// # Errors
    /// When the records are not known to be durable: the caller must replay.
    fn append(&mut self, records: &[&Record]) -> Result<(), JournalError>;

    /// Keeps a snapshot in place of the one before.
    ///
    /// # Errors
    /// When it is not known to be kept.
    fn keep_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), JournalError>;
}

/// Why a journal can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another coordinator has it open.
    #[error("another coordinator works with the journal {path}: stop it, or give this one another journal")]
    InUse {
        /// The journal.
        path: PathBuf,
    },
    /// It can't be created or opened.
    #[error("the journal {path} can't be opened: {reason}; check the folder and its permissions")]
    Open {
        /// The journal.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It isn't a journal, or not a whole one.
    #[error(
        "{path} is damaged or is not a journal of quern: {reason}; restore it from a backup, or move it away to run anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A newer version wrote it.
    #[error(
        "the journal {path} is of format {found}, this version of quern reads up to {known}: use the newer version"
    )]
    Newer {
        /// The journal.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format known.
        known: i64,
    },
    /// It is of another run.
    #[error(
        "the journal {path} is of another run: its {what} is {found}, here it is {expected}; give this run a journal of \
         its own"
    )]
    OtherRun {
        /// The journal.
        path: PathBuf,
        /// `recipe hash`, `output`.
        what: &'static str,
        /// The journal's.
        found: String,
        /// The run's.
        expected: String,
    },
    /// No incarnation could be taken, which every start needs.
    #[error(
        "the coordinator can't make sure that it is the only one at work on {output}: {reason}; it needs to write beside \
         the output"
    )]
    NoIncarnation {
        /// The output.
        output: String,
        /// What the store said.
        reason: String,
        /// Whether another try may do better.
        is_passing: bool,
    },
    /// No space is left.
    #[error("the disk of the journal {path} is full: free some space there, the run goes on by itself")]
    Full {
        /// The journal.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("the journal {path} can't be read or written: {reason}")]
    Io {
        /// The journal.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
}
