//! What is measured of a run's journal.

use std::path::PathBuf;
use std::sync::Arc;

use quern_machine::Record;

use super::RunMetrics;
use super::histogram::{ANSWER_SECONDS, Histogram};
use super::page::{Page, of, one};
use crate::access::Count;
use crate::journal::{Journal, JournalError, Snapshot};

/// Upper bounds for the records of one sync.
const BATCH_RECORDS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 2_048.0, 4_096.0, 8_192.0];

/// A journal's measurements.
#[derive(Debug)]
pub(crate) struct JournalMetrics {
    path: PathBuf,
    sync: Histogram,
    batch_records: Histogram,
    full: Count,
    failed: Count,
}

impl JournalMetrics {
    pub fn new(path: PathBuf) -> Self {
        let (sync, batch_records) = (Histogram::new(ANSWER_SECONDS), Histogram::new(BATCH_RECORDS));
        JournalMetrics { path, sync, batch_records, full: Count::default(), failed: Count::default() }
    }

    pub fn tell(&self, page: &mut Page) {
        let help = "Time to append a batch of records to the journal and to sync it.";
        page.histogram("quern_journal_sync_seconds", help, &self.sync);
        page.histogram("quern_journal_batch_records", "Records of one sync of the journal.", &self.batch_records);
        let failures = [("full", &self.full), ("other", &self.failed)];
        let failures = failures.map(|(reason, count)| ([("reason", reason)], count.get() as f64));
        let help = "Attempts to use the journal that failed, by reason; it is tried again until it works.";
        page.counter("quern_journal_failures_total", help, of(&failures));
        let bytes = one(self.bytes() as f64);
        page.gauge("quern_journal_size_bytes", "Size of the journal with its write-ahead log.", bytes);
    }

    fn note(&self, error: &JournalError) {
        match error {
            JournalError::Full { .. } => self.full.add(),
            _ => self.failed.add(),
        }
    }

    fn bytes(&self) -> u64 {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        [self.path.clone(), log.into()].iter().filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    }
}

/// A journal whose syncs and failures are measured.
pub(crate) struct Measured<J> {
    pub journal: J,
    pub metrics: Arc<RunMetrics>,
}

impl<J: Journal> Journal for Measured<J> {
    fn snapshot(&mut self) -> Result<Option<Snapshot>, JournalError> {
        self.journal.snapshot().inspect_err(|error| self.metrics.journal.note(error))
    }

    fn replay(&mut self, after: u64, absorb: &mut dyn FnMut(Record)) -> Result<(), JournalError> {
        self.journal.replay(after, absorb).inspect_err(|error| self.metrics.journal.note(error))
    }

    fn append(&mut self, records: &[&Record]) -> Result<(), JournalError> {
        let metrics = &self.metrics.journal;
        metrics.batch_records.observe(records.len() as f64);
        let _syncing = metrics.sync.time();
        self.journal.append(records).inspect_err(|error| metrics.note(error))
    }

    fn keep_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), JournalError> {
        self.journal.keep_snapshot(snapshot).inspect_err(|error| self.metrics.journal.note(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal on a disk that is full.
    struct Full;

    impl Journal for Full {
        fn snapshot(&mut self) -> Result<Option<Snapshot>, JournalError> {
            Ok(None)
        }

        fn replay(&mut self, _: u64, _: &mut dyn FnMut(Record)) -> Result<(), JournalError> {
            Err(JournalError::Io { path: "j".into(), reason: "unplugged".into() })
        }

        fn append(&mut self, _: &[&Record]) -> Result<(), JournalError> {
            Err(JournalError::Full { path: "j".into() })
        }

        fn keep_snapshot(&mut self, _: &Snapshot) -> Result<(), JournalError> {
            Ok(())
        }
    }

    #[test]
    fn syncs_and_failures_are_counted_and_handed_on() {
        let metrics = Arc::new(RunMetrics::new("nowhere".into()));
        let mut journal = Measured { journal: Full, metrics: Arc::clone(&metrics) };
        assert!(
            journal.append(&[]).is_err() && journal.append(&[]).is_err() && journal.replay(0, &mut |_| {}).is_err()
        );
        let JournalMetrics { sync, batch_records, full, failed, .. } = &metrics.journal;
        assert_eq!((sync.count(), batch_records.count(), full.get(), failed.get()), (2, 2, 2, 1));
    }

    #[test]
    fn the_write_ahead_log_is_part_of_the_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j.sqlite");
        std::fs::write(&path, [0; 100]).unwrap();
        std::fs::write(folder.path().join("j.sqlite-wal"), [0; 11]).unwrap();
        assert_eq!(JournalMetrics::new(path).bytes(), 111);
    }
}
