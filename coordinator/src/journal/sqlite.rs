//! The journal as an SQLite database (WAL, `synchronous = FULL`): an operator can look at it with the standard tool,
//!
//! ```text
//! sqlite3 run.journal "select seq, record from records order by seq desc limit 5"
//! ```
//!
//! Table `records(seq, record)` holds one JSON object per record, `seq` from 1 without gaps; table `snapshots` at most one
//! [`Snapshot`]; table `run(key, value)` says which run it is. A lock on the file `{journal}.lock` keeps a second
//! coordinator out.

mod database;

use std::path::Path;

use quern_machine::{Mutation, Record, planted};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};

use self::database::Database;
use super::{Journal, JournalError, RunIdentity, Snapshot};

pub(super) use self::database::APPLICATION;

/// A journal in an SQLite database.
#[derive(Debug)]
pub struct SqliteJournal {
    database: Database,
    /// `None` after a failure: the next replay opens anew, so that nothing of the failed transaction lingers.
    connection: Option<Connection>,
    last_seq: i64,
    /// Whether a sync may have failed since all that can be read was made durable: this process' or an earlier one's.
    is_doubtful: bool,
}

impl SqliteJournal {
    /// Opens the journal of a run, or begins it.
    ///
    /// # Errors
    /// When the file can't be used, is in use, damaged, or of another run.
    pub fn open(path: &Path, run: &RunIdentity) -> Result<Self, JournalError> {
        Self::begin(Database::locked(path)?, run)
    }

    /// Opens it through another of SQLite's VFS than the system's. No lock is taken: nobody else may have it open.
    ///
    /// # Errors
    /// As those of [`SqliteJournal::open`].
    pub fn open_through(vfs: &'static str, path: &Path, run: &RunIdentity) -> Result<Self, JournalError> {
        Self::begin(Database::through(vfs, path), run)
    }

    fn begin(database: Database, run: &RunIdentity) -> Result<Self, JournalError> {
        let mut connection = database.connect()?;
        database.identify(&mut connection, run)?;
        Ok(SqliteJournal { database, connection: Some(connection), last_seq: 0, is_doubtful: true })
    }

    fn path(&self) -> &Path {
        self.database.path()
    }

    fn connection(&mut self) -> Result<&mut Connection, JournalError> {
        if self.connection.is_none() {
            self.connection = Some(self.database.connect()?);
        }
        Ok(self.connection.as_mut().expect("it has just been opened"))
    }

    fn read(&mut self, after: u64, absorb: &mut dyn FnMut(Record)) -> Result<i64, JournalError> {
        let path = self.path().to_path_buf();
        let sql = |error| from_sqlite(&path, error);
        let connection = self.connection()?;
        // The last record of a snapshot is read again, to see that the records are not behind it.
        let after = after.cast_signed();
        let mut next = after.max(1);
        let query = "select seq, record from records where seq >= ?1 order by seq";
        let mut statement = connection.prepare(query).map_err(sql)?;
        let mut rows = statement.query([next]).map_err(sql)?;
        let missing = |seq| JournalError::Damaged { path: path.clone(), reason: format!("record {seq} is missing") };
        while let Some(row) = rows.next().map_err(sql)? {
            let seq: i64 = row.get(0).map_err(sql)?;
            let text: String = row.get(1).map_err(sql)?;
            if seq != next {
                return Err(missing(next));
            }
            if seq > after {
                absorb(parse(&path, &text)?);
            }
            next += 1;
        }
        if next <= after { Err(missing(next)) } else { Ok(next - 1) }
    }

    /// Changes it in one transaction, which is durable when this returns `Ok`.
    fn change<T>(
        &mut self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error>,
    ) -> Result<T, JournalError> {
        let changed = self.try_change(change);
        self.is_doubtful = changed.is_err();
        if changed.is_err() {
            self.connection = None;
        }
        changed
    }

