//! A shard's result as parquet files, the same bytes for the same rows, whoever writes them and when (DESIGN 3.2).

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Float32Array, Float32Builder, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterVersion};
use quern_corpus::{RowId, ShardSpec};

use crate::candidate::Source;
use crate::provenance::Provenance;
use crate::row::{PartRow, RowOutcome, Stage};
use crate::schema;

/// Rows per row group where parts carry images: larger groups don't fit Hugging Face's viewer.
const IMAGE_ROW_GROUP_ROWS: usize = 100;
/// The key under which `datasets` looks for what a column's type does not say, and that `image` holds images.
const HUGGING_FACE: &str = "huggingface";
const IMAGE_FEATURE: &str = r#"{"info": {"features": {"image": {"_type": "Image"}}}}"#;
/// Hex digits of a content digest in a file name: 128 bits.
pub(crate) const DIGEST_DIGITS: usize = 32;

/// A shard's result. The names are relative to the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// `data/{shard}-{digest of this file}.parquet`, if a row was kept or passed through.
    pub data: Option<(String, Bytes)>,
    /// `quarantine/{shard}-{digest of this file}.parquet`, if a row was quarantined.
    pub quarantine: Option<(String, Bytes)>,
    /// The digest of both files' contents.
    pub digest: String,
    /// Rows of the shard: kept, passed and quarantined.
    pub rows: u64,
    /// Rows with captions that were written and ranked.
    pub kept: u64,
    /// Rows whose caption is kept as it was.
    pub passed: u64,
    /// Rows that could not be processed.
    pub quarantined: u64,
    /// Those by stage and reason.
    pub reasons: BTreeMap<(Stage, String), u64>,
}

/// Rows that are not what a part is made of.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The rows are not the shard's, each once and in order.
    #[error(
        "shard {shard}: row {expected} is due, but {found} came; a part holds the shard's rows, each once, in order"
    )]
    Rows {
        /// The shard.
        shard: String,
        /// The row that is due, or the end.
        expected: String,
        /// The row that came, or the end.
        found: String,
    },
    /// An outcome that can't be.
    #[error("row {row}: {reason}")]
    Outcome {
        /// The row.
        row: RowId,
        /// What is wrong.
        reason: String,
    },
    /// The columns don't fit together.
    #[error("shard {shard}: the columns can't be built: {source}")]
    Columns {
        /// The shard.
        shard: String,
        /// Arrow's error.
        #[source]
        source: ArrowError,
    },
    /// Parquet refuses to write them.
    #[error("shard {shard}: the part can't be encoded: {source}")]
    Encode {
        /// The shard.
        shard: String,
        /// Parquet's error.
        #[source]
        source: ParquetError,
    },
}

/// Encodes the shard's rows, which must be all of them, in order. A pure function: equal arguments, equal bytes. Where no
/// row was ranked, the models are left out of the metadata, so that it doesn't matter whether a worker has loaded them.
///
/// # Errors
/// When the rows are not the shard's, or an outcome is impossible (nothing kept, a score that is not finite).
pub fn encode_part(shard: &ShardSpec, rows: Vec<PartRow>, provenance: &Provenance) -> Result<Part, PartError> {
    check(shard, &rows)?;
    let columns = |source| PartError::Columns { shard: shard.shard.to_string(), source };
    let count = |of: fn(&RowOutcome) -> bool| rows.iter().filter(|row| of(&row.outcome)).count() as u64;
    let kept = count(|outcome| matches!(outcome, RowOutcome::Kept { .. }));
    let passed = count(|outcome| matches!(outcome, RowOutcome::Passed { .. }));
    let quarantined = count(|outcome| matches!(outcome, RowOutcome::Quarantined { .. }));

    let data = (kept + passed > 0).then(|| data_batch(&rows)).transpose().map_err(columns)?;
    let quarantine = (quarantined > 0).then(|| quarantine_batch(&rows)).transpose().map_err(columns)?;
    let provenance = if kept > 0 { provenance.clone() } else { provenance.without_models() };
    let file = |kind: &str, batch: Option<RecordBatch>| {
        let Some(batch) = batch else { return Ok(None) };
        let encoded = encode(&batch, &provenance);
        let bytes = encoded.map_err(|source| PartError::Encode { shard: shard.shard.to_string(), source })?;
        Ok(Some((file_name(kind, &shard.shard.0, &bytes), bytes)))
    };
    let (data, quarantine) = (file(DATA_FOLDER, data)?, file(QUARANTINE_FOLDER, quarantine)?);
    let digest = digest(data.as_ref().map(|(_, bytes)| bytes), quarantine.as_ref().map(|(_, bytes)| bytes));
    Ok(Part { data, quarantine, digest, rows: rows.len() as u64, kept, passed, quarantined, reasons: reasons(&rows) })
}

