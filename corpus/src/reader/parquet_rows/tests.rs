use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, Int64Array, LargeBinaryArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{Field, Fields};
use object_store::memory::InMemory;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use proptest::prelude::*;
use quern_recipes::{ImageLimits, Images};

use super::*;
use crate::counted::Counted;
use crate::reader::{Reader, RowStream};
use crate::store::StoreError;

async fn read_rows_in(
    folder: &Folder,
    dataset: &Dataset,
    file: &str,
    row_start: u64,
    rows: u64,
) -> Result<RowStream, ReadError> {
    Reader::new(&ImageLimits::default()).rows_in(folder, dataset, file, row_start, rows).await
}

fn dataset(columns: Columns) -> Dataset {
    Dataset {
        name: "web".into(),
        path: "unused".into(),
        format: None,
        images: Images::Bytes,
        columns,
        max_rows: None,
        weight: None,
        capfilt: true,
    }
}

fn properties(page_index: bool) -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_statistics_enabled(if page_index { EnabledStatistics::Page } else { EnabledStatistics::None })
        .set_offset_index_disabled(!page_index)
        .set_dictionary_enabled(false)
        .set_data_page_row_count_limit(7)
        .set_write_batch_size(7)
        .set_max_row_group_row_count(Some(50))
        .build()
}

fn encode(batch: &RecordBatch, properties: WriterProperties) -> Bytes {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes.into()
}

async fn folder(bytes: Bytes) -> Folder {
    let folder = Folder::new(Arc::new(InMemory::new()), Path::from("corpus"), "memory://corpus");
    folder.put("some/file.parquet", bytes).await.unwrap();
    folder
}

/// Image, caption and key of row `row`: nulls, empty values and repeats included.
fn row_values(row: u64) -> (Option<Vec<u8>>, Option<String>, Option<String>) {
    let image = (!row.is_multiple_of(11)).then(|| vec![row as u8; (row * 37 % 500) as usize]);
    let caption = (!row.is_multiple_of(5))
        .then(|| if row.is_multiple_of(7) { String::new() } else { format!("caption {row} é") });
    (image, caption, (!row.is_multiple_of(3)).then(|| format!("{:09}", row / 2)))
}

