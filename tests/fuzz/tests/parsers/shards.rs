//! A file of a data set, from the plan to the rows: what tar files and parquet files have in common.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use quern_corpus::discover::{NamedColumns, discover_columns};
use quern_corpus::plan::plan_folder;
use quern_corpus::reader::{RawRow, Reader};
use quern_corpus::store::Folder;
use quern_recipes::{Columns, Dataset, ImageLimits, Images};

/// An image that is longer is not read.
const MAX_BYTES: u64 = 1 << 20;
/// Shards that are read of a file: a footer may promise very many.
const READ_SHARDS: usize = 8;

/// Plans a file with these bytes and reads what was planned; `images` says what the image column holds.
pub fn mill(bytes: &[u8], ending: &str, images: Images) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let folder = Folder::new(Arc::new(InMemory::new()), "data".into(), "memory:///data");
        folder.put(&format!("file.{ending}"), Bytes::copy_from_slice(bytes)).await.expect("memory takes it");
        let _ = discover_columns(&folder, NamedColumns::default()).await;
        let (name, path) = ("web".into(), "memory:///data".into());
        let columns = Columns::default();
        let dataset =
            Dataset { name, path, columns, format: None, images, max_rows: None, weight: None, capfilt: true };
        let Ok(plan) = plan_folder(&folder, &dataset, 1_000_000).await else { return };
        assert!(plan.unreadable.is_empty() || plan.shards.is_empty(), "the file is read or it isn't");
        let reader = Reader::new(&ImageLimits { max_bytes: MAX_BYTES, ..ImageLimits::default() });
        let mut next = 0;
        for shard in plan.shards.into_iter().take(READ_SHARDS) {
            assert_eq!(shard.row_start, next, "shards follow each other");
            next += shard.rows;
            let read = reader.rows_in(&folder, &dataset, &shard.file, shard.row_start, shard.rows);
            let rows: Result<Vec<RawRow>, _> = async { read.await?.try_collect().await }.await;
            let Ok(rows) = rows else { continue };
            assert_eq!(rows.len() as u64, shard.rows, "what is read is what was planned");
            for (row, number) in rows.iter().zip(shard.row_start..) {
                assert_eq!(row.id.row, number);
                let length = row.image.as_ref().map_or(0, |image| image.len());
                assert!(length <= bytes.len() || ending != "tar", "an image lies in its file");
            }
        }
    });
}
