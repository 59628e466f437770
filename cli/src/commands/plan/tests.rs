use quern_capfilt::calibration::{Basis, Calibration, PartBytes};
use quern_recipes::{Format, Price};

use super::estimate::{capfilt, output, training};
use super::page::page;
use super::sample::{Quarantined, Sample};
use super::survey::{Column, Unreadable};
use super::throughput::shares;
use super::*;

/// A data set of `rows` rows in shards of 1000, of whose sample of 100 rows so many are usable.
fn dataset(name: &str, captions: Captions, rows: u64, usable: u64) -> DatasetSurvey {
    let quarantined = Quarantined {
        stage: "decode".into(),
        reason: "truncated".into(),
        rows: 100 - usable,
        detail: "the image ends\u{1b}[2J early".into(),
    };
    let kept = captions == Captions::Kept;
    DatasetSurvey {
        name: name.into(),
        path: format!("/{name}"),
        captions,
        format: Format::Parquet,
        files: 3,
        bytes: rows * 100,
        rows_in_files: rows,
        rows,
        max_rows: None,
        shards: rows.div_ceil(1000),
        columns: vec![Column { role: "image", name: "jpg".into(), holds: "bytes".into(), files: 2 }],
        unreadable: vec![Unreadable { file: "b.parquet".into(), reason: "not a readable parquet file".into() }],
        sample: Some(Sample {
            rows: 100,
            usable,
            quarantined: if usable < 100 { vec![quarantined] } else { Vec::new() },
            image_bytes: 2048.0,
            width: 640,
            height: 480,
            seconds: 0.5,
            part_bytes: kept.then_some(PartBytes { per_shard: 0.0, per_row: 50.0 }),
        }),
    }
}

fn mixture() -> Vec<DatasetSurvey> {
    vec![
        dataset("web", Captions::CapFilt, 90_000, 80),
        dataset("small-web", Captions::CapFilt, 10_000, 100),
        dataset("coco", Captions::Kept, 5_000, 100),
    ]
}

fn calibration() -> Calibration {
    Calibration {
        device: "cuda:0".into(),
        hardware: "NVIDIA H100".into(),
        threads: 1,
        images_per_second: 10.0,
        basis: Basis::FullLanes,
        images: 640,
        seconds: 64.0,
        different_images: 200,
        tokens_per_caption: 9.5,
        kept_share: 0.5,
        part_bytes: PartBytes { per_shard: 500.0, per_row: 1000.0 },
    }
}

fn recipe(more: &str) -> Recipe {
    let base = r#""name": "r", "output": "/o", "datasets": [{"name": "web", "path": "/web"}],
        "capfilt": {"captioner": "/b", "ranker": "/c"}"#;
    Recipe::from_json(&format!("{{{base}{more}}}")).expect("a sound recipe")
}

#[test]
fn hours_are_those_of_images_that_can_be_captioned() {
    let price = Price { per_device_hour: 2.0, currency: "EUR".into() };
    let estimate = capfilt(&mixture(), Some(10.0), 40, Some(&price));
    // 80 % of 90,000 and all of 10,000: 82,000 images in 8,200 s.
    assert_eq!((estimate.rows, estimate.images, estimate.shards), (100_000, 82_000, 100));
    let device_hours = 8_200.0 / 3600.0;
    assert!((estimate.device_hours.unwrap() - device_hours).abs() < 1e-9);
    // The busiest of 40 workers has 3 of 100 shards.
    assert!((estimate.hours.unwrap() - device_hours * 0.03).abs() < 1e-9);
    let cost = estimate.cost.unwrap();
    assert!((cost.amount - 2.0 * device_hours).abs() < 1e-9 && cost.currency == "EUR");

    let unmeasured = capfilt(&mixture(), None, 40, Some(&price));
    assert_eq!((unmeasured.device_hours, unmeasured.hours, unmeasured.cost), (None, None, None));
    // More workers than shards: a shard's time.
    let crowd = capfilt(&mixture(), Some(10.0), 1_000, None);
    assert!((crowd.hours.unwrap() - device_hours / 100.0).abs() < 1e-9 && crowd.cost.is_none());
}

#[test]
fn output_and_epochs_are_of_the_rows_that_are_kept() {
    let calibration = calibration();
    // 82,000 images of 1,000 bytes each in 100 shards with 500 more, and 5,000 passed rows of 50; half of the images keep a
    // caption.
    let written = output(&mixture(), Some(&calibration)).unwrap();
    assert_eq!((written.bytes, written.rows), (82_300_000, 46_000));
    assert_eq!(output(&mixture(), None), None, "nobody has seen a caption");
    assert_eq!(output(&mixture()[2..], None).unwrap().bytes, 250_000);

    let stage1 = r#", "stage1": {"image_encoder": "/e", "tokenizer": "/t", "batch": 92, "steps": 5000}"#;
    let stages = training(&recipe(stage1), &mixture(), Some(&calibration));
    assert_eq!((stages.len(), stages[0].images, stages[0].rows), (1, 460_000, 46_000));
    assert!((stages[0].epochs - 10.0).abs() < 1e-9);
}

#[test]
fn the_calibrations_rows_are_shared_out_by_rows() {
    assert_eq!(shares(&mixture(), 200), [180, 20, 0]);
    assert_eq!(shares(&mixture(), 5), [5, 1, 0], "none is left out");
    assert_eq!(shares(&mixture()[2..], 5), [0]);
}

fn plan(throughput: Option<Throughput>) -> Plan {
    let recipe = recipe("");
    let datasets = mixture();
    let speed = throughput.as_ref().map(|throughput| throughput.images_per_second);
    let calibration = throughput.as_ref().and_then(|throughput| throughput.calibration.as_ref());
    Plan {
        name: "r".into(),
        recipe_hash: recipe.hash(),
        capfilt: Some(capfilt(&datasets, speed, 2, None)),
        output: output(&datasets, calibration),
        training: training(&recipe, &datasets, calibration),
        not_calibrated: throughput.is_none().then(|| "there are no models".into()),
        datasets,
        throughput,
    }
}

#[test]
fn a_page_says_what_was_measured_where_and_what_was_not() {
    let measured = Throughput { images_per_second: 10.0, calibration: Some(calibration()) };
    let text = page(&plan(Some(measured)), &recipe(""));
    let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "together 9 105,000 10.0 MiB 105",
        "web 100 80 20.0 % 2.0 KiB 640×480 200",
        "web 20 rows: decode, truncated: the image ends\\u{1b}[2J early",
        "web can't read b.parquet: not a readable parquet file",
        "10.0 images/s per worker, measured on cuda:0 (NVIDIA H100): 640 images (200 different) in 64.0 s, the middle of a shard",
        "device-hours 2.28",
        "time 68 min on 2 workers",
        "the recipe names no cluster.price",
        "about 78.5 MiB of parquet with 46,000 rows",
    ] {
        assert!(words.contains(expected), "`{expected}` is missing in\n{text}");
    }
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(longest <= 80, "{longest} columns:\n{text}");

    let text = page(&plan(None), &recipe(""));
    assert!(text.contains("not measured: there are no models") && !text.contains("device-hours"), "{text}");
}

#[test]
fn a_throughput_is_a_number_above_0() {
    assert_eq!(positive("2.5"), Ok(2.5));
    for wrong in ["0", "-1", "NaN", "inf", "fast"] {
        assert!(positive(wrong).is_err(), "{wrong}");
    }
}
