//! CapFilt's output folder is byte-identical for any number of workers, under delays, kills and restarts, and every
//! input row is in it exactly once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::sync::OnceLock;

use crate::harness::{FILES, ROWS_PER_FILE, Run, corpus, free_port, rewrite, root, until, worker};

/// What one worker writes when nothing goes wrong: all other tests must find the same.
fn reference() -> &'static BTreeMap<String, Vec<u8>> {
    static REFERENCE: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let run = Run::capfilt(corpus());
        let status = run.run_locally(1);
        assert_eq!(status.code(), Some(3), "one file is unreadable, so the run ends with quarantined shards");
        run.verify();
        run.bytes()
    })
}

fn assert_same(run: &Run, what: &str) {
    run.verify();
    let (expected, found) = (reference(), run.bytes());
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(expected), names(&found), "{what}: other files");
    for (name, bytes) in expected {
        assert!(found[name] == *bytes, "{what}: {name} has other bytes");
    }
}

#[test]
fn the_reference_accounts_for_every_row() {
    let manifest = &reference()["manifest.json"];
    let manifest: serde_json::Value = serde_json::from_slice(manifest).expect("JSON");
    let totals = &manifest["totals"];
    let count = |name: &str| totals[name].as_u64().unwrap_or_else(|| panic!("totals.{name} in {totals}"));
    assert_eq!(count("rows"), (ROWS_PER_FILE * FILES) as u64);
    assert_eq!(count("quarantined"), 2, "the truncated image and the missing one");
    assert_eq!(count("kept"), (ROWS_PER_FILE * FILES - 2) as u64, "the row without a caption is kept");
    assert!(manifest.to_string().contains("zz-broken.parquet") || manifest.to_string().contains("web-00002"));
}

#[test]
fn an_unfiltered_data_set_passes_what_can_be_trained_on() {
    let run = Run::pass_through(corpus());
    run.run_locally(1);
    run.verify();
    let manifest: serde_json::Value = serde_json::from_slice(&run.bytes()["manifest.json"]).expect("JSON");
    let count = |name: &str| manifest["totals"][name].as_u64().expect("a count");
    assert_eq!((count("kept"), count("passed") + count("quarantined")), (0, (ROWS_PER_FILE * FILES) as u64));
    let quarantines = run.bytes().into_iter().filter(|(name, _)| name.starts_with("quarantine/web-00000-"));
    let rows =
        quarantines.flat_map(|(_, bytes)| quern_capfilt::read_quarantine(bytes.into()).expect("a quarantine part"));
    let stages: BTreeMap<u64, &str> = rows.map(|row| (row.id.row, row.stage.as_str())).collect();
    assert_eq!(stages.get(&3), Some(&"decode"), "the truncated image: {stages:?}");
    assert_eq!((stages.get(&10), stages.get(&17)), (Some(&"read"), Some(&"read")), "no image, no caption: {stages:?}");
}

#[test]
fn two_and_three_workers_write_the_same_bytes() {
    for workers in [2, 3] {
        let run = Run::capfilt(corpus());
        run.run_locally(workers);
        assert_same(&run, &format!("{workers} workers"));
    }
}

/// Filters look at a shard's rows in order and at nothing else: what they refuse doesn't depend on who does which shard.
#[test]
fn filters_refuse_the_same_on_any_number_of_workers() {
    let filtered = |workers| {
        let run = Run::capfilt(corpus());
        let plain = fs::read_to_string(run.recipe()).expect("the recipe");
        let filters = "  candidates: 3\n  filters: { min_score: 0.65, max_words: 11, dedup: shard }\n";
        fs::write(run.recipe(), plain.replace("  candidates: 3\n", filters)).expect("written");
        run.run_locally(workers);
        run.verify();
        run.bytes()
    };
    let (one, two) = (filtered(1), filtered(2));
    assert!(one == two, "other bytes with two workers");
    let manifest: serde_json::Value = serde_json::from_slice(&one["manifest.json"]).expect("JSON");
    let count = |name: &str| manifest["totals"][name].as_u64().expect("a count");
    assert_eq!(count("kept") + count("quarantined"), (ROWS_PER_FILE * FILES) as u64);
    assert!(count("kept") > 0);
    let parts = manifest["parts"].as_array().expect("parts");
    let refused = parts.iter().filter_map(|part| part["reasons"]["rank/below_threshold"].as_u64()).sum::<u64>();
    assert!(refused > 0 && refused < count("quarantined"), "{refused} rows are below the threshold");
}

