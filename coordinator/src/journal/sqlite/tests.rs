use quern_machine::{Config, End, Incarnation, Machine, Record, StageConfig, WorkerId};
use tempfile::TempDir;

use super::*;

fn run() -> RunIdentity {
    RunIdentity { recipe_hash: "abc".into(), output: "/out".into() }
}

fn records() -> Vec<Record> {
    vec![
        Record::CoordinatorStarted { incarnation: Incarnation(1), at_ms: 5, until_ms: 105, behind: false },
        Record::WorkerLost { worker: WorkerId(3) },
        Record::RunFailed { cause: "a “quoted” cause".into() },
    ]
}

fn append(journal: &mut SqliteJournal, records: &[Record]) -> Result<(), JournalError> {
    journal.append(&records.iter().collect::<Vec<_>>())
}

fn replay(journal: &mut SqliteJournal) -> Result<Vec<Record>, JournalError> {
    let mut found = Vec::new();
    journal.replay(0, &mut |record| found.push(record))?;
    Ok(found)
}

#[test]
fn what_is_appended_is_replayed_in_order_after_reopening() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("deep/run.journal");
    let mut journal = SqliteJournal::open(&path, &run()).unwrap();
    assert_eq!(replay(&mut journal).unwrap(), []);
    append(&mut journal, &records()[..1]).unwrap();
    append(&mut journal, &records()[1..]).unwrap();
    drop(journal);
    let mut journal = SqliteJournal::open(&path, &run()).unwrap();
    assert_eq!(replay(&mut journal).unwrap(), records());
    append(&mut journal, &[Record::RunFinished]).unwrap();
    assert_eq!(replay(&mut journal).unwrap().len(), 4);
}

#[test]
fn commits_are_synced_to_the_disk() {
    let folder = TempDir::new().unwrap();
    let mut journal = SqliteJournal::open(&folder.path().join("j"), &run()).unwrap();
    let connection = journal.connection().unwrap();
    let mode: String = connection.query_row("pragma journal_mode", [], |row| row.get(0)).unwrap();
    let synchronous: i64 = connection.query_row("pragma synchronous", [], |row| row.get(0)).unwrap();
    assert_eq!((mode.as_str(), synchronous), ("wal", 2));
}

#[test]
fn a_second_coordinator_is_kept_out_until_the_first_is_gone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("j");
    let journal = SqliteJournal::open(&path, &run()).unwrap();
    assert!(matches!(SqliteJournal::open(&path, &run()), Err(JournalError::InUse { .. })));
    drop(journal);
    SqliteJournal::open(&path, &run()).unwrap();
}

#[test]
fn the_journal_of_another_run_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("j");
    drop(SqliteJournal::open(&path, &run()).unwrap());
    let other_recipe = RunIdentity { recipe_hash: "xyz".into(), ..run() };
    let error = SqliteJournal::open(&path, &other_recipe).unwrap_err().to_string();
    assert!(error.contains("its recipe hash is abc, here it is xyz"), "{error}");
    let other_output = RunIdentity { output: "/elsewhere".into(), ..run() };
    let error = SqliteJournal::open(&path, &other_output).unwrap_err().to_string();
    assert!(error.contains("its output is /out, here it is /elsewhere"), "{error}");
}

#[test]
fn damage_is_said_in_one_sentence() {
    let folder = TempDir::new().unwrap();
    let garbage = folder.path().join("garbage");
    std::fs::write(&garbage, "this is not a database, and it is long enough to look like one".repeat(20)).unwrap();
    assert!(matches!(SqliteJournal::open(&garbage, &run()), Err(JournalError::Damaged { .. })));

    let foreign = folder.path().join("foreign");
    Connection::open(&foreign).unwrap().execute_batch("create table accounts (id integer)").unwrap();
    let error = SqliteJournal::open(&foreign, &run()).unwrap_err().to_string();
    assert!(error.contains("another application's database"), "{error}");

    let path = folder.path().join("gap");
    let mut journal = SqliteJournal::open(&path, &run()).unwrap();
    replay(&mut journal).unwrap();
    append(&mut journal, &records()).unwrap();
    journal.connection().unwrap().execute("delete from records where seq = 2", []).unwrap();
    let error = replay(&mut journal).unwrap_err().to_string();
    assert!(error.contains("record 2 is missing"), "{error}");

    let update = "update records set record = '{\"record\":\"of_the_future\"}' where seq = 1";
    journal.connection().unwrap().execute(update, []).unwrap();
    let error = replay(&mut journal).unwrap_err().to_string();
    assert!(error.contains("of_the_future") && error.contains("is not understood"), "{error}");
}

