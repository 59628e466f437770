use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use quern_faults::{Fault, Faulty};
use quern_recipes::{Columns, Images};

use super::*;
use crate::counted::Counted;

/// Writes a parquet file with row groups of these sizes.
fn write(path: &Path, groups: &[u64], image_column: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let batch = |rows: u64| {
        let images = BinaryArray::from_iter_values((0..rows).map(|row| row.to_le_bytes()));
        let captions = StringArray::from_iter_values((0..rows).map(|row| format!("caption {row}")));
        let columns: [(&str, ArrayRef); 2] = [(image_column, Arc::new(images)), ("caption", Arc::new(captions))];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch(0).schema(), None).unwrap();
    for &rows in groups {
        writer.write(&batch(rows)).unwrap();
        writer.flush().unwrap();
    }
    writer.close().unwrap();
}

fn dataset(path: &Path) -> Dataset {
    Dataset {
        name: "web".into(),
        path: path.to_str().unwrap().into(),
        format: None,
        images: Images::Bytes,
        columns: Columns::default(),
        max_rows: None,
        weight: None,
        capfilt: true,
    }
}

fn summary(shards: &[ShardSpec]) -> Vec<(&str, &str, u64, u64)> {
    shards.iter().map(|s| (s.shard.0.as_str(), s.file.as_str(), s.row_start, s.rows)).collect()
}

#[tokio::test]
async fn files_at_any_depth_in_the_order_of_their_names() {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("b/2.parquet"), &[3, 4], "jpg");
    write(&root.path().join("a.parquet"), &[25, 2], "jpg");
    write(&root.path().join("empty.parquet"), &[], "jpg");
    std::fs::write(root.path().join("00000_stats.json"), "{}").unwrap();
    let plan = plan_dataset(&dataset(root.path()), 10).await.unwrap();
    assert_eq!(
        summary(&plan.shards),
        [
            ("web-00000-000000000", "a.parquet", 0, 10),
            ("web-00000-000000010", "a.parquet", 10, 10),
            ("web-00000-000000020", "a.parquet", 20, 5),
            ("web-00000-000000025", "a.parquet", 25, 2),
            ("web-00001-000000000", "b/2.parquet", 0, 7),
        ]
    );
    assert!(plan.unreadable.is_empty());
    let Inputs { format, files, rows, layouts, .. } = plan.inputs;
    assert_eq!((format, files, rows), (Format::Parquet, 3, 34));
    let found = layouts[0].0.iter().map(|column| format!("{} {}: {}", column.role, column.name, column.holds));
    assert_eq!(found.collect::<Vec<_>>(), ["image jpg: bytes", "caption caption: text"], "a file may lack the key");
    assert_eq!((layouts.len(), layouts[0].1), (1, 3));
}

#[tokio::test]
async fn an_unreadable_file_is_reported_and_keeps_its_place() {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("0.parquet"), &[5], "jpg");
    std::fs::write(root.path().join("1.parquet"), "this is no parquet file at all").unwrap();
    std::fs::write(root.path().join("2.parquet"), "").unwrap();
    write(&root.path().join("3.parquet"), &[5], "png");
    write(&root.path().join("4.parquet"), &[5], "jpg");
    let whole = std::fs::read(root.path().join("4.parquet")).unwrap();
    std::fs::write(root.path().join("5.parquet"), &whole[..whole.len() - 3]).unwrap();
    let plan = plan_dataset(&dataset(root.path()), 10).await.unwrap();
    let names: Vec<_> = plan.shards.iter().map(|shard| shard.shard.0.as_str()).collect();
    assert_eq!(names, ["web-00000-000000000", "web-00004-000000000"]);
    let unreadable: Vec<_> =
        plan.unreadable.iter().map(|file| (file.shard.shard.0.as_str(), file.shard.rows)).collect();
    let place = |index| format!("web-0000{index}-000000000");
    assert_eq!(unreadable, [1, 2, 3, 5].map(place).each_ref().map(|name| (name.as_str(), 0)));
    assert!(plan.unreadable[0].reason.contains("not a readable parquet file"), "{}", plan.unreadable[0].reason);
    assert!(plan.unreadable[2].reason.contains("no column `jpg`"), "{}", plan.unreadable[2].reason);
}

#[tokio::test]
async fn what_a_user_mistypes_is_an_error_with_advice() {
    let root = tempfile::tempdir().unwrap();
    let missing = plan_dataset(&dataset(&root.path().join("nowhere")), 10).await.unwrap_err();
    assert!(matches!(missing, PlanError::NoFiles { .. }), "{missing}");
    assert!(missing.to_string().contains("nowhere"), "{missing}");
    write(&root.path().join("0.parquet"), &[5], "image");
    std::fs::write(root.path().join("1.parquet"), "broken").unwrap();
    let foreign = plan_dataset(&dataset(root.path()), 10).await.unwrap_err();
    assert!(foreign.to_string().contains("`image`, `caption`"), "{foreign}");
}

#[tokio::test]
async fn a_failing_store_is_no_unreadable_file() {
    let root = tempfile::tempdir().unwrap();
    for name in ["0.parquet", "1.parquet"] {
        write(&root.path().join(name), &[5], "jpg");
    }
    let local = Arc::new(object_store::local::LocalFileSystem::new());
    let store = Arc::new(Faulty::new(local, |call| call.path.ends_with("1.parquet").then_some(Fault::Throttled)));
    let prefix = object_store::path::Path::from_absolute_path(root.path()).unwrap();
    let error = plan_folder(&Folder::new(store, prefix, "there"), &dataset(root.path()), 10).await.unwrap_err();
    assert!(matches!(error, PlanError::Store { .. }), "{error}");
    assert!(error.to_string().contains("there/1.parquet") && error.to_string().contains("SlowDown"), "{error}");
}

