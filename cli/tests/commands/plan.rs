//! `quern plan`: what it prints, and that it leaves nothing behind.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{Installation, errors, printed};

/// A picture of 3×2 pixels.
const PNG: &[u8] = b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x03\x00\x00\x00\x02\
    \x08\x02\x00\x00\x00\x12\x16\xf1\x4d\x00\x00\x00\x13\x49\x44\x41\x54\x78\x9c\x63\x38\xc1\x20\x07\
    \x41\x0c\x27\xb8\xe4\x20\x08\x00\x3a\x8e\x05\x83\xee\x73\x06\x62\x00\x00\x00\x00\x49\x45\x4e\x44\
    \xae\x42\x60\x82";

/// A `quern-worker` that reads the request and answers.
const WORKER: &str = r#"head -1 > "$0.request"; cat > "$0.rows"; echo '{"calibrated": {"device": "cuda:0", "hardware": "NVIDIA H100",
    "threads": 1, "images_per_second": 0.5, "basis": "whole_shard", "images": 40, "seconds": 80.0, "different_images": 40,
    "tokens_per_caption": 9.0, "kept_share": 1.0, "part_bytes": {"per_shard": 0.0, "per_row": 1000.0}}}'"#;

/// A recipe over two data sets: parquet files, one of which is none, and a tar file with an image that is none and a sample
/// without a caption.
fn installed(here: &Installation) {
    let synth = here.quern(&["corpus", "synth", "--rows", "60", "--rows-per-file", "30", "--out", "corpus"]);
    assert!(synth.status.success(), "{}", errors(&synth));
    fs::write(here.path("corpus/zz.parquet"), "this is no parquet file").expect("written");
    fs::create_dir_all(here.path("tars")).expect("a folder");
    let mut names = Vec::new();
    for (name, bytes) in [
        ("0.png", PNG),
        ("0.txt", b"a red square"),
        ("1.png", b"no picture"),
        ("1.txt", b"a blue square"),
        ("2.png", PNG),
        ("3.png", PNG),
        ("3.txt", b"a green square"),
    ] {
        fs::write(here.path(name), bytes).expect("written");
        names.push(name);
    }
    let tar =
        Command::new("tar").arg("-cf").arg(here.path("tars/0.tar")).args(&names).current_dir(here.path(".")).status();
    assert!(tar.expect("tar runs").success());
    names.iter().for_each(|name| fs::remove_file(here.path(name)).expect("removed"));
    let recipe = "name: mixed\noutput: out\nshard_rows: 20\ndatasets:\n  - {name: web, path: corpus}\n  \
                  - {name: people, path: tars, capfilt: false}\ncapfilt: {captioner: models/blip, ranker: models/clip}\n\
                  stage1: {image_encoder: e, tokenizer: t, batch: 31, steps: 4, optimiser: {warmup_steps: 1}}\n\
                  cluster: {price: {per_device_hour: 3.0, currency: EUR}}\n";
    fs::write(here.path("mixed.yaml"), recipe).expect("written");
}

