//! A pass that is taken up again: rows in quarantine are retried, and files that came later are milled; nothing else of the
//! output changes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use quern_capfilt::{DataRow, Manifest, read_data};
use serde_json::Value;

use crate::harness::{Run, ask, bytes_under, corpus, free_port, quern, read, rewrite, until_answered, worker};
use crate::inputs::{images, table};

/// Images that are not there at first.
const LATE: [&str; 3] = ["002.jpg", "007.jpg", "008.jpg"];

/// A data set of twelve paths, and one of them twice that leads nowhere; the images of `LATE` are missing.
fn paths(run: &Run) {
    let folder = run.recipe().with_file_name("input");
    fs::create_dir_all(folder.join("pictures")).expect("created");
    fs::create_dir(folder.join("paths")).expect("created");
    for (name, bytes) in images() {
        fs::write(folder.join("pictures").join(name), bytes).expect("written");
    }
    LATE.iter().for_each(|name| fs::rename(picture(run, name), folder.join(name)).expect("moved"));
    let names = images().into_keys().chain(["gone.jpg".to_owned()]).collect();
    table(&folder.join("paths/paths.parquet"), ("file", names), "text");
    let plain = fs::read_to_string(run.recipe()).expect("the recipe");
    let dataset = plain.lines().find(|line| line.contains("name: web")).expect("the data set");
    let folder = folder.display();
    let input = format!(
        "  - {{ name: paths, path: {folder}/paths, images: {{ paths: {folder}/pictures }},\n\
         \x20     columns: {{ image: file, caption: text }} }}"
    );
    fs::write(run.recipe(), plain.replace(dataset, &input).replace("shard_rows: 10", "shard_rows: 5"))
        .expect("written");
}

fn picture(run: &Run, name: &str) -> std::path::PathBuf {
    run.recipe().with_file_name("input/pictures").join(name)
}

/// The late images arrive.
fn bring(run: &Run) {
    for name in LATE {
        fs::rename(run.recipe().with_file_name("input").join(name), picture(run, name)).expect("moved");
    }
}

fn retry(run: &Run, reason: &str, code: i32) -> String {
    let output = run.output();
    let arguments = ["capfilt", "retry", output.to_str().expect("UTF-8"), "--reason", reason, "--workers", "2"];
    let ended = quern(&arguments).output().expect("quern starts");
    let printed = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ended.status.code(), Some(code), "{printed}");
    printed
}

fn manifest(output: &Path) -> Manifest {
    serde_json::from_slice(&fs::read(output.join("manifest.json")).expect("a manifest")).expect("JSON")
}

/// The rows of an output that were kept, by their number.
fn kept(output: &Path) -> BTreeMap<u64, DataRow> {
    let parts = bytes_under(output).into_iter().filter(|(name, _)| name.starts_with("data/"));
    let rows = parts.flat_map(|(_, bytes)| read_data(bytes.into()).expect("a data part"));
    rows.map(|row| (row.id.row, row)).collect()
}

/// Equal captions, and scores but for rounding: a retried row was computed beside others.
fn assert_alike(one: &DataRow, other: &DataRow) {
    let texts = |row: &DataRow| row.captions.iter().map(|caption| caption.text.clone()).collect::<Vec<_>>();
    assert_eq!((&one.id, texts(one)), (&other.id, texts(other)));
    for (one, other) in one.candidates.iter().zip(&other.candidates) {
        assert!(one.text == other.text && (one.score - other.score).abs() < 1e-5, "{one:?} {other:?}");
    }
}

#[test]
fn retried_rows_take_the_place_of_their_quarantine_and_no_other_row_changes() {
    let whole = Run::capfilt(corpus());
    paths(&whole);
    bring(&whole);
    whole.run_locally(1);
    let (run, whole) = (Run::capfilt(corpus()), kept(&whole.output()));
    paths(&run);
    run.run_locally(1);
    let before = kept(&run.output());
    let untouched = manifest(&run.output()).parts.iter().find(|part| part.row_start == 10).expect("a part").clone();
    assert_eq!((before.len(), whole.len()), (9, 12));

    bring(&run);
    retry(&run, "image_not_found", 0);
    run.verify();
    let after = kept(&run.output());
    assert_eq!(after.len(), 12);
    for (row, kept) in &after {
        match before.get(row) {
            Some(before) => assert_eq!(kept, before, "a row that was kept is what it was"),
            None => assert_alike(kept, &whole[row]),
        }
    }
    let now = manifest(&run.output());
    assert_eq!((now.totals.rows, now.totals.kept, now.totals.quarantined), (13, 12, 1));
    // Its one row was retried, too, and failed again in the same words.
    assert!(now.parts.contains(&untouched), "{now:?}");

    let printed = retry(&run, "fetch_timeout", 2);
    assert!(
        printed.contains("no row is in quarantine for fetch_timeout; what there is: read/image_not_found"),
        "{printed}"
    );
    run.verify();
}