#[tokio::test]
async fn footers_alone_are_read() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("0.parquet");
    write(&path, &[50_000, 50_000], "jpg");
    let size = std::fs::metadata(&path).unwrap().len();
    let store = Arc::new(Counted::new(object_store::local::LocalFileSystem::new()));
    let prefix = object_store::path::Path::from_absolute_path(root.path()).unwrap();
    let folder = Folder::new(store.clone(), prefix, "counted");
    let plan = plan_folder(&folder, &dataset(root.path()), 1000).await.unwrap();
    assert_eq!(plan.shards.len(), 100);
    let read = store.bytes();
    assert!(read > 0 && read <= 65_536 && size > 4 * read, "{read} bytes of {size}");
}

proptest! {
    #[test]
    fn cuts_cover_a_file_once_and_respect_row_groups(
        groups in proptest::collection::vec(0u64..40, 0..12), shard_rows in 1u64..50
    ) {
        let shards = cut(&groups, shard_rows);
        let mut next = 0;
        for &(start, rows) in &shards {
            prop_assert_eq!(start, next);
            prop_assert!(rows >= 1 && rows <= shard_rows);
            next = start + rows;
        }
        prop_assert_eq!(next, groups.iter().sum::<u64>());
        // A row group that fits is never split.
        let mut start = 0;
        for &rows in &groups {
            if rows <= shard_rows {
                prop_assert!(!shards.iter().any(|&(first, _)| first > start && first < start + rows));
            }
            start += rows;
        }
    }
}

#[tokio::test]
async fn so_many_rows_are_drawn_from_everywhere_and_the_last_shard_is_cut() {
    let root = tempfile::tempdir().unwrap();
    for file in 0..20 {
        write(&root.path().join(format!("{file:02}.parquet")), &[10, 10, 3], "jpg");
    }
    let all = plan_dataset(&dataset(root.path()), 10).await.unwrap().shards;
    let of = async |max_rows| {
        let dataset = Dataset { max_rows: Some(max_rows), ..dataset(root.path()) };
        plan_dataset(&dataset, 10).await.unwrap().shards
    };
    let rows = |shards: &[ShardSpec]| shards.iter().map(|shard| shard.rows).sum::<u64>();
    for max_rows in [1, 10, 123, 459] {
        let shards = of(max_rows).await;
        assert_eq!(rows(&shards), max_rows);
        assert!(shards.is_sorted_by_key(|shard| &shard.shard));
        let whole = shards.iter().filter(|shard| all.contains(shard)).count();
        assert!(whole + 1 >= shards.len(), "one shard is cut at most: {shards:?}");
        let is_known =
            |shard: &ShardSpec| all.iter().any(|known| known.shard == shard.shard && known.rows >= shard.rows);
        assert!(shards.iter().all(is_known), "{shards:?}");
    }
    let files: std::collections::BTreeSet<String> = of(123).await.into_iter().map(|shard| shard.file).collect();
    assert!(files.len() > 6, "a draw, not the first files: {files:?}");
    let (fewer, more) = (of(100).await, of(200).await);
    let is_in_more = |shard: &ShardSpec| more.iter().any(|other| other.shard == shard.shard);
    assert!(fewer.iter().all(is_in_more), "who asks for more keeps what there is");
    for enough in [460, 1_000_000] {
        assert_eq!(of(enough).await, all);
    }
}

#[tokio::test]
async fn files_that_came_later_are_planned_after_all_others_and_known_ones_are_not_read() {
    let root = tempfile::tempdir().unwrap();
    for name in ["b.parquet", "d.parquet"] {
        write(&root.path().join(name), &[10], "jpg");
    }
    std::fs::write(root.path().join("c.parquet"), b"no parquet").unwrap();
    let before = plan_dataset(&dataset(root.path()), 10).await.unwrap();
    let known: Vec<_> = before.shards.iter().chain(before.unreadable.iter().map(|file| &file.shard)).cloned().collect();
    let milled = Milled::of("web", &known);
    let none = plan_more(&dataset(root.path()), 10, &milled).await.unwrap();
    assert_eq!((none.shards.len(), none.unreadable.len()), (0, 1), "the broken one is looked at again");

    write(&root.path().join("a.parquet"), &[4], "jpg");
    write(&root.path().join("c.parquet"), &[7], "jpg");
    // A known file that changed isn't looked at: rows are known by their place.
    write(&root.path().join("b.parquet"), &[3], "jpg");
    let more = plan_more(&dataset(root.path()), 10, &milled).await.unwrap();
    let expected = [("web-00001-000000000", "c.parquet", 0, 7), ("web-00003-000000000", "a.parquet", 0, 4)];
    assert_eq!(summary(&more.shards), expected);
    let all = plan_again(&dataset(root.path()), 10, &milled).await.unwrap();
    let names: Vec<_> = all.shards.iter().map(|shard| (shard.shard.0.as_str(), shard.file.as_str())).collect();
    let expected = [
        ("web-00000-000000000", "b.parquet"),
        ("web-00001-000000000", "c.parquet"),
        ("web-00002-000000000", "d.parquet"),
        ("web-00003-000000000", "a.parquet"),
    ];
    assert_eq!(names, expected);
    let drawn = Dataset { max_rows: Some(5), ..dataset(root.path()) };
    assert!(plan_more(&drawn, 10, &milled).await.unwrap().shards.is_empty(), "the draw was of what there was");
}
