//! Values out of Arrow's columns, as they are read from parquet without Arrow's own schema.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type};
use parquet::errors::ParquetError;

/// The column with the images' bytes; of a struct its field `bytes`. A null struct has a null field.
pub(crate) fn image_bytes(column: &ArrayRef) -> Result<ArrayRef, ParquetError> {
    let Some(image) = column.as_struct_opt() else { return Ok(ArrayRef::clone(column)) };
    let bytes = image.column_by_name("bytes").filter(|bytes| bytes.data_type() == &DataType::Binary);
    bytes.cloned().ok_or_else(|| ParquetError::General("an image struct without binary `bytes`".into()))
}

/// The column with the images' paths or URLs; of a struct its field `path`.
pub(crate) fn image_paths(column: &ArrayRef) -> Result<ArrayRef, ParquetError> {
    let Some(image) = column.as_struct_opt() else { return Ok(ArrayRef::clone(column)) };
    let path = image.column_by_name("path");
    path.cloned().ok_or_else(|| ParquetError::General("an image struct without `path`".into()))
}

pub(crate) fn bytes_at(column: &ArrayRef, index: usize) -> Result<Option<&[u8]>, ParquetError> {
    let bytes = column.as_binary_opt::<i32>().ok_or_else(|| unexpected(column))?;
    Ok((!bytes.is_null(index)).then(|| bytes.value(index)))
}

/// A value as text: bytes as UTF-8, numbers in decimal. (LAION-400M's SAMPLE_ID holds integers as doubles.)
pub(crate) fn text(column: &ArrayRef, index: usize) -> Result<Option<String>, ParquetError> {
    if column.is_null(index) {
        return Ok(None);
    }
    Ok(Some(match column.data_type() {
        DataType::Int32 => column.as_primitive::<Int32Type>().value(index).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(index).to_string(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(index).to_string(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(index).to_string(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(index).to_string(),
        _ => String::from_utf8_lossy(bytes_at(column, index)?.unwrap_or_default()).into_owned(),
    }))
}

fn unexpected(column: &ArrayRef) -> ParquetError {
    ParquetError::General(format!("a column of {} where bytes, text or numbers were expected", column.data_type()))
}
