//! A copy of a journal, taken while its coordinator works.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::JournalError;
use super::sqlite::{APPLICATION, from_sqlite};

/// Copies the journal `from` into the file `to`, which must not be there yet, and checks the copy. Gives the number of
/// records in it: all that were durable when the copying began. A coordinator that works with `from` is not held up.
///
/// # Errors
/// When `from` is no journal, or `to` is there already or can't be written; then nothing is at `to`.
pub fn back_up(from: &Path, to: &Path) -> Result<u64, JournalError> {
    let unfinished = PathBuf::from(format!("{}.part", to.display()));
    let unwritten = |error: std::io::Error| JournalError::Open { path: to.into(), reason: error.to_string() };
    if to.exists() {
        return Err(unwritten(std::io::ErrorKind::AlreadyExists.into()));
    }
    // What an earlier try left.
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(unwritten(error)),
        _ => {}
    }
    let copied = copy(from, &unfinished);
    let kept = copied.and_then(|records| {
        let synced = File::open(&unfinished).and_then(|file| file.sync_all());
        let renamed = synced.and_then(|()| std::fs::rename(&unfinished, to)).and_then(|()| sync_folder(to));
        renamed.map(|()| records).map_err(unwritten)
    });
    if kept.is_err() {
        // The error says more than one about the file that is left.
        let _ = std::fs::remove_file(&unfinished);
    }
    kept
}

fn copy(from: &Path, to: &Path) -> Result<u64, JournalError> {
    let read = |error| from_sqlite(from, error);
    let write = |error| from_sqlite(to, error);
    let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(read)?;
    let application: i64 = source.query_row("pragma application_id", [], |row| row.get(0)).map_err(read)?;
    if application != APPLICATION {
        return Err(JournalError::Damaged { path: from.into(), reason: "it is another application's file".into() });
    }
    let mut target = Connection::open(to).map_err(write)?;
    {
        let backup = Backup::new(&source, &mut target).map_err(write)?;
        // One step: a reader of a write-ahead log sees one moment, and holds up no writer.
        match backup.step(-1).map_err(read)? {
            StepResult::Done => {}
            other => {
                return Err(JournalError::Io { path: from.into(), reason: format!("the copy did not end: {other:?}") });
            }
        }
    }
    let verdict: String = target.query_row("pragma integrity_check(1)", [], |row| row.get(0)).map_err(write)?;
    if verdict != "ok" {
        return Err(JournalError::Damaged { path: to.into(), reason: verdict });
    }
    let records: i64 = target.query_row("select count(*) from records", [], |row| row.get(0)).map_err(write)?;
    target.close().map_err(|(_, error)| write(error))?;
    Ok(records.unsigned_abs())
}

/// Makes a rename last.
fn sync_folder(of: &Path) -> std::io::Result<()> {
    match of.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}