#[test]
fn a_retry_outlives_workers_and_coordinators() {
    let run = Run::capfilt(corpus());
    paths(&run);
    let port = free_port();
    let mut coordinator = run.coordinator_of_submitted(port);
    until_answered(port);
    let mut first = worker(port, "first", &[]);
    let recipe = run.recipe();
    ask(port, &["submit", recipe.to_str().expect("UTF-8"), "--watch"], 0);
    let before = kept(&run.output());
    bring(&run);
    first.terminate();
    first.wait();

    let mut dying = worker(port, "dying", &["kill-after-upload:1"]);
    ask(port, &["retry", "--reason", "read/image_not_found"], 0);
    dying.wait();
    coordinator.kill();
    let coordinator = run.coordinator_of_submitted(port);
    until_answered(port);
    let _last = worker(port, "last", &["crash-at-row:7"]);
    let _beside = worker(port, "beside", &[]);
    ask(port, &["watch"], 0);
    run.verify();
    let after = kept(&run.output());
    assert_eq!((before.len(), after.len()), (9, 12));
    assert!(before.iter().all(|(row, before)| after[row] == *before));
    let status: Value = serde_json::from_str(&ask(port, &["status", "-o", "json"], 0)).expect("JSON");
    assert_eq!(status["phase"], "done", "{status}");
    coordinator.terminate();
}

#[test]
fn a_finished_run_that_is_given_more_input_does_the_new_part_alone() {
    let input = tempfile::TempDir::new().expect("a temporary folder");
    let file = |name: &str| input.path().join(name);
    fs::copy(corpus().join("00001.parquet"), file("b.parquet")).expect("copied");
    fs::write(file("c.parquet"), b"no parquet").expect("written");
    let run = Run::capfilt(input.path());
    assert_eq!(run.run_locally(1).code(), Some(3));
    let before = run.bytes();

    // The same again finds nothing new, and changes nothing.
    assert_eq!(run.run_locally(1).code(), Some(3));
    assert!(run.bytes() == before, "other bytes");

    // One file comes before all others by its name, and the broken one is mended.
    fs::copy(corpus().join("00000.parquet"), file("a.parquet")).expect("copied");
    fs::copy(corpus().join("00001.parquet"), file("c.parquet")).expect("copied");
    rewrite(&file("c.parquet"), |batch| batch.slice(0, 7));
    assert_eq!(run.run_locally(2).code(), Some(0));
    run.verify();
    let after = run.bytes();
    let is_a_part = |name: &str| name.ends_with(".parquet");
    let unchanged =
        before.iter().filter(|(name, _)| is_a_part(name)).all(|(name, bytes)| after.get(name) == Some(bytes));
    assert!(unchanged, "a part that was done is another now");
    let rows = |file: &str| read(&input.path().join(file)).num_rows() as u64;
    let now = manifest(&run.output());
    assert_eq!(now.totals.rows, rows("a.parquet") + rows("b.parquet") + 7);
    let numbers: BTreeMap<&str, &str> =
        now.parts.iter().map(|part| (&*part.file, part.shard.0.split('-').nth(1).expect("a number"))).collect();
    let expected = [("a.parquet", "00002"), ("b.parquet", "00000"), ("c.parquet", "00001")];
    assert_eq!(numbers, expected.into());

    // Without its journal a coordinator finds the same shards under the same names.
    let journal = run.output().with_file_name("out.journal.sqlite");
    assert!(journal.exists());
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", journal.display()));
    }
    assert_eq!(run.run_locally(1).code(), Some(0));
    assert!(run.bytes() == after, "other bytes");
}