#[test]
fn a_truncated_file_is_found_before_it_is_used() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("j");
    let mut journal = SqliteJournal::open(&path, &run()).unwrap();
    replay(&mut journal).unwrap();
    for _ in 0..200 {
        append(&mut journal, &records()).unwrap();
        replay(&mut journal).unwrap();
    }
    drop(journal);
    let length = std::fs::metadata(&path).unwrap().len();
    assert!(length > 8192, "the test needs a journal of several pages");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
    let opened = SqliteJournal::open(&path, &run()).and_then(|mut journal| replay(&mut journal));
    assert!(matches!(opened, Err(JournalError::Damaged { .. })), "{opened:?}");
}

#[test]
fn a_journal_of_a_newer_format_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("j");
    drop(SqliteJournal::open(&path, &run()).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 3).unwrap();
    assert!(matches!(SqliteJournal::open(&path, &run()), Err(JournalError::Newer { found: 3, known: 2, .. })));
}

#[test]
fn a_snapshot_is_kept_in_place_of_the_one_before_and_not_used_when_it_is_damaged() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("j");
    let mut journal = SqliteJournal::open(&path, &run()).unwrap();
    assert_eq!(journal.snapshot().unwrap(), None);
    replay(&mut journal).unwrap();
    let started = records().swap_remove(0);
    let paused = Record::RunPaused { reason: "for a test".into() };
    let records: [Record; 3] = [started, paused, Record::RunUnpaused];
    append(&mut journal, &records).unwrap();
    let config = Config::new(60_000, 2);
    let mut machine = Machine::new(config);
    for (count, record) in (1..).zip(&records) {
        machine.absorb(record);
        journal.keep_snapshot(&Snapshot::of(&machine, count)).unwrap();
    }
    drop(journal);

    let mut journal = SqliteJournal::open(&path, &run()).unwrap();
    let kept = journal.snapshot().unwrap().unwrap();
    assert_eq!((kept.records(), kept.machine(config)), (3, Some(machine)));
    let mut after = Vec::new();
    journal.replay(2, &mut |record| after.push(record)).unwrap();
    assert_eq!(after, records[2..]);
    let of_another_version = Snapshot { state: kept.state + 1, ..kept };
    assert_eq!(of_another_version.machine(config), None);

    journal.connection().unwrap().execute("update snapshots set seq = 2", []).unwrap();
    assert_eq!(journal.snapshot().unwrap(), None, "its digest is not this one's");
    let error = journal.replay(4, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("record 4 is missing"), "{error}");
}

/// SQLite's own limit on pages gives the error of a full disk.
#[test]
fn a_full_disk_loses_nothing_and_is_left_again() {
    let folder = TempDir::new().unwrap();
    let mut journal = SqliteJournal::open(&folder.path().join("j"), &run()).unwrap();
    replay(&mut journal).unwrap();
    append(&mut journal, &records()).unwrap();
    let connection = journal.connection().unwrap();
    let pages: i64 = connection.query_row("pragma page_count", [], |row| row.get(0)).unwrap();
    // Answers with the new limit, so it is a query.
    let _: i64 = connection.query_row(&format!("pragma max_page_count = {pages}"), [], |row| row.get(0)).unwrap();
    let large: Vec<_> = (0..50).map(|_| Record::RunFailed { cause: "x".repeat(1000) }).collect();
    assert!(matches!(append(&mut journal, &large), Err(JournalError::Full { .. })));
    assert_eq!(replay(&mut journal).unwrap(), records(), "all or nothing");
    // Reopened, the limit is gone: there is space again.
    append(&mut journal, &large).unwrap();
    assert_eq!(replay(&mut journal).unwrap().len(), 53);
}