#[test]
fn the_truth_column_is_never_read() {
    let copy = tempfile::TempDir::new().expect("a temporary folder");
    let files = fs::read_dir(corpus()).expect("the corpus").map(|entry| entry.expect("an entry").path());
    let files: Vec<_> = files.map(|from| (copy.path().join(from.file_name().expect("a name")), from)).collect();
    for (to, from) in &files {
        fs::copy(from, to).expect("copied");
    }
    let with = Run::capfilt(copy.path());
    with.run_locally(1);
    for (file, _) in files.iter().filter(|(file, _)| !file.ends_with("zz-broken.parquet")) {
        rewrite(file, |batch| {
            let schema = batch.schema();
            let keep: Vec<usize> =
                (0..batch.num_columns()).filter(|&index| schema.field(index).name() != "truth").collect();
            assert_eq!(keep.len() + 1, batch.num_columns(), "there was a truth column to drop");
            batch.project(&keep).expect("fewer columns")
        });
    }
    let without = Run::capfilt(copy.path());
    without.run_locally(1);
    without.verify();
    assert_eq!(with.bytes(), without.bytes(), "without truth");
}

/// A faulty worker beside a sound one; the sound one starts when the faulty one is dead or when it is slow.
fn with_faulty_worker(faults: &[&str], dies: bool) {
    let run = Run::capfilt(corpus());
    let port = free_port();
    let mut coordinator = run.coordinator(port);
    let mut faulty = worker(port, "faulty", faults);
    if dies {
        assert_eq!(faulty.wait().signal(), Some(libc::SIGKILL), "{faults:?} kills; its log:\n{}", faulty.log());
    }
    let mut sound = worker(port, "sound", &[]);
    let status = coordinator.wait();
    assert_eq!(status.code(), Some(3), "{faults:?}; the coordinator's log:\n{}", coordinator.log());
    assert!(sound.wait().success(), "the sound worker's log:\n{}", sound.log());
    if !dies {
        assert!(faulty.wait().success(), "the slow worker's log:\n{}", faulty.log());
    }
    assert_same(&run, &format!("{faults:?}"));
}

#[test]
fn delayed_fetches_and_decodes_change_nothing() {
    with_faulty_worker(&["delay-fetch:15", "delay-decode:15"], false);
}

#[test]
fn a_worker_killed_after_its_lease_changes_nothing() {
    with_faulty_worker(&["kill-after-lease:2"], true);
}

#[test]
fn a_worker_killed_within_a_shard_changes_nothing() {
    with_faulty_worker(&["kill-after-row:13"], true);
}

#[test]
fn a_worker_killed_between_upload_and_commit_changes_nothing() {
    with_faulty_worker(&["kill-after-upload:2"], true);
}

#[test]
fn a_worker_killed_after_its_commit_changes_nothing() {
    with_faulty_worker(&["kill-after-commit:2"], true);
}