fn reasons(rows: &[PartRow]) -> BTreeMap<(Stage, String), u64> {
    let mut reasons = BTreeMap::new();
    for row in rows {
        if let RowOutcome::Quarantined { stage, reason, .. } = &row.outcome {
            *reasons.entry((*stage, reason.clone())).or_default() += 1;
        }
    }
    reasons
}

/// Where data parts lie in an output.
pub const DATA_FOLDER: &str = "data";
/// Where quarantine parts lie in an output.
pub const QUARANTINE_FOLDER: &str = "quarantine";

/// The shard whose part a file of this name belongs to; none, when no part's file has such a name.
pub fn shard_of(file: &str) -> Option<&str> {
    let (_, name) = file.split_once('/')?;
    let (shard, digest) = name.strip_suffix(".parquet")?.rsplit_once('-')?;
    (digest.len() == DIGEST_DIGITS && digest.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(shard)
}

/// The name of a part's file with this content.
pub(crate) fn file_name(folder: &str, shard: &str, bytes: &Bytes) -> String {
    format!("{folder}/{shard}-{}.parquet", &blake3::hash(bytes).to_hex()[..DIGEST_DIGITS])
}

/// The digest of a part: of the digests of its files' contents, where "no file" is a content of its own.
pub(crate) fn digest(data: Option<&Bytes>, quarantine: Option<&Bytes>) -> String {
    let mut hasher = blake3::Hasher::new();
    for file in [data, quarantine] {
        match file {
            Some(bytes) => hasher.update(b"1").update(blake3::hash(bytes).as_bytes()),
            None => hasher.update(b"0"),
        };
    }
    hasher.finalize().to_hex()[..DIGEST_DIGITS].to_owned()
}

fn check(shard: &ShardSpec, rows: &[PartRow]) -> Result<(), PartError> {
    let expected = (shard.row_start..shard.row_start + shard.rows).map(|row| RowId {
        dataset: shard.dataset.as_str().into(),
        file: shard.file.as_str().into(),
        row,
    });
    let mut found = rows.iter().map(|row| &row.id);
    for due in expected {
        let row = found.next();
        if row != Some(&due) {
            return Err(wrong_row(shard, Some(&due), row));
        }
    }
    if let Some(extra) = found.next() {
        return Err(wrong_row(shard, None, Some(extra)));
    }
    rows.iter().try_for_each(check_outcome)
}

fn wrong_row(shard: &ShardSpec, expected: Option<&RowId>, found: Option<&RowId>) -> PartError {
    let name = |row: Option<&RowId>| row.map_or_else(|| "the end".to_owned(), ToString::to_string);
    PartError::Rows { shard: shard.shard.to_string(), expected: name(expected), found: name(found) }
}

fn check_outcome(row: &PartRow) -> Result<(), PartError> {
    let RowOutcome::Kept { candidates, kept } = &row.outcome else { return Ok(()) };
    let refuse = |reason: &str| Err(PartError::Outcome { row: row.id.clone(), reason: reason.into() });
    if kept.is_empty() {
        return refuse("it is kept without a caption");
    }
    if kept.iter().any(|&at| at >= candidates.len()) {
        return refuse("a kept caption is not among the candidates");
    }
    if candidates.iter().any(|candidate| !candidate.score.is_finite()) {
        return refuse("a score is not finite");
    }
    Ok(())
}

/// A caption as it is written.
struct Caption<'a> {
    text: &'a str,
    source: Source,
    score: Option<f32>,
    /// The rank of a kept caption, the index of a candidate.
    number: u32,
}

