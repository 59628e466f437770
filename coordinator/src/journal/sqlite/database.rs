//! The database file: its lock, its connections, whose it is, and its format.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use quern_machine::{Mutation, planted};
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::from_sqlite;
use crate::journal::{JournalError, RunIdentity};

/// `qurn`: what the file's header names as its application.
pub(in crate::journal) const APPLICATION: i64 = 0x7175_726e;

/// What each format adds to the one before. This version reads all of them and writes the last one; a format that is new
/// is a line here and a file in `tests/journals`.
const MIGRATIONS: [&str; 2] = [
    "create table run (key text primary key, value text not null) strict;
     create table records (seq integer primary key, record text not null) strict;",
    "create table snapshots (
         seq integer primary key, state integer not null, machine blob not null, digest text not null
     ) strict;",
];

/// A database file.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    /// `None`: the system's.
    vfs: Option<&'static str>,
    _lock: Option<File>,
}

impl Database {
    /// The file at `path`, which nobody else may take until this is dropped. Its folder is created.
    ///
    /// # Errors
    /// When somebody else has taken it, or the lock can't be had.
    pub fn locked(path: &Path) -> Result<Self, JournalError> {
        Ok(Database { path: path.into(), vfs: None, _lock: Some(lock(path)?) })
    }

    /// The file at `path` of another VFS.
    pub fn through(vfs: &'static str, path: &Path) -> Self {
        Database { path: path.into(), vfs: Some(vfs), _lock: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it, and checks that it is whole.
    ///
    /// # Errors
    /// When it can't be opened, or isn't.
    pub fn connect(&self) -> Result<Connection, JournalError> {
        let sql = |error| from_sqlite(&self.path, error);
        let connection = match self.vfs {
            None => Connection::open(&self.path),
            Some(vfs) => Connection::open_with_flags_and_vfs(&self.path, OpenFlags::default(), vfs),
        };
        let connection = connection.map_err(sql)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(sql)?;
        let synchronous = if planted(Mutation::JournalWithoutSync) { "off" } else { "full" };
        connection.pragma_update(None, "synchronous", synchronous).map_err(sql)?;
        let verdict: String = connection.query_row("pragma quick_check(1)", [], |row| row.get(0)).map_err(sql)?;
        if verdict != "ok" {
            return Err(JournalError::Damaged { path: self.path.clone(), reason: verdict });
        }
        Ok(connection)
    }

    /// Checks that it is this run's journal, and brings it to this version's format; begins it when it is empty.
    ///
    /// # Errors
    /// When it is another run's, another application's or a newer version's.
    pub fn identify(&self, connection: &mut Connection, run: &RunIdentity) -> Result<(), JournalError> {
        let path = &self.path;
        let sql = |error| from_sqlite(path, error);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        let number = |query: &str| transaction.query_row(query, [], |row| row.get::<_, i64>(0)).map_err(sql);
        let application = number("pragma application_id")?;
        let format = number("pragma user_version")?;
        let tables = number("select count(*) from sqlite_schema")?;
        if tables > 0 && application != APPLICATION {
            return Err(JournalError::Damaged {
                path: path.into(),
                reason: "it is another application's database".into(),
            });
        }
        let known = MIGRATIONS.len() as i64;
        if format > known {
            return Err(JournalError::Newer { path: path.into(), found: format, known });
        }
        let done = if tables > 0 { usize::try_from(format).unwrap_or(0) } else { 0 };
        for migration in &MIGRATIONS[done..] {
            transaction.execute_batch(migration).map_err(sql)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION).map_err(sql)?;
        transaction.pragma_update(None, "user_version", known).map_err(sql)?;
        for (key, what, expected) in
            [("recipe_hash", "recipe hash", &run.recipe_hash), ("output", "output", &run.output)]
        {
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
