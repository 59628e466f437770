//! Parts read back.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{Float32Type, Int32Type, Int64Type};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use quern_corpus::{RowId, check_places};

use crate::candidate::{Candidate, Source};
use crate::provenance::Provenance;
use crate::row::Stage;
use crate::schema;

/// Why bytes are no part.
#[derive(Debug, thiserror::Error)]
pub enum ReadPartError {
    /// They are no parquet.
    #[error("not a readable parquet file: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// A page is damaged.
    #[error("not a readable parquet file: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// It is parquet, but not a part's.
    #[error("not a part that quern wrote: {0}")]
    Foreign(String),
}

/// A caption to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptCaption {
    /// The caption.
    pub text: String,
    /// Who wrote it.
    pub source: Source,
    /// Its similarity to the image; none if it was passed through unranked.
    pub score: Option<f32>,
    /// 1 is the best.
    pub rank: u32,
}

/// A row to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct CaptionRow {
    /// Who it is.
    pub id: RowId,
    /// The key column's value, carried along.
    pub key: Option<String>,
    /// Its captions, best first; never empty.
    pub captions: Vec<KeptCaption>,
}

/// A row of a data part with all that is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct DataRow {
    /// Who it is.
    pub id: RowId,
    /// The key column's value, carried along.
    pub key: Option<String>,
    /// Its captions, best first; never empty.
    pub captions: Vec<KeptCaption>,
    /// Every distinct candidate; none for a row that was passed through.
    pub candidates: Vec<Candidate>,
    /// The encoded image, where the part carries it.
    pub image: Option<Bytes>,
}

/// A row of a quarantine part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineRow {
    /// Who it is.
    pub id: RowId,
    /// The key column's value, carried along.
    pub key: Option<String>,
    /// Where it failed.
    pub stage: Stage,
    /// A short word.
    pub reason: String,
    /// What exactly was wrong.
    pub detail: String,
}

/// The rows of a data part with the captions to train on; no other column is decoded.
///
/// # Errors
/// When the bytes are not a data part.
pub fn read_captions(data: Bytes) -> Result<Vec<CaptionRow>, ReadPartError> {
    let mut rows = Vec::new();
    for batch in batches(data, &[schema::DATASET, schema::FILE, schema::ROW, schema::KEY, schema::CAPTIONS])? {
        let columns = Columns(&batch?);
        let captions = columns.lists(schema::CAPTIONS, kept_caption)?;
        for (((id, key), captions), at) in columns.identities()?.into_iter().zip(captions).zip(0..) {
            if captions.is_empty() {
                return Err(ReadPartError::Foreign(format!("row {at} has no caption")));
            }
            rows.push(CaptionRow { id, key, captions });
        }
    }
    Ok(rows)
}

/// The rows of a data part with all that is known about them.
///
/// # Errors
/// When the bytes are not a data part.
pub fn read_data(data: Bytes) -> Result<Vec<DataRow>, ReadPartError> {
    let rows = read_captions(data.clone())?;
    let mut details = Vec::with_capacity(rows.len());
    for batch in batches(data, &[schema::CANDIDATES, schema::IMAGE])? {
        let columns = Columns(&batch?);
        details.extend(columns.lists(schema::CANDIDATES, candidate)?.into_iter().zip(columns.images()?));
    }
    let whole = |(row, (candidates, image)): (CaptionRow, (Vec<Candidate>, Option<Bytes>))| {
        let CaptionRow { id, key, captions } = row;
        DataRow { id, key, captions, candidates, image }
    };
    Ok(rows.into_iter().zip(details).map(whole).collect())
}

/// The rows of a quarantine part.
///
/// # Errors
/// When the bytes are not a quarantine part.
pub fn read_quarantine(quarantine: Bytes) -> Result<Vec<QuarantineRow>, ReadPartError> {
    let names =
        [schema::DATASET, schema::FILE, schema::ROW, schema::KEY, schema::STAGE, schema::REASON, schema::DETAIL];
    let mut rows = Vec::new();
    for batch in batches(quarantine, &names)? {
        let columns = Columns(&batch?);
        let (stages, reasons) = (columns.texts(schema::STAGE)?, columns.texts(schema::REASON)?);
        let details = columns.texts(schema::DETAIL)?;
        for (at, (id, key)) in columns.identities()?.into_iter().enumerate() {
            let name = stages.value(at);
            let stage = Stage::parse(name)
                .ok_or_else(|| ReadPartError::Foreign(format!("`{name}` is no stage that is known")))?;
            let (reason, detail) = (reasons.value(at).to_owned(), details.value(at).to_owned());
            rows.push(QuarantineRow { id, key, stage, reason, detail });
        }
    }
    Ok(rows)
}

/// Where a part came from, out of the file's metadata.
///
/// # Errors
/// When the bytes are not a part.
pub fn read_provenance(part: Bytes) -> Result<Provenance, ReadPartError> {
    let reader = open(part)?;
    let metadata = reader.metadata().file_metadata().key_value_metadata();
    let none = Vec::new();
    Provenance::from_metadata(metadata.unwrap_or(&none)).map_err(ReadPartError::Foreign)
}

fn open(part: Bytes) -> Result<ParquetRecordBatchReaderBuilder<Bytes>, ReadPartError> {
    let bytes = part.len() as u64;
    let builder = ParquetRecordBatchReaderBuilder::try_new(part)?;
    check_places(builder.metadata(), bytes)?;
    Ok(builder)
}

type BatchIterator = Box<dyn Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>>>;

/// The file's rows; of its columns, those that are named.
fn batches(part: Bytes, columns: &[&str]) -> Result<BatchIterator, ReadPartError> {
    let builder = open(part)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    Ok(Box::new(builder.with_projection(mask).build()?))
}

