//! The columns of data and quarantine parts.
//!
//! `top_caption, all_captions, all_similarities` are those of LAION-COCO; `image` is Hugging Face's image feature.
//! List elements are called `element`, as the parquet specification has it, and integers are signed: every reader has those.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

pub(crate) const DATASET: &str = "dataset";
pub(crate) const FILE: &str = "file";
pub(crate) const ROW: &str = "row";
pub(crate) const KEY: &str = "key";
pub(crate) const CAPTIONS: &str = "captions";
pub(crate) const CANDIDATES: &str = "candidates";
pub(crate) const TOP_CAPTION: &str = "top_caption";
pub(crate) const ALL_CAPTIONS: &str = "all_captions";
pub(crate) const ALL_SIMILARITIES: &str = "all_similarities";
pub(crate) const IMAGE: &str = "image";
pub(crate) const STAGE: &str = "stage";
pub(crate) const REASON: &str = "reason";
pub(crate) const DETAIL: &str = "detail";

pub(crate) const TEXT: &str = "text";
pub(crate) const SOURCE: &str = "source";
pub(crate) const SCORE: &str = "score";
pub(crate) const RANK: &str = "rank";
pub(crate) const INDEX: &str = "index";
pub(crate) const BYTES: &str = "bytes";
pub(crate) const PATH: &str = "path";

/// The columns of a data part.
pub(crate) fn data(with_images: bool) -> SchemaRef {
    let mut fields = identity();
    fields.extend([
        Field::new(CAPTIONS, DataType::List(structs(captions())), false),
        Field::new(CANDIDATES, DataType::List(structs(candidates())), false),
        required(TOP_CAPTION, DataType::Utf8),
        Field::new(ALL_CAPTIONS, DataType::List(element(DataType::Utf8, false)), false),
        Field::new(ALL_SIMILARITIES, DataType::List(element(DataType::Float32, true)), false),
    ]);
    if with_images {
        fields.push(Field::new(IMAGE, DataType::Struct(image()), true));
    }
    Arc::new(Schema::new(fields))
}

/// The columns of a quarantine part.
pub(crate) fn quarantine() -> SchemaRef {
    let mut fields = identity();
    fields.extend([STAGE, REASON, DETAIL].map(|name| required(name, DataType::Utf8)));
    Arc::new(Schema::new(fields))
}

/// A kept caption; a caption that was passed through has no score.
pub(crate) fn captions() -> Fields {
    let score = Field::new(SCORE, DataType::Float32, true);
    [required(TEXT, DataType::Utf8), required(SOURCE, DataType::Utf8), score, required(RANK, DataType::Int32)]
        .into_iter()
        .collect()
}

/// A candidate.
pub(crate) fn candidates() -> Fields {
    let text = [TEXT, SOURCE].map(|name| required(name, DataType::Utf8));
    let numbers = [required(SCORE, DataType::Float32), required(INDEX, DataType::Int32)];
    text.into_iter().chain(numbers).collect()
}

/// Hugging Face's image feature.
pub(crate) fn image() -> Fields {
    [Field::new(BYTES, DataType::Binary, true), Field::new(PATH, DataType::Utf8, true)].into_iter().collect()
}

/// The element of a list of structs.
pub(crate) fn structs(fields: Fields) -> Arc<Field> {
    element(DataType::Struct(fields), false)
}

/// The element of a list.
pub(crate) fn element(of: DataType, nullable: bool) -> Arc<Field> {
    Arc::new(Field::new("element", of, nullable))
}

fn identity() -> Vec<Field> {
    let key = Field::new(KEY, DataType::Utf8, true);
    vec![required(DATASET, DataType::Utf8), required(FILE, DataType::Utf8), required(ROW, DataType::Int64), key]
}

fn required(name: &str, of: DataType) -> Field {
    Field::new(name, of, false)
}
