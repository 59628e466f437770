//! `quern plan` with real models: the sample is captioned by the real engine, and the run that follows is what was planned.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Run, corpus, quern};
use crate::inputs::inputs;

/// The plan of a run's recipe.
fn plan(run: &Run, more: &[&str]) -> Value {
    let recipe = run.recipe();
    let arguments = [&["plan", recipe.to_str().expect("UTF-8"), "--json", "--device", "cpu"], more].concat();
    let ended = quern(&arguments).output().expect("quern starts");
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    serde_json::from_slice(&ended.stdout).expect("JSON and nothing else")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

#[test]
fn a_plan_is_what_the_run_then_does() {
    let run = Run::capfilt(corpus());
    let planned = plan(&run, &[]);
    assert!(!run.output().exists(), "a plan writes nothing");
    let calibration = &planned["throughput"]["calibration"];
    assert_eq!(calibration["device"], "cpu", "{planned}");
    // Shards of 10 rows: one is done whole, and of 78 images ten are enough for it.
    assert_eq!((&calibration["basis"], &calibration["images"]), (&"whole_shard".into(), &10.into()), "{calibration}");
    let speed = number(&calibration["images_per_second"]);
    assert!((speed - 10.0 / number(&calibration["seconds"])).abs() < 1e-6 * speed, "{calibration}");
    let tokens = number(&calibration["tokens_per_caption"]);
    assert!((1.0..=12.0).contains(&tokens), "{calibration}");
    let hours = number(&planned["capfilt"]["device_hours"]);
    assert!((hours - 78.0 / speed / 3600.0).abs() < 1e-6 * hours, "{planned}");

    assert_eq!(run.run_locally(1).code(), Some(3), "a file of the corpus is no parquet");
    let manifest: Value =
        serde_json::from_slice(&fs::read(run.output().join("manifest.json")).expect("a manifest")).expect("JSON");
    let (totals, web) = (&manifest["totals"], &planned["datasets"][0]);
    // The sample was all 80 rows.
    let pairs = [
        (&web["shards"], &totals["shards"]),
        (&web["rows"], &totals["rows"]),
        (&web["sample"]["usable"], &totals["kept"]),
        (&web["unreadable"].as_array().expect("a list").len().into(), &totals["quarantined_shards"]),
    ];
    pairs.iter().for_each(|(planned, done)| assert_eq!(planned, done, "{web}"));
    let bytes = number(&planned["output"]["bytes"]) / number(&totals["bytes"]);
    assert!((0.8..1.25).contains(&bytes), "{bytes} times the bytes that were written");
}

#[test]
fn images_by_url_by_path_and_in_tar_files_are_sampled_and_a_missing_model_is_said() {
    let folder = TempDir::new().expect("a temporary folder");
    let run = Run::capfilt(corpus());
    let plain = fs::read_to_string(run.recipe()).expect("the recipe");
    let dataset = plain.lines().find(|line| line.contains("name: web")).expect("the data set");
    let recipe = plain.replace(&format!("datasets:\n{dataset}\n"), &inputs(folder.path()));
    fs::write(run.recipe(), recipe.replace("/zoo/clip", "/zoo/no-such-model")).expect("written");

    let planned = plan(&run, &[]);
    let reason = planned["not_calibrated"].as_str().expect("a sentence");
    assert!(reason.contains("the ranker can't be fetched") && reason.contains("no-such-model"), "{reason}");
    let samples = planned["datasets"].as_array().expect("a list").iter().map(|dataset| &dataset["sample"]);
    let seen: Vec<String> = samples.map(|sample| format!("{} of {}", sample["usable"], sample["rows"])).collect();
    assert_eq!(seen, ["12 of 15", "12 of 14", "12 of 12"], "{planned}");
    let failed = planned["datasets"][0]["sample"]["quarantined"].as_array().expect("a list").iter();
    let reasons: Vec<&str> = failed.map(|failed| failed["reason"].as_str().expect("a word")).collect();
    assert_eq!(reasons, ["fetch_invalid_url", "fetch_refused_address", "fetch_status"]);
}