fn kept_captions(outcome: &RowOutcome) -> Vec<Caption<'_>> {
    match outcome {
        RowOutcome::Kept { candidates, kept } => kept
            .iter()
            .zip(1..)
            .map(|(&at, rank)| Caption {
                score: Some(candidates[at].score),
                number: rank,
                ..candidate(&candidates[at])
            })
            .collect(),
        RowOutcome::Passed { caption } => vec![Caption { text: caption, source: Source::Web, score: None, number: 1 }],
        RowOutcome::Quarantined { .. } => Vec::new(),
    }
}

fn all_candidates(outcome: &RowOutcome) -> Vec<Caption<'_>> {
    match outcome {
        RowOutcome::Kept { candidates, .. } => candidates.iter().map(candidate).collect(),
        RowOutcome::Passed { .. } | RowOutcome::Quarantined { .. } => Vec::new(),
    }
}

fn candidate(candidate: &crate::Candidate) -> Caption<'_> {
    let crate::Candidate { text, source, score, index } = candidate;
    Caption { text, source: *source, score: Some(*score), number: *index }
}

fn data_batch(rows: &[PartRow]) -> Result<RecordBatch, ArrowError> {
    let rows: Vec<&PartRow> =
        rows.iter().filter(|row| !matches!(row.outcome, RowOutcome::Quarantined { .. })).collect();
    let captions: Vec<Vec<Caption>> = rows.iter().map(|row| kept_captions(&row.outcome)).collect();
    let candidates: Vec<Vec<Caption>> = rows.iter().map(|row| all_candidates(&row.outcome)).collect();
    // LAION-COCO's columns list every caption there was: the candidates or, where there are none, the one passed through.
    let all: Vec<&[Caption]> =
        candidates.iter().zip(&captions).map(|(all, kept)| if all.is_empty() { &kept[..] } else { &all[..] }).collect();

    let mut columns = identity_columns(&rows);
    columns.push(caption_lists(&captions, schema::captions())?);
    columns.push(caption_lists(&candidates, schema::candidates())?);
    columns.push(Arc::new(StringArray::from_iter_values(captions.iter().map(|kept| kept[0].text))));
    let texts = StringArray::from_iter_values(all.iter().flat_map(|captions| captions.iter().map(|c| c.text)));
    columns.push(lists(&all, Arc::new(texts), false)?);
    let scores: Float32Array = all.iter().flat_map(|captions| captions.iter().map(|c| c.score)).collect();
    columns.push(lists(&all, Arc::new(scores), true)?);
    let with_images = rows.iter().any(|row| row.image.is_some());
    if with_images {
        columns.push(Arc::new(images(&rows)?));
    }
    RecordBatch::try_new(schema::data(with_images), columns)
}

fn quarantine_batch(rows: &[PartRow]) -> Result<RecordBatch, ArrowError> {
    let failed = |row: &PartRow| match &row.outcome {
        RowOutcome::Quarantined { stage, reason, detail } => Some((*stage, reason.clone(), detail.clone())),
        RowOutcome::Kept { .. } | RowOutcome::Passed { .. } => None,
    };
    let (rows, failures): (Vec<&PartRow>, Vec<(Stage, String, String)>) =
        rows.iter().filter_map(|row| Some((row, failed(row)?))).unzip();
    let mut columns = identity_columns(&rows);
    columns.push(Arc::new(StringArray::from_iter_values(failures.iter().map(|(stage, ..)| stage.as_str()))));
    columns.push(Arc::new(StringArray::from_iter_values(failures.iter().map(|(_, reason, _)| reason))));
    columns.push(Arc::new(StringArray::from_iter_values(failures.iter().map(|(.., detail)| detail))));
    RecordBatch::try_new(schema::quarantine(), columns)
}