#[test]
fn a_backup_is_taken_while_the_journal_is_written() {
    let folder = TempDir::new().unwrap();
    let (path, copy) = (folder.path().join("run.journal"), folder.path().join("copy.journal"));
    let mut journal = SqliteJournal::open(&path, &run()).unwrap();
    append(&mut journal, &records()).unwrap();
    assert_eq!(crate::back_up(&path, &copy).unwrap(), 3);
    append(&mut journal, &[Record::RunFinished]).unwrap();
    assert_eq!(replay(&mut journal).unwrap().len(), 4);

    let mut restored = SqliteJournal::open(&copy, &run()).unwrap();
    assert_eq!(replay(&mut restored).unwrap(), records());
    append(&mut restored, &[Record::RunFinished]).unwrap();

    let refused = crate::back_up(&path, &copy).unwrap_err();
    assert!(matches!(refused, JournalError::Open { .. }), "{refused}");
    assert_eq!(replay(&mut restored).unwrap().len(), 4, "what is there is left alone");
}

#[test]
fn what_is_no_journal_is_not_backed_up() {
    let folder = TempDir::new().unwrap();
    let (path, copy) = (folder.path().join("run.journal"), folder.path().join("copy.journal"));
    assert!(crate::back_up(&path, &copy).is_err());
    std::fs::write(&path, "this is no journal, but a text of some length: longer than the header is").unwrap();
    assert!(matches!(crate::back_up(&path, &copy), Err(JournalError::Damaged { .. })));
    Connection::open(folder.path().join("other")).unwrap().execute_batch("create table t (a)").unwrap();
    assert!(matches!(crate::back_up(&folder.path().join("other"), &copy), Err(JournalError::Damaged { .. })));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("copy")), "{left:?}");
}

/// A journal of `tests/journals`, copied to where it can be changed, and opened.
fn kept(folder: &TempDir, name: &str, recipe_hash: &str, output: &str) -> SqliteJournal {
    let kept = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/journals")).join(name);
    let path = folder.path().join(name);
    std::fs::copy(kept, &path).unwrap();
    SqliteJournal::open(&path, &RunIdentity { recipe_hash: recipe_hash.into(), output: output.into() }).unwrap()
}

/// What a journal's records come to; if it keeps a snapshot that this version takes, that has to come to the same.
fn come_to(journal: &mut SqliteJournal, config: Config) -> Machine {
    let records = replay(journal).unwrap();
    let absorbed = |records: &[Record]| {
        let mut machine = Machine::new(config);
        records.iter().for_each(|record| machine.absorb(record));
        machine
    };
    if let Some(snapshot) = journal.snapshot().unwrap()
        && let Some(machine) = snapshot.machine(config)
    {
        assert_eq!(machine, absorbed(&records[..snapshot.records() as usize]), "raise quern_machine::STATE");
    }
    absorbed(&records)
}

/// `tests/journals/README.md` says what is in each.
#[test]
fn journals_of_earlier_versions_are_replayed() {
    let stage = |ranks, steps| Some(StageConfig { ranks, steps });
    let stages = Config { stage1: stage(2, 10), stage2: stage(1, 4), ..Config::new(60_000, 2) };
    let tasks = Config { stage1: stage(1, 4), evaluate: true, export: true, ..Config::new(3_000, 3) };
    let hashes = [
        "7e88f7a8a11fe9932a42c16db58d2e09aa9b19ab958c09b8f6cede703dd4e164",
        "e5970faf4d3e2eca4009e9a0029d3c13cf6373c98ededc41c9f075c2bd128b06",
    ];
    for (name, recipe_hash, output, config, end, shards) in [
        ("2026-11-26.sqlite", hashes[0], "/tmp/.tmpEwKZDA/out", stages, Some(End::Done), 2),
        ("2026-11-28.sqlite", hashes[1], "/tmp/kept/out", tasks, Some(End::Done), 2),
        ("2026-11-28-rebuilt.sqlite", hashes[1], "/tmp/kept/out", tasks, None, 2),
    ] {
        let folder = TempDir::new().unwrap();
        let mut journal = kept(&folder, name, recipe_hash, output);
        let connection = journal.connection().unwrap();
        let format: i64 = connection.query_row("pragma user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(format, 2, "{name} is brought to this version's format");
        let machine = come_to(&mut journal, config);
        assert_eq!(machine.invariants(), Ok(()), "{name}");
        assert_eq!((machine.end(), machine.settled_shards().len()), (end.as_ref(), shards), "{name}");
        append(&mut journal, &[Record::RunFinished]).unwrap();
    }
}
