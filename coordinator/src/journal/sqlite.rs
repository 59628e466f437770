//! The journal as an SQLite database (WAL, `synchronous = FULL`): an operator can look at it with the standard tool,
//!
//! ```text
//! sqlite3 run.journal "select seq, record from records order by seq desc limit 5"
//! ```
//!
//! Table `records(seq, record)` holds one JSON object per record, `seq` from 1 without gaps; table `run(key, value)`
//! says which run it is. A lock on the file `{journal}.lock` keeps a second coordinator out.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use quern_machine::Record;
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use super::{Journal, JournalError, RunIdentity};

/// `qurn`: what the file's header names as its application.
pub(super) const APPLICATION: i64 = 0x7175_726e;
/// The newest format of the tables and the records' JSON that this version reads; it is what it writes.
const FORMAT: i64 = 1;

const TABLES: &str = "
    create table if not exists run (key text primary key, value text not null) strict;
    create table if not exists records (seq integer primary key, record text not null) strict;
";

/// A journal in an SQLite database.
#[derive(Debug)]
pub struct SqliteJournal {
    path: PathBuf,
    /// `None` after a failure: the next replay opens anew, so that nothing of the failed transaction lingers.
    connection: Option<Connection>,
    last_seq: i64,
    /// Whether a sync may have failed since all that can be read was made durable: this process' or an earlier one's.
    is_doubtful: bool,
    _lock: File,
}

impl SqliteJournal {
    /// Opens the journal of a run, or begins it.
    ///
    /// # Errors
    /// When the file can't be used, is in use, damaged, or of another run.
    pub fn open(path: &Path, run: &RunIdentity) -> Result<Self, JournalError> {
        let lock = lock(path)?;
        let mut connection = connect(path)?;
        identify(path, &mut connection, run)?;
        Ok(SqliteJournal {
            path: path.into(),
            connection: Some(connection),
            last_seq: 0,
            is_doubtful: true,
            _lock: lock,
        })
    }

    fn connection(&mut self) -> Result<&mut Connection, JournalError> {
        if self.connection.is_none() {
            self.connection = Some(connect(&self.path)?);
        }
        Ok(self.connection.as_mut().expect("it has just been opened"))
    }

    fn read(&mut self, absorb: &mut dyn FnMut(Record)) -> Result<i64, JournalError> {
        let path = self.path.clone();
        let sql = |error| from_sqlite(&path, error);
        let connection = self.connection()?;
        let mut statement = connection.prepare("select seq, record from records order by seq").map_err(sql)?;
        let mut rows = statement.query([]).map_err(sql)?;
        let mut last_seq = 0;
        while let Some(row) = rows.next().map_err(sql)? {
            let seq: i64 = row.get(0).map_err(sql)?;
            let text: String = row.get(1).map_err(sql)?;
            if seq != last_seq + 1 {
                let reason = format!("record {} is missing", last_seq + 1);
                return Err(JournalError::Damaged { path, reason });
            }
            absorb(parse(&path, &text)?);
            last_seq = seq;
        }
        Ok(last_seq)
    }

    fn write(&mut self, records: &[&Record]) -> Result<i64, JournalError> {
        let path = self.path.clone();
        let sql = |error| from_sqlite(&path, error);
        let mut seq = self.last_seq;
        let mut bytes = 0;
        let is_doubtful = self.is_doubtful;
        let connection = self.connection()?;
        if is_doubtful {
            settle(&path, connection)?;
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        {
            let insert = "insert into records (seq, record) values (?1, ?2)";
            let mut statement = transaction.prepare_cached(insert).map_err(sql)?;
            for record in records {
                seq += 1;
                let line = line(record);
                bytes += line.len();
                statement.execute(params![seq, line]).map_err(sql)?;
            }
        }
        transaction.commit().map_err(sql)?;
        tracing::Span::current().record("bytes", bytes as i64);
        Ok(seq)
    }
}

impl Journal for SqliteJournal {
    fn replay(&mut self, absorb: &mut dyn FnMut(Record)) -> Result<(), JournalError> {
        self.last_seq = self.read(absorb)?;
        Ok(())
    }

    fn append(&mut self, records: &[&Record]) -> Result<(), JournalError> {
        match self.write(records) {
            Ok(last_seq) => {
                self.is_doubtful = false;
                self.last_seq = last_seq;
                Ok(())
            }
            Err(error) => {
                self.connection = None;
                self.is_doubtful = true;
                Err(error)
            }
        }
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

fn lock(path: &Path) -> Result<File, JournalError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let open = |reason: std::io::Error| JournalError::Open { path: path.into(), reason: reason.to_string() };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(open)?;
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(PathBuf::from(name)).map_err(open)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse { path: path.into() }),
        Err(TryLockError::Error(error)) => Err(open(error)),
    }
}

fn connect(path: &Path) -> Result<Connection, JournalError> {
    let sql = |error| from_sqlite(path, error);
    let connection = Connection::open(path).map_err(sql)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(sql)?;
    connection.pragma_update(None, "synchronous", "full").map_err(sql)?;
    let verdict: String = connection.query_row("pragma quick_check(1)", [], |row| row.get(0)).map_err(sql)?;
    if verdict != "ok" {
        return Err(JournalError::Damaged { path: path.into(), reason: verdict });
    }
    Ok(connection)
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

/// Checks that the database is this run's journal; makes it so when it is empty.
fn identify(path: &Path, connection: &mut Connection, run: &RunIdentity) -> Result<(), JournalError> {
    let sql = |error| from_sqlite(path, error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    let number = |pragma| transaction.query_row(&format!("pragma {pragma}"), [], |row| row.get::<_, i64>(0));
    let application = number("application_id").map_err(sql)?;
    let format = number("user_version").map_err(sql)?;
    let tables: i64 = transaction.query_row("select count(*) from sqlite_schema", [], |row| row.get(0)).map_err(sql)?;
    if tables > 0 && application != APPLICATION {
        return Err(JournalError::Damaged { path: path.into(), reason: "it is another application's database".into() });
    }
    if format > FORMAT {
        return Err(JournalError::Newer { path: path.into(), found: format, known: FORMAT });
    }
    transaction.execute_batch(TABLES).map_err(sql)?;
    transaction.pragma_update(None, "application_id", APPLICATION).map_err(sql)?;
    transaction.pragma_update(None, "user_version", FORMAT).map_err(sql)?;
    for (key, what, expected) in [("recipe_hash", "recipe hash", &run.recipe_hash), ("output", "output", &run.output)] {
        let read = "select value from run where key = ?1";
        let found: Option<String> = transaction.query_row(read, [key], |row| row.get(0)).optional().map_err(sql)?;
        match found {
            None => {
                let write = "insert into run (key, value) values (?1, ?2)";
                transaction.execute(write, params![key, expected]).map_err(sql)?;
            }
            Some(found) if found != *expected => {
                let expected = expected.clone();
                return Err(JournalError::OtherRun { path: path.into(), what, found, expected });
            }
            Some(_) => {}
        }
    }
    transaction.commit().map_err(sql)
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
        _ => JournalError::Io { path, reason },
    }
}

#[cfg(test)]
mod tests;