    fn try_change<T>(
        &mut self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error>,
    ) -> Result<T, JournalError> {
        let path = self.path().to_path_buf();
        let sql = |error| from_sqlite(&path, error);
        let is_doubtful = self.is_doubtful;
        let connection = self.connection()?;
        if is_doubtful {
            settle(&path, connection)?;
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        let made = change(&transaction).map_err(sql)?;
        transaction.commit().map_err(sql)?;
        Ok(made)
    }
}

impl Journal for SqliteJournal {
    fn snapshot(&mut self) -> Result<Option<Snapshot>, JournalError> {
        let path = self.path().to_path_buf();
        let query = "select seq, state, machine, digest from snapshots order by seq desc limit 1";
        let connection = self.connection()?;
        let found = connection.query_row(query, [], |row| {
            let (seq, state, machine): (i64, u32, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let is_whole = row.get::<_, String>(3)? == digest(seq, &machine);
            Ok(is_whole.then_some(Snapshot { records: seq.unsigned_abs(), state, machine }))
        });
        Ok(found.optional().map_err(|error| from_sqlite(&path, error))?.flatten())
    }

    fn replay(&mut self, after: u64, absorb: &mut dyn FnMut(Record)) -> Result<(), JournalError> {
        self.last_seq = self.read(after, absorb)?;
        Ok(())
    }

    fn append(&mut self, records: &[&Record]) -> Result<(), JournalError> {
        let mut seq = self.last_seq;
        let mut bytes = 0;
        let appended = self.change(|transaction| {
            let insert = "insert into records (seq, record) values (?1, ?2)";
            let mut statement = transaction.prepare_cached(insert)?;
            for record in records {
                seq += 1;
                let line = line(record);
                bytes += line.len();
                statement.execute(params![seq, line])?;
            }
            Ok(())
        });
        tracing::Span::current().record("bytes", bytes as i64);
        if appended.is_ok() || planted(Mutation::BelieveFailedCommits) {
            self.last_seq = seq;
            return Ok(());
        }
        appended
    }

    fn keep_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), JournalError> {
        let Snapshot { records, state, machine } = snapshot;
        let seq = records.cast_signed();
        self.change(|transaction| {
            transaction.execute("delete from snapshots", [])?;
            let insert = "insert into snapshots (seq, state, machine, digest) values (?1, ?2, ?3, ?4)";
            transaction.execute(insert, params![seq, state, machine, digest(seq, machine)]).map(|_| ())
        })
    }
}

/// A record's text in the journal.
pub(super) fn line(record: &Record) -> String {
    serde_json::to_string(record).expect("a record holds only what JSON can state")
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Record, JournalError> {
    serde_json::from_str(text).map_err(|error| {
        let start: String = text.chars().take(80).collect();
        JournalError::Damaged { path: path.into(), reason: format!("the record {start:?} is not understood: {error}") }
    })
}

/// What tells that a snapshot is whole, and of so many records.
fn digest(seq: i64, machine: &[u8]) -> String {
    blake3::Hasher::new().update(&seq.to_le_bytes()).update(machine).finalize().to_hex().to_string()
}

/// Moves the write-ahead log into the database and syncs that. After a failed sync the log's last frames may be in the
/// page cache alone, where a replay reads them and no later sync writes them: what would be appended behind them could
/// not be read after a power cut.
fn settle(path: &Path, connection: &Connection) -> Result<(), JournalError> {
    let busy: i64 = connection
        .query_row("pragma wal_checkpoint(truncate)", [], |row| row.get(0))
        .map_err(|error| from_sqlite(path, error))?;
    match busy {
        0 => Ok(()),
        _ => Err(JournalError::Io { path: path.into(), reason: "another process reads it".into() }),
    }
}

pub(super) fn from_sqlite(path: &Path, error: rusqlite::Error) -> JournalError {
    let path = path.to_path_buf();
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => JournalError::Full { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => JournalError::Damaged { path, reason },
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            JournalError::Open { path, reason }
        }
        // What is there is no number or text where one must be.
        None => JournalError::Damaged { path, reason },
        Some(_) => JournalError::Io { path, reason },
    }
}

#[cfg(test)]
mod tests;
