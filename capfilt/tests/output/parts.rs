//! Parts: the same bytes every time, and everything that went in comes out.

use arrow::array::AsArray;
use arrow::datatypes::Float32Type;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use quern_capfilt::{
    Part, PartError, PartRow, RowOutcome, Source, Stage, encode_part, read_captions, read_data, read_provenance,
    read_quarantine,
};

use crate::fixture::{self, NASTY, id, kept, part, provenance, row, rows, shard};

fn data(part: &Part) -> Bytes {
    part.data.as_ref().unwrap().1.clone()
}

fn quarantine(part: &Part) -> Bytes {
    part.quarantine.as_ref().unwrap().1.clone()
}

#[test]
fn the_same_rows_give_the_same_bytes() {
    assert_eq!(part(&shard(0, 4)), part(&shard(0, 4)));
}

/// These digests change only when the layout, the writer's settings or the version of parquet or zstd do; every output that
/// was written before then differs from a new one, so such a change belongs into the changelog.
#[test]
fn the_bytes_are_those_of_earlier_builds() {
    let part = part(&shard(0, 4));
    let names = [&part.data, &part.quarantine].map(|file| file.as_ref().unwrap().0.as_str());
    assert_eq!(names, PINNED_NAMES);
    assert_eq!(part.digest, PINNED_DIGEST);
}

const PINNED_NAMES: [&str; 2] = [
    "data/web-00000-000000000-7e421ec288f41c207554a669071fcd6b.parquet",
    "quarantine/web-00000-000000000-a9fe363ffcc69f7ee1e3b6c574f376b9.parquet",
];
const PINNED_DIGEST: &str = "61a63bda4f8116cd168dbc6f5858ea12";

#[test]
fn names_are_the_shard_and_the_digest_of_the_file() {
    let part = part(&shard(1, 4));
    for (folder, file) in [("data", &part.data), ("quarantine", &part.quarantine)] {
        let (name, bytes) = file.as_ref().unwrap();
        let digest = blake3::hash(bytes).to_hex();
        assert_eq!(*name, format!("{folder}/web-00000-000001000-{}.parquet", &digest[..32]));
    }
}

#[test]
fn one_changed_row_changes_the_digest() {
    let shard = shard(0, 4);
    let mut changed = rows(&shard);
    changed[3].outcome = RowOutcome::Passed { caption: "as it was not".into() };
    assert_ne!(encode_part(&shard, changed, &provenance()).unwrap().digest, part(&shard).digest);
    // The same data with and without a quarantine file.
    let only = |rows: Vec<PartRow>| encode_part(&fixture::shard(0, rows.len() as u64), rows, &provenance()).unwrap();
    let with = only(rows(&shard)[..2].to_vec());
    let without = only(rows(&shard)[..1].to_vec());
    assert_eq!(with.data, without.data);
    assert_ne!(with.digest, without.digest);
}

#[test]
fn rows_are_counted_by_outcome() {
    let part = part(&shard(0, 4));
    assert_eq!((part.rows, part.kept, part.passed, part.quarantined), (4, 2, 1, 1));
}

#[test]
fn captions_come_back_best_first_and_untouched() {
    let shard = shard(1, 4);
    let read = read_captions(data(&part(&shard))).unwrap();
    let ids: Vec<_> = read.iter().map(|row| row.id.clone()).collect();
    assert_eq!(ids, [id(&shard, 0), id(&shard, 2), id(&shard, 3)]);
    let keys: Vec<_> = read.iter().map(|row| row.key.as_deref()).collect();
    assert_eq!(keys, [Some("key0"), None, Some("key3")]);
    let captions = |at: usize| -> Vec<_> {
        read[at].captions.iter().map(|c| (c.text.as_str(), c.source, c.score, c.rank)).collect()
    };
    let (web, written) = (Source::Web, Source::Synthetic);
    assert_eq!(captions(0), [("a blue disc", written, Some(0.5), 1), ("a red square", written, Some(0.25), 2)]);
    assert_eq!(captions(1), [(NASTY, web, Some(0.75), 1), ("a dog", written, Some(0.25), 2)]);
    assert_eq!(captions(2), [("as it was", web, None, 1)]);
}

