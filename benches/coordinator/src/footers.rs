//! A corpus of footers: parquet files whose metadata is real and whose pages are holes.
//!
//! Every file has the columns of a LAION-like data set, row groups of 2,000 rows and a size of some 300 MB. A reader that
//! looks at nothing but the metadata sees no difference; on disk a file takes a few kilobytes.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use parquet::basic::{Compression, Encoding};
use parquet::data_type::ByteArray;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, ParquetMetaData, ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::statistics::Statistics;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnDescPtr, SchemaDescPtr, SchemaDescriptor};

/// Rows of a file.
pub const FILE_ROWS: u64 = 10_000;
/// Rows of a row group.
pub const GROUP_ROWS: u64 = 2_000;
/// Files per folder of the corpus.
const FOLDER_FILES: usize = 1_000;

const SCHEMA: &str = "message schema {
    optional binary key (UTF8);
    optional binary url (UTF8);
    optional binary caption (UTF8);
    optional binary jpg;
    optional int32 width;
    optional int32 height;
    optional double similarity;
}";

/// Bytes per row and column, in the schema's order.
const ROW_BYTES: [u64; 7] = [9, 70, 60, 30_000, 2, 2, 8];

/// Writes `files` files under `root`.
///
/// # Errors
/// When the disk takes no more files.
pub fn write_corpus(root: &Path, files: usize) -> anyhow::Result<()> {
    let schema = Arc::new(SchemaDescriptor::new(Arc::new(parse_message_type(SCHEMA)?)));
    for index in 0..files {
        let folder = root.join(format!("{:03}", index / FOLDER_FILES));
        if index % FOLDER_FILES == 0 {
            fs::create_dir_all(&folder)?;
        }
        let path = folder.join(format!("{index:05}.parquet"));
        write_file(&path, &schema, index).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn write_file(path: &Path, schema: &SchemaDescPtr, index: usize) -> anyhow::Result<()> {
    let mut offset = 4;
    let groups: Vec<_> = (0..FILE_ROWS / GROUP_ROWS)
        .map(|group| row_group(schema, &mut offset, index, group))
        .collect::<Result<_, _>>()?;
    let created_by = Some("bench-coordinator".to_owned());
    let file = FileMetaData::new(2, FILE_ROWS as i64, created_by, None, Arc::clone(schema), None);
    let metadata = ParquetMetaData::new(file, groups);
    let mut footer = Vec::new();
    ParquetMetaDataWriter::new(&mut footer, &metadata).finish()?;
    let mut file = File::create(path)?;
    file.write_all(b"PAR1")?;
    file.seek(SeekFrom::Start(offset as u64))?;
    file.write_all(&footer)?;
    Ok(())
}

fn row_group(
    schema: &SchemaDescPtr,
    offset: &mut i64,
    file: usize,
    group: u64,
) -> parquet::errors::Result<RowGroupMetaData> {
    let start = *offset;
    let key = |row: u64| format!("{file:05}{:04}", group * GROUP_ROWS + row);
    let columns = schema.columns().iter().zip(ROW_BYTES).map(|(column, bytes)| {
        let statistics = (column.name() == "key").then(|| between(&key(0), &key(GROUP_ROWS - 1)));
        chunk(column, offset, (GROUP_ROWS * bytes) as i64, statistics)
    });
    let columns = columns.collect::<parquet::errors::Result<Vec<_>>>()?;
    RowGroupMetaData::builder(Arc::clone(schema))
        .set_num_rows(GROUP_ROWS as i64)
        .set_total_byte_size(*offset - start)
        .set_column_metadata(columns)
        .set_file_offset(start)
        .set_ordinal(group as i32)
        .build()
}

fn chunk(
    column: &ColumnDescPtr,
    offset: &mut i64,
    bytes: i64,
    statistics: Option<Statistics>,
) -> parquet::errors::Result<ColumnChunkMetaData> {
    let mut chunk = ColumnChunkMetaData::builder(Arc::clone(column))
        .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
        .set_compression(Compression::SNAPPY)
        .set_num_values(GROUP_ROWS as i64)
        .set_total_compressed_size(bytes)
        .set_total_uncompressed_size(bytes)
        .set_data_page_offset(*offset);
    if let Some(statistics) = statistics {
        chunk = chunk.set_statistics(statistics);
    }
    *offset += bytes;
    chunk.build()
}

fn between(least: &str, greatest: &str) -> Statistics {
    Statistics::byte_array(Some(ByteArray::from(least)), Some(ByteArray::from(greatest)), None, Some(0), false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    #[test]
    fn a_usual_reader_reads_the_metadata() {
        let folder = tempfile::tempdir().unwrap();
        write_corpus(folder.path(), 2).unwrap();
        let file = File::open(folder.path().join("000/00001.parquet")).unwrap();
        let on_disk = file.metadata().unwrap();
        assert!(on_disk.len() > 300_000_000 && on_disk.blocks() * 512 < 100_000, "{} blocks", on_disk.blocks());
        let reader = SerializedFileReader::new(file).unwrap();
        let metadata = reader.metadata();
        assert_eq!(metadata.file_metadata().num_rows(), 10_000);
        let rows: Vec<_> = metadata.row_groups().iter().map(RowGroupMetaData::num_rows).collect();
        assert_eq!(rows, [2_000; 5]);
        let ranges: Vec<_> =
            metadata.row_groups().iter().flat_map(|group| group.columns()).map(|chunk| chunk.byte_range()).collect();
        assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0), "chunks lie end to end: {ranges:?}");
        let least = metadata.row_group(4).column(0).statistics().unwrap().min_bytes_opt().unwrap();
        assert_eq!(least, b"000018000");
    }
}