fn web_batch(rows: u64) -> RecordBatch {
    let images = BinaryArray::from_iter((0..rows).map(|row| row_values(row).0));
    let captions = StringArray::from_iter((0..rows).map(|row| row_values(row).1));
    let keys = StringArray::from_iter((0..rows).map(|row| row_values(row).2));
    let columns: [(&str, ArrayRef); 4] = [
        ("width", Arc::new(Int64Array::from_iter_values(0..rows as i64))),
        ("key", Arc::new(keys)),
        ("caption", Arc::new(captions)),
        ("jpg", Arc::new(images)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

fn web_rows(rows: std::ops::Range<u64>) -> Vec<RawRow> {
    let row = |row| {
        let (image, caption, key) = row_values(row);
        let id = RowId { dataset: "web".into(), file: "some/file.parquet".into(), row };
        RawRow { id, key, image: image.map(Bytes::from), missing: None, caption }
    };
    rows.map(row).collect()
}

async fn read(folder: &Folder, dataset: &Dataset, start: u64, rows: u64) -> Result<Vec<RawRow>, ReadError> {
    read_rows_in(folder, dataset, "some/file.parquet", start, rows).await?.try_collect().await
}

#[tokio::test]
async fn any_range_is_read_with_and_without_a_page_index() {
    for page_index in [true, false] {
        let folder = folder(encode(&web_batch(173), properties(page_index))).await;
        let dataset = dataset(Columns::default());
        for (start, rows) in [(0, 173), (0, 1), (172, 1), (49, 2), (13, 100), (50, 50), (60, 0), (173, 0)] {
            let found = read(&folder, &dataset, start, rows).await.unwrap();
            assert_eq!(found, web_rows(start..start + rows), "{start}, {rows}, index {page_index}");
        }
    }
}

#[tokio::test]
async fn pieces_end_at_pages_and_together_are_the_range() {
    let folder = folder(encode(&web_batch(173), properties(true))).await;
    let source = Source::open(&folder, &dataset(Columns::default()), "some/file.parquet").await.unwrap();
    let index = source.metadata.metadata().page_index_for_row_group(1);
    let pages = index.page_locations(source.leaves.of_image()).expect("a page index");
    assert!(pages.len() > 3, "{pages:?}");
    let pieces = source.pieces(13, 100).unwrap();
    assert_eq!(pieces.iter().map(|piece| piece.rows).sum::<u64>(), 100);
    assert_eq!(pieces.iter().map(|piece| (piece.row_group, piece.skip)).collect::<Vec<_>>(), [(0, 13), (1, 0), (2, 0)]);
}

proptest! {
    #[test]
    fn cuts_bound_the_bytes_of_a_piece(
        sizes in proptest::collection::vec((1u64..9, 1u64..40), 1..30), first in 0u64..40, rows in 0u64..90, limit in 1u64..100
    ) {
        let mut start = 0;
        let pages: Vec<(u64, u64)> = sizes.iter().map(|&(rows, bytes)| {
            start += rows;
            (start - rows, bytes)
        }).collect();
        let last = (first + rows).min(start);
        let cuts = cuts_at_pages(&pages, first, last, limit);
        let mut edges = vec![first];
        edges.extend(&cuts);
        edges.push(last);
        for edge in edges.windows(2) {
            let touched: Vec<u64> = (0..pages.len())
                .filter(|&page| pages[page].0 < edge[1] && pages.get(page + 1).is_none_or(|next| next.0 > edge[0]))
                .map(|page| pages[page].1)
                .collect();
            prop_assert!(touched.len() <= 1 || touched.iter().sum::<u64>() <= limit, "{:?} of {:?}", edge, pages);
        }
        prop_assert!(cuts.iter().all(|cut| first < *cut && *cut < last && pages.iter().any(|page| page.0 == *cut)));
    }
}

#[tokio::test]
async fn hugging_face_images_and_integer_keys_are_read() {
    let bytes = LargeBinaryArray::from_opt_vec(vec![Some(b"one"), None, Some(b"three")]);
    let paths = StringArray::from(vec![Some("1.jpg"), None, None]);
    let fields = Fields::from(vec![
        Field::new("bytes", bytes.data_type().clone(), true),
        Field::new("path", paths.data_type().clone(), true),
    ]);
    let images = StructArray::new(fields, vec![Arc::new(bytes), Arc::new(paths)], None);
    let columns: [(&str, ArrayRef); 3] = [
        ("image", Arc::new(images)),
        ("text", Arc::new(StringArray::from(vec!["a", "b", "c"]))),
        ("id", Arc::new(Int64Array::from(vec![7, -8, 9]))),
    ];
    let folder = folder(encode(&RecordBatch::try_from_iter(columns).unwrap(), properties(true))).await;
    let dataset = dataset(Columns { image: "image".into(), caption: "text".into(), key: "id".into() });
    let found: Vec<_> = read(&folder, &dataset, 0, 3).await.unwrap();
    let found: Vec<_> = found.into_iter().map(|row| (row.image, row.caption.unwrap(), row.key.unwrap())).collect();
    let one = |bytes: &'static str| Some(Bytes::from(bytes));
    let wanted = [(one("one"), "a", "7"), (None, "b", "-8"), (one("three"), "c", "9")];
    assert_eq!(found, wanted.map(|(image, text, key)| (image, text.to_string(), key.to_string())));
}

/// Python writers happily store broken UTF-8 in a text column; one such row must not cost its file.
#[tokio::test]
async fn broken_text_costs_no_row() {
    let batch = web_batch(20);
    let mut bytes = encode(&batch, WriterProperties::builder().set_dictionary_enabled(false).build()).to_vec();
    let at = bytes.windows(10).position(|window| window == b"caption 13").unwrap();
    bytes[at] = 0xff;
    let folder = folder(bytes.into()).await;
    let found = read(&folder, &dataset(Columns::default()), 0, 20).await.unwrap();
    assert_eq!(found[13].caption.as_deref(), Some("\u{fffd}aption 13 é"));
    assert_eq!(found[12], web_rows(12..13)[0]);
}

#[tokio::test]
async fn errors_name_file_rows_and_columns() {
    let good = encode(&web_batch(120), properties(true));
    let folder_of_good = folder(good.clone()).await;
    let web = dataset(Columns::default());

    let error = read(&folder_of_good, &web, 100, 21).await.unwrap_err();
    assert_eq!(error.reason(), "file_changed");
    assert!(error.to_string().contains("memory://corpus/some/file.parquet: rows 100 to 121"), "{error}");

    let error = read(&folder_of_good, &dataset(Columns { image: "webp".into(), ..Columns::default() }), 0, 1).await;
    let error = error.unwrap_err();
    assert_eq!(error.reason(), "file_columns");
    assert!(error.to_string().contains("`width`, `key`, `caption`, `jpg`"), "{error}");

    let error = read_rows_in(&folder_of_good, &web, "missing.parquet", 0, 1).await.err().unwrap();
    assert_eq!((error.reason(), error.is_passing()), ("file_not_found", false));

    let truncated = folder(good.slice(..good.len() - 5)).await;
    let error = read(&truncated, &web, 0, 1).await.unwrap_err();
    assert_eq!((error.reason(), error.is_passing()), ("file_unreadable", false));

    // Damage in the second row group's pages: rows before it are delivered, then the error says where.
    let mut damaged = good.to_vec();
    let metadata = parquet::file::metadata::ParquetMetaDataReader::new().parse_and_finish(&good).unwrap();
    let (start, len) = metadata.row_group(1).column(3).byte_range();
    damaged[start as usize..(start + len) as usize].fill(0xff);
    let damaged = folder(damaged.into()).await;
    let stream = read_rows_in(&damaged, &web, "some/file.parquet", 40, 30).await.unwrap();
    let found: Vec<Result<RawRow, ReadError>> = stream.collect().await;
    assert_eq!(found.iter().take_while(|row| row.is_ok()).count(), 10);
    let error = found[10].as_ref().unwrap_err();
    assert!(matches!(error, ReadError::Parquet { row_start: 50, row_end: 70, .. }) && !error.is_passing(), "{error}");
}

/// A file that can't be read now because its store is out of order is not a bad file.
#[test]
fn a_failing_store_is_told_from_a_bad_file() {
    let cut = || object_store::Error::Generic { store: "test", source: "the connection was cut".into() };
    let missing = || object_store::Error::NotFound { path: "f".into(), source: "gone".into() };
    for (cause, passing) in [(cut(), true), (missing(), false)] {
        let source = ParquetError::External(Box::new(cause));
        let error = ReadError::Parquet { url: "memory://f".into(), row_start: 0, row_end: 9, source };
        assert_eq!(error.is_passing(), passing, "{error}");
    }
    let failed = StoreError::Failed { action: "read", url: "memory://f".into(), source: cut() };
    assert!(ReadError::Store(failed).is_passing());
}

/// Only the pieces ahead are fetched while the consumer waits, and the rest when it goes on.
#[tokio::test]
async fn prefetch_is_bounded() {
    let row_bytes = 1000;
    let images = BinaryArray::from_iter_values((0..1000).map(|row| vec![row as u8; row_bytes]));
    let captions = StringArray::from_iter_values((0..1000).map(|_| "same"));
    let columns: [(&str, ArrayRef); 2] = [("jpg", Arc::new(images)), ("caption", Arc::new(captions))];
    let plain = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(Some(50)); // a piece each, for want of a page index
    let file = encode(&RecordBatch::try_from_iter(columns).unwrap(), plain.build());
    let store = Arc::new(Counted::new(InMemory::new()));
    let folder = Folder::new(store.clone(), Path::default(), "memory://");
    folder.put("f.parquet", file).await.unwrap();

    let mut rows = read_rows_in(&folder, &dataset(Columns::default()), "f.parquet", 0, 1000).await.unwrap();
    let opened = store.bytes();
    rows.next().await.unwrap().unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await; // the tasks run as far as they will
    }
    let group_bytes = (50 * row_bytes) as u64;
    let ahead = (store.bytes() - opened) / group_bytes;
    assert!((2..=PREFETCH_PIECES as u64 + 1).contains(&ahead), "{ahead} pieces");
    assert_eq!(rows.count().await, 999);
    assert!(store.bytes() - opened > 18 * group_bytes);
}