#[test]
fn candidates_come_back_whole() {
    let shard = shard(0, 4);
    let read = read_data(data(&part(&shard))).unwrap();
    for (row, at) in read.iter().zip([0, 2, 3]) {
        let candidates = match &rows(&shard)[at].outcome {
            RowOutcome::Kept { candidates, .. } => candidates.clone(),
            _ => Vec::new(),
        };
        assert_eq!(row.candidates, candidates);
        assert_eq!(row.image, None);
    }
}

#[test]
fn failures_come_back_with_stage_and_reason() {
    let shard = shard(0, 4);
    let read = read_quarantine(quarantine(&part(&shard))).unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!((&read[0].id, read[0].key.as_deref()), (&id(&shard, 1), Some("key1")));
    assert_eq!((read[0].stage, read[0].reason.as_str()), (Stage::Decode, "image_corrupt"));
    assert_eq!(read[0].detail, "JPEG: premature end");
}

#[test]
fn laion_coco_users_find_their_columns() {
    let reader = ParquetRecordBatchReaderBuilder::try_new(data(&part(&shard(0, 4)))).unwrap().build().unwrap();
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(batches.len(), 1);
    let batch = &batches[0];
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    let laion = ["top_caption", "all_captions", "all_similarities"];
    assert_eq!(names, [&["dataset", "file", "row", "key", "captions", "candidates"], &laion[..]].concat());
    let top = batch["top_caption"].as_string::<i32>();
    assert_eq!(top.iter().flatten().collect::<Vec<_>>(), ["a blue disc", NASTY, "as it was"]);
    let texts = |at: usize| -> Vec<String> {
        let list = batch["all_captions"].as_list::<i32>().value(at);
        list.as_string::<i32>().iter().flatten().map(str::to_owned).collect()
    };
    let similarities = |at: usize| -> Vec<Option<f32>> {
        batch["all_similarities"].as_list::<i32>().value(at).as_primitive::<Float32Type>().iter().collect()
    };
    assert_eq!(texts(0), ["a red square", "a blue disc", "buy now"]);
    assert_eq!(similarities(0), [Some(0.25), Some(0.5), Some(-0.125)]);
    assert_eq!(texts(2), ["as it was"]);
    assert_eq!(similarities(2), [None]);
}

#[test]
fn a_file_tells_where_it_came_from_and_nothing_else() {
    let part = part(&shard(0, 4));
    for bytes in [data(&part), quarantine(&part)] {
        assert_eq!(read_provenance(bytes.clone()).unwrap(), provenance());
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let file = reader.metadata().file_metadata();
        assert_eq!(file.created_by(), Some("quern version 0.1.0"));
        let keys: Vec<_> = file.key_value_metadata().unwrap().iter().map(|entry| entry.key.as_str()).collect();
        let fixed = ["quern.run_id", "quern.recipe_hash", "quern.seed", "quern.version"];
        let models = ["quern.model.captioner/model.safetensors", "quern.model.ranker/model.safetensors"];
        assert_eq!(keys, [&fixed[..], &models].concat());
    }
}

#[test]
fn a_part_without_ranked_rows_names_no_models() {
    let shard = shard(0, 2);
    let rows =
        || vec![row(&shard, 0, RowOutcome::Passed { caption: "a".into() }), rows(&fixture::shard(0, 4))[1].clone()];
    let loaded = encode_part(&shard, rows(), &provenance()).unwrap();
    assert_eq!(read_provenance(data(&loaded)).unwrap().models.len(), 0);
    let not_loaded = without_models();
    assert_eq!(encode_part(&shard, rows(), &not_loaded).unwrap(), loaded);
}

fn without_models() -> quern_capfilt::Provenance {
    quern_capfilt::Provenance { models: Default::default(), ..provenance() }
}