/// The columns of a batch by name, with their types checked.
struct Columns<'a>(&'a RecordBatch);

impl Columns<'_> {
    fn column(&self, name: &str) -> Result<&ArrayRef, ReadPartError> {
        self.0.column_by_name(name).ok_or_else(|| ReadPartError::Foreign(format!("there is no column `{name}`")))
    }

    fn texts(&self, name: &str) -> Result<&StringArray, ReadPartError> {
        self.column(name)?.as_string_opt().ok_or_else(|| wrong_type(name))
    }

    fn identities(&self) -> Result<Vec<(RowId, Option<String>)>, ReadPartError> {
        let (datasets, files, keys) =
            (self.texts(schema::DATASET)?, self.texts(schema::FILE)?, self.texts(schema::KEY)?);
        let rows = self.column(schema::ROW)?.as_primitive_opt::<Int64Type>().ok_or_else(|| wrong_type(schema::ROW))?;
        let mut names: Option<(Arc<str>, Arc<str>)> = None;
        let identity = |at: usize| {
            let (dataset, file) = match names.take() {
                Some(last) if &*last.0 == datasets.value(at) && &*last.1 == files.value(at) => last,
                _ => (datasets.value(at).into(), files.value(at).into()),
            };
            names = Some((dataset.clone(), file.clone()));
            let row = u64::try_from(rows.value(at))
                .map_err(|_| ReadPartError::Foreign(format!("row number {} is negative", rows.value(at))))?;
            Ok((RowId { dataset, file, row }, keys.is_valid(at).then(|| keys.value(at).to_owned())))
        };
        (0..self.0.num_rows()).map(identity).collect()
    }

    /// A list of structs per row, each struct read by `read`.
    fn lists<T>(
        &self,
        name: &str,
        read: fn(&Captions, usize) -> Result<T, ReadPartError>,
    ) -> Result<Vec<Vec<T>>, ReadPartError> {
        let lists = self.column(name)?.as_list_opt::<i32>().ok_or_else(|| wrong_type(name))?;
        let structs = lists.values().as_struct_opt().ok_or_else(|| wrong_type(name))?;
        let captions = Captions::of(structs, name)?;
        let row = |range: &[i32]| (range[0] as usize..range[1] as usize).map(|at| read(&captions, at)).collect();
        lists.value_offsets().windows(2).map(row).collect()
    }

    /// The image of every row; none if there is no such column.
    fn images(&self) -> Result<Vec<Option<Bytes>>, ReadPartError> {
        let Some(column) = self.0.column_by_name(schema::IMAGE) else { return Ok(vec![None; self.0.num_rows()]) };
        let structs = column.as_struct_opt().ok_or_else(|| wrong_type(schema::IMAGE))?;
        let bytes = field(structs, schema::BYTES, schema::IMAGE)?;
        let bytes = bytes.as_binary_opt::<i32>().ok_or_else(|| wrong_type(schema::IMAGE))?;
        let present = |at: usize| structs.is_valid(at) && bytes.is_valid(at);
        Ok((0..bytes.len()).map(|at| present(at).then(|| Bytes::copy_from_slice(bytes.value(at)))).collect())
    }
}

/// The fields of a list of captions; `number` is the rank or the index.
struct Captions<'a> {
    texts: &'a StringArray,
    sources: &'a StringArray,
    scores: &'a arrow::array::Float32Array,
    numbers: &'a arrow::array::Int32Array,
}

impl<'a> Captions<'a> {
    fn of(structs: &'a StructArray, column: &str) -> Result<Self, ReadPartError> {
        let number = if column == schema::CAPTIONS { schema::RANK } else { schema::INDEX };
        let field = |name| field(structs, name, column);
        let wrong = || wrong_type(column);
        Ok(Captions {
            texts: field(schema::TEXT)?.as_string_opt().ok_or_else(wrong)?,
            sources: field(schema::SOURCE)?.as_string_opt().ok_or_else(wrong)?,
            scores: field(schema::SCORE)?.as_primitive_opt::<Float32Type>().ok_or_else(wrong)?,
            numbers: field(number)?.as_primitive_opt::<Int32Type>().ok_or_else(wrong)?,
        })
    }

    fn source(&self, at: usize) -> Result<Source, ReadPartError> {
        let name = self.sources.value(at);
        Source::parse(name).ok_or_else(|| ReadPartError::Foreign(format!("`{name}` is no source of captions")))
    }

    fn number(&self, at: usize) -> Result<u32, ReadPartError> {
        let number = self.numbers.value(at);
        u32::try_from(number).map_err(|_| ReadPartError::Foreign(format!("{number} is no rank or index")))
    }
}

fn kept_caption(captions: &Captions, at: usize) -> Result<KeptCaption, ReadPartError> {
    Ok(KeptCaption {
        text: captions.texts.value(at).to_owned(),
        source: captions.source(at)?,
        score: captions.scores.is_valid(at).then(|| captions.scores.value(at)),
        rank: captions.number(at)?,
    })
}

fn candidate(captions: &Captions, at: usize) -> Result<Candidate, ReadPartError> {
    Ok(Candidate {
        text: captions.texts.value(at).to_owned(),
        source: captions.source(at)?,
        score: captions.scores.value(at),
        index: captions.number(at)?,
    })
}

fn field<'a>(structs: &'a StructArray, name: &str, column: &str) -> Result<&'a ArrayRef, ReadPartError> {
    structs
        .column_by_name(name)
        .ok_or_else(|| ReadPartError::Foreign(format!("column `{column}` has no field `{name}`")))
}

fn wrong_type(name: &str) -> ReadPartError {
    ReadPartError::Foreign(format!("column `{name}` has another type than a part's"))
}