fn identity_columns(rows: &[&PartRow]) -> Vec<ArrayRef> {
    vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &*row.id.dataset))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &*row.id.file))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.id.row as i64))),
        Arc::new(rows.iter().map(|row| row.key.as_deref()).collect::<StringArray>()),
    ]
}

/// `list<struct<text, source, score, rank | index>>`
fn caption_lists(captions: &[Vec<Caption>], fields: arrow::datatypes::Fields) -> Result<ArrayRef, ArrowError> {
    let flat = || captions.iter().flatten();
    let mut scores = Float32Builder::new();
    flat().for_each(|caption| scores.append_option(caption.score));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(flat().map(|caption| caption.text))),
        Arc::new(StringArray::from_iter_values(flat().map(|caption| caption.source.as_str()))),
        Arc::new(scores.finish()),
        Arc::new(Int32Array::from_iter_values(flat().map(|caption| caption.number as i32))),
    ];
    let captions: Vec<&[Caption]> = captions.iter().map(Vec::as_slice).collect();
    lists(&captions, Arc::new(StructArray::try_new(fields, columns, None)?), false)
}

/// `flat` as lists of the lengths of `shape`.
fn lists(shape: &[&[Caption]], flat: ArrayRef, nullable: bool) -> Result<ArrayRef, ArrowError> {
    let offsets = OffsetBuffer::from_lengths(shape.iter().map(|captions| captions.len()));
    let element = schema::element(flat.data_type().clone(), nullable);
    Ok(Arc::new(ListArray::try_new(element, offsets, flat, None)?))
}

/// `struct<bytes, path>`; a row without an image is null.
fn images(rows: &[&PartRow]) -> Result<StructArray, ArrowError> {
    let mut bytes = BinaryBuilder::new();
    rows.iter().for_each(|row| bytes.append_option(row.image.as_deref()));
    let paths = arrow::array::new_null_array(&DataType::Utf8, rows.len());
    let present = NullBuffer::from_iter(rows.iter().map(|row| row.image.is_some()));
    StructArray::try_new(schema::image(), vec![Arc::new(bytes.finish()), paths], Some(present))
}

fn encode(batch: &RecordBatch, provenance: &Provenance) -> Result<Bytes, ParquetError> {
    let properties = properties(&batch.schema(), provenance)?;
    // Arrow's own schema stays out of the file: the parquet schema says it all.
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new_with_options(&mut bytes, batch.schema(), options)?;
    writer.write(batch)?;
    writer.close()?;
    Ok(bytes.into())
}

/// Every setting that touches the bytes is stated, so that no default of a later version changes them unseen.
fn properties(schema: &SchemaRef, provenance: &Provenance) -> Result<WriterProperties, ParquetError> {
    let has_images = schema.column_with_name(schema::IMAGE).is_some();
    let row_group_rows = if has_images { IMAGE_ROW_GROUP_ROWS } else { 1 << 20 };
    let mut metadata = provenance.to_metadata();
    metadata.extend(has_images.then(|| KeyValue::new(HUGGING_FACE.to_owned(), IMAGE_FEATURE.to_owned())));
    Ok(WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_created_by(format!("quern version {}", provenance.version))
        .set_key_value_metadata(Some(metadata))
        .set_max_row_group_row_count(Some(row_group_rows))
        .set_data_page_size_limit(1 << 20)
        .set_dictionary_page_size_limit(1 << 20)
        .build())
}