#[test]
fn a_kind_without_rows_has_no_file() {
    let shard = shard(0, 1);
    let failed = RowOutcome::quarantined(Stage::Read, "image_missing", "the image is null");
    let part = encode_part(&shard, vec![row(&shard, 0, failed)], &provenance()).unwrap();
    assert!(part.data.is_none() && part.quarantine.is_some());
    let passed = RowOutcome::Passed { caption: "a".into() };
    let part = encode_part(&shard, vec![row(&shard, 0, passed)], &provenance()).unwrap();
    assert!(part.data.is_some() && part.quarantine.is_none());
    let part = encode_part(&fixture::shard(0, 0), Vec::new(), &provenance()).unwrap();
    assert!(part.data.is_none() && part.quarantine.is_none() && part.rows == 0);
}

#[test]
fn images_travel_when_they_are_asked_to() {
    let shard = shard(0, 250);
    let outcome = |at| if at == 7 { rows(&fixture::shard(0, 4))[1].outcome.clone() } else { kept(&[("a", 0.5)], &[0]) };
    let image = |at: u64| (at != 8).then(|| Bytes::from(vec![at as u8; 10]));
    let rows = (0..250).map(|at| PartRow { image: image(at), ..row(&shard, at, outcome(at)) }).collect();
    let bytes = data(&encode_part(&shard, rows, &provenance()).unwrap());
    let read = read_data(bytes.clone()).unwrap();
    assert_eq!(read.len(), 249);
    for row in read {
        assert_eq!(row.image, image(row.id.row), "{}", row.id);
    }
    // Small row groups, so that Hugging Face's viewer can show them.
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    assert_eq!(reader.metadata().num_row_groups(), 3);
    // And a word to `datasets` that they are images.
    let metadata = reader.metadata().file_metadata().key_value_metadata().unwrap();
    let said = metadata.iter().find(|entry| entry.key == "huggingface").unwrap().value.as_deref().unwrap();
    let said: serde_json::Value = serde_json::from_str(said).unwrap();
    assert_eq!(said["info"]["features"]["image"]["_type"], "Image");
}

#[test]
fn rows_that_are_not_the_shards_are_refused() {
    let shard = shard(0, 4);
    let refused = |change: fn(&mut Vec<PartRow>), expected: &str| {
        let mut rows = rows(&shard);
        change(&mut rows);
        let error = encode_part(&shard, rows, &provenance()).unwrap_err();
        assert!(matches!(error, PartError::Rows { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    refused(|rows| drop(rows.pop()), "row web/a/b.parquet#3 is due, but the end came");
    refused(|rows| rows.swap(0, 1), "row web/a/b.parquet#0 is due, but web/a/b.parquet#1 came");
    refused(|rows| rows.push(rows[0].clone()), "row the end is due, but web/a/b.parquet#0 came");
    refused(|rows| rows[2] = rows[1].clone(), "row web/a/b.parquet#2 is due");
    refused(|rows| rows[0].id.dataset = "other".into(), "but other/a/b.parquet#0 came");
}

#[test]
fn impossible_outcomes_are_refused() {
    let shard = shard(0, 1);
    let refused = |outcome: RowOutcome| {
        let error = encode_part(&shard, vec![row(&shard, 0, outcome)], &provenance()).unwrap_err();
        assert!(matches!(error, PartError::Outcome { .. }), "{error}");
    };
    refused(kept(&[("a", 0.5)], &[]));
    refused(kept(&[("a", 0.5)], &[1]));
    refused(kept(&[("a", f32::NAN)], &[0]));
    refused(kept(&[("a", f32::INFINITY)], &[0]));
}

#[test]
fn what_is_no_part_is_refused() {
    assert!(read_captions(Bytes::from_static(b"no parquet at all")).is_err());
    let part = part(&shard(0, 4));
    let error = read_captions(quarantine(&part)).unwrap_err().to_string();
    assert!(error.contains("captions"), "{error}");
    let error = read_quarantine(data(&part)).unwrap_err().to_string();
    assert!(error.contains("stage"), "{error}");
    let truncated = data(&part).slice(..100);
    assert!(read_data(truncated.clone()).is_err() && read_provenance(truncated).is_err());
}