#[test]
fn a_full_disk_ends_a_worker_with_one_sentence_and_loses_nothing() {
    let run = Run::capfilt(corpus());
    let port = free_port();
    let mut coordinator = run.coordinator(port);
    let mut full = worker(port, "full", &["no-space-at-upload:3"]);
    assert_eq!(full.wait().code(), Some(1), "its log:\n{}", full.log());
    assert!(full.log().contains("no space left on the device; free some and start again"), "{}", full.log());
    let before = run.bytes();
    assert!(before.len() >= 2, "two parts were committed before: {:?}", before.keys());
    let mut sound = worker(port, "sound", &[]);
    assert_eq!(coordinator.wait().code(), Some(3), "the coordinator's log:\n{}", coordinator.log());
    assert!(sound.wait().success(), "the sound worker's log:\n{}", sound.log());
    let after = run.bytes();
    assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "what was committed stays");
    assert_same(&run, "a full disk");
}

#[test]
fn a_killed_coordinator_goes_on_where_it_was() {
    let run = Run::capfilt(corpus());
    let port = free_port();
    let mut coordinator = run.coordinator(port);
    let mut workers = [worker(port, "a", &["delay-fetch:20"]), worker(port, "b", &["delay-fetch:20"])];
    let parts = || fs::read_dir(run.output().join("data")).map_or(0, |entries| entries.count());
    until("two parts are written", || parts() >= 2);
    coordinator.kill();
    let before = parts();
    assert!(before < FILES * ROWS_PER_FILE / 10, "the run was over before the coordinator was killed");
    let mut again = run.coordinator(port);
    let status = again.wait();
    assert_eq!(status.code(), Some(3), "the second coordinator's log:\n{}", again.log());
    for worker in &mut workers {
        assert!(worker.wait().success(), "a worker's log:\n{}", worker.log());
    }
    assert_same(&run, "a restarted coordinator");
}

#[test]
fn a_terminated_worker_hands_its_lease_back() {
    let run = Run::capfilt(corpus());
    let port = free_port();
    let mut coordinator = run.coordinator(port);
    let mut leaving = worker(port, "leaving", &["delay-fetch:50"]);
    until("the first part is written", || run.output().join("data").exists());
    leaving.terminate();
    assert_eq!(leaving.wait().code(), Some(143), "its log:\n{}", leaving.log());
    let mut staying = worker(port, "staying", &[]);
    assert_eq!(coordinator.wait().code(), Some(3), "the coordinator's log:\n{}", coordinator.log());
    assert!(staying.wait().success());
    assert_same(&run, "a terminated worker");
}

#[test]
fn an_image_that_kills_its_decoder_is_quarantined_and_its_shard_is_not() {
    const FAULT: &[&str] = &["crash-at-row:25"];
    let run = Run::capfilt(corpus());
    let port = free_port();
    let mut coordinator = run.coordinator(port);
    let mut crashes = 0;
    loop {
        let mut doomed = worker(port, &format!("doomed-{crashes}"), FAULT);
        let status = doomed.wait();
        if status.success() {
            break;
        }
        assert_eq!(status.signal(), Some(libc::SIGABRT), "its log:\n{}", doomed.log());
        crashes += 1;
    }
    assert_eq!(coordinator.wait().code(), Some(3), "the coordinator's log:\n{}", coordinator.log());
    assert_eq!(crashes, FILES, "each file has one such row, which kills one worker");
    run.verify();
    let quarantines = run.bytes().into_iter().filter(|(name, _)| name.starts_with("quarantine/"));
    let rows =
        quarantines.flat_map(|(_, bytes)| quern_capfilt::read_quarantine(bytes.into()).expect("a quarantine part"));
    let killers: Vec<_> = rows.filter(|row| row.reason == "decoder_crash").collect();
    assert_eq!(killers.len(), FILES, "{killers:?}");
    for row in killers {
        assert_eq!((row.id.row, row.stage.as_str()), (25, "decode"), "{row:?}");
        assert!(row.detail.contains("signal: 6 (SIGABRT)"), "{row:?}");
    }
}

#[test]
fn the_zoo_is_what_the_tests_use() {
    for model in ["blip", "clip"] {
        assert!(root().join("zoo").join(model).join("model.safetensors").exists(), "zoo/{model} is not committed");
    }
}