/// What is in the folder.
fn entries(here: &Installation) -> BTreeSet<String> {
    let names = fs::read_dir(here.path(".")).expect("the folder is listed");
    names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

fn json(here: &Installation, arguments: &[&str]) -> Value {
    let output = here.quern(&[&["plan", "mixed.yaml", "--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    serde_json::from_str(&printed(&output)).expect("JSON and nothing else")
}

#[test]
fn a_mixture_is_counted_sampled_calibrated_and_priced() {
    let here = Installation::with_worker(WORKER);
    installed(&here);
    let plan = json(&here, &["--workers", "3"]);

    let [web, people] = [0, 1].map(|index| &plan["datasets"][index]);
    assert_eq!((&web["files"], &web["rows"], &web["shards"]), (&3.into(), &60.into(), &4.into()), "{web}");
    assert_eq!(web["unreadable"][0]["file"], "zz.parquet");
    assert!(web["unreadable"][0]["reason"].as_str().expect("text").contains("parquet"), "{web}");
    assert_eq!((&web["columns"][0]["name"], &web["columns"][0]["files"]), (&"jpg".into(), &2.into()), "{web}");
    assert_eq!(
        (&people["format"], &people["captions"], &people["rows"]),
        (&"webdataset".into(), &"kept".into(), &4.into())
    );
    assert_eq!(people["columns"][0]["name"], "png");
    let sample = &people["sample"];
    assert_eq!((&sample["rows"], &sample["usable"]), (&4.into(), &2.into()), "{sample}");
    assert_eq!((&sample["width"], &sample["height"]), (&3.into(), &2.into()));
    let failed = sample["quarantined"].as_array().expect("a list").iter();
    let failed: Vec<String> = failed.map(|row| format!("{} {}", row["stage"], row["rows"])).collect();
    assert_eq!(failed, [r#""read" 1"#, r#""decode" 1"#], "{sample}");

    // 60 images at one in two seconds; 4 shards on 3 workers: one has two of them.
    let capfilt = &plan["capfilt"];
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    assert_eq!((&capfilt["images"], &capfilt["shards"]), (&60.into(), &4.into()), "{capfilt}");
    assert!((number(&capfilt["device_hours"]) - 120.0 / 3600.0).abs() < 1e-9, "{capfilt}");
    assert!((number(&capfilt["hours"]) - 60.0 / 3600.0).abs() < 1e-9, "{capfilt}");
    assert!((number(&capfilt["cost"]["amount"]) - 0.1).abs() < 1e-9 && capfilt["cost"]["currency"] == "EUR");
    assert_eq!((&plan["training"][0]["images"], &plan["training"][0]["epochs"]), (&124.into(), &2.0.into()));
    assert_eq!(plan["throughput"]["calibration"]["hardware"], "NVIDIA H100");

    // The rows that CapFilt would see were sent, and no others.
    let request: Value = serde_json::from_str(&super::text_of(&here.path("quern-worker.request"))).expect("JSON");
    assert_eq!((&request["rows"], &request["shard_rows"]), (&60.into(), &15.into()));
}

#[test]
fn a_plan_for_people_leaves_nothing_behind_and_is_the_same_again() {
    let here = Installation::new();
    installed(&here);
    let before = entries(&here);
    let page = |arguments: &[&str]| {
        let output = here.quern(&[&["plan", "mixed.yaml"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        printed(&output)
    };
    let text = page(&[]);
    assert!(text.starts_with("Plan of mixed (recipe hash "), "{text}");
    let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "together 4 64",
        "can't read zz.parquet: not a readable parquet file",
        "not measured: quern-worker is not beside quern",
        "its size is known only when",
        "not estimated: training is not measured here",
    ] {
        assert!(words.contains(expected), "`{expected}` is missing in\n{text}");
    }
    assert!(!text.contains("device-hours"), "{text}");
    let given = page(&["--throughput", "0.5", "--workers", "9"]);
    for expected in
        ["0.500 images/s per worker, as --throughput says", "30 s on 9 workers; there are only 4 shards", "0.10 EUR"]
    {
        assert!(given.contains(expected), "`{expected}` is missing in\n{given}");
    }
    assert_eq!(entries(&here), before);
    let samples =
        |_| json(&here, &["--no-calibrate", "--sample", "10"])["datasets"][0]["sample"]["image_bytes"].clone();
    let [first, second] = [(), ()].map(samples);
    assert_eq!(first, second);
}

#[test]
fn what_keeps_a_plan_from_being_made_or_measured_is_one_sentence() {
    let here = Installation::with_worker("echo 'libtorch_cpu.so: cannot open' >&2; exit 127");
    installed(&here);
    let plan = json(&here, &[]);
    assert_eq!(
        plan["not_calibrated"],
        "quern-worker calibrate ended with exit status: 127: libtorch_cpu.so: cannot open"
    );
    assert!(plan["throughput"].is_null() && plan["capfilt"]["device_hours"].is_null());

    let failing = Installation::with_worker("cat > /dev/null; echo '{\"failed\": \"there is no model\"}'");
    installed(&failing);
    assert_eq!(json(&failing, &[])["not_calibrated"], "there is no model");

    fs::remove_dir_all(here.path("tars")).expect("removed");
    let output = here.quern(&["plan", "mixed.yaml"]);
    assert_eq!((output.status.code(), printed(&output)), (Some(2), String::new()));
    assert!(
        errors(&output).contains("data set `people`") && errors(&output).lines().count() == 1,
        "{}",
        errors(&output)
    );
}

#[test]
fn one_folder_is_planned_without_a_recipe() {
    let here = Installation::new();
    installed(&here);
    let arguments = ["capfilt", "plan", "--input", "tars", "--output", "out", "--throughput", "3", "--json"];
    let output = here.quern(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let plan: Value = serde_json::from_str(&printed(&output)).expect("JSON and nothing else");
    // Without a caption of its own, an image gets written ones.
    assert_eq!((&plan["capfilt"]["rows"], &plan["capfilt"]["images"]), (&4.into(), &3.into()), "{plan}");
    assert!(errors(&output).contains("image in `png`"), "{}", errors(&output));
    assert!(!here.path("out").exists());
}
