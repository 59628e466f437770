//! The simulated disk: what a process that dies within an append leaves behind.

use quern_coordinator::JournalError;
use quern_coordinator::simulation::{Journal, RunIdentity, SqliteJournal};
use quern_machine::{Record, WorkerId};
use quern_sim::dice::Dice;
use quern_sim_vfs::{Fault, Storage};

fn record(id: u64) -> Record {
    Record::WorkerLost { worker: WorkerId(id) }
}

fn try_open(storage: &Storage) -> Result<SqliteJournal, JournalError> {
    let run = RunIdentity { recipe_hash: "simulated".into(), output: "simulated".into() };
    SqliteJournal::open_through(Storage::VFS, &storage.path("run.journal"), &run)
}

fn open(storage: &Storage) -> SqliteJournal {
    let mut journal = try_open(storage).expect("it opens");
    journal.replay(0, &mut |_| {}).expect("it can be read");
    journal
}

/// Lets a fault strike an append of many records behind one, and then cuts the power or kills the process.
fn left_after(fault: Fault, power_cut: bool, seed: u64) -> (bool, Vec<Record>) {
    let storage = Storage::new();
    let mut journal = open(&storage);
    journal.append(&[&record(1)]).expect("nothing is wrong yet");
    storage.disk().arm(Some(fault));
    let long: Vec<_> = (2..500).map(record).collect();
    let appended = journal.append(&long.iter().collect::<Vec<_>>()).is_ok();
    let after = if power_cut { storage.after_power_cut(&mut Dice::new(seed)) } else { storage.after_kill() };
    assert!(!after.disk().is_betrayed());
    drop(journal);
    let mut found = Vec::new();
    let mut journal = open(&after);
    journal.replay(0, &mut |record| found.push(record)).expect("it is whole");
    journal.append(&[&record(1_000)]).expect("it goes on");
    (appended, found)
}

#[test]
fn an_append_within_which_the_process_dies_is_there_whole_or_not_at_all() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..60 {
        for power_cut in [false, true] {
            for fault in [
                Fault::DiesWriting { after: seed % 7, share: seed * 17 % 1_000 },
                Fault::DiesSyncing { after: 0 },
                Fault::SyncFails,
                Fault::WriteFails,
                Fault::WriteIsShort(seed * 17 % 1_000),
            ] {
                let (appended, found) = left_after(fault, power_cut, seed);
                assert!(found.iter().cloned().eq((1..).map(record).take(found.len())), "{found:?}");
                assert!([1, 499].contains(&found.len()), "{fault:?}: {} records", found.len());
                assert!(!appended || found.len() == 499, "{fault:?}: what was appended is gone");
                lengths.insert(found.len());
            }
        }
    }
    assert_eq!(lengths.len(), 2, "both ends are reached");
}

#[test]
fn when_a_sync_lies_a_power_cut_leaves_what_was_there_before_or_damage_that_shows() {
    let mut betrayed = 0;
    for seed in 0..200 {
        let storage = Storage::new();
        let mut journal = open(&storage);
        journal.append(&[&record(1)]).expect("nothing is wrong yet");
        storage.disk().is_lying = true;
        for id in 2..40 {
            journal.append(&[&record(id)]).expect("so it says");
        }
        let after = storage.after_power_cut(&mut Dice::new(seed));
        drop(journal);
        betrayed += u64::from(after.disk().is_betrayed());
        let opened = try_open(&after);
        let mut found = Vec::new();
        if opened.and_then(|mut journal| journal.replay(0, &mut |record| found.push(record))).is_ok() {
            assert!(found.iter().cloned().eq((1..).map(record).take(found.len())), "seed {seed}: {found:?}");
            assert!(!found.is_empty(), "the first was synced");
        }
    }
    assert!(betrayed > 150, "{betrayed}");
}
