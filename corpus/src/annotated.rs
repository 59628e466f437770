//! Images with any number of texts: what is captioned, asked about and evaluated, from a parquet file or a folder of
//! them.
//!
//! A text column holds one text per row, or a list of them (COCO's five captions). Unlike [`reader`](crate::reader),
//! which takes a shard of a corpus that nobody has looked at, this reads all of a small set that somebody prepared:
//! a file that isn't as it must be is an error.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;

use crate::parquet_file::ParquetFile;
use crate::rows::RowId;
use crate::store::{self, Folder, StoreError};
use crate::values::{bytes_at, image_bytes, text};

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 64;

/// An image and what is said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotated {
    /// Which row.
    pub id: RowId,
    /// The key column's value, if there is such a column and it is not null.
    pub key: Option<String>,
    /// The encoded image, if not null.
    pub image: Option<Bytes>,
    /// Its texts that are not null.
    pub texts: Vec<String>,
}

/// Which columns are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnotatedColumns {
    /// Encoded images: bytes, or Hugging Face's `struct{bytes, path}`.
    pub image: String,
    /// Names of the text column, of which the first that a file has is read; with none no text is.
    pub texts: Vec<String>,
    /// A key; optional in the file.
    pub key: String,
}

/// Why annotated images can't be read.
#[derive(Debug, thiserror::Error)]
pub enum AnnotatedError {
    /// The file is not there, or its store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No parquet.
    #[error("{url} has no parquet files")]
    NoFiles {
        /// The folder.
        url: String,
    },
    /// A column is not there.
    #[error("{url} has no column `{name}`; it has {found}")]
    Missing {
        /// The file.
        url: String,
        /// The column, or the names of which one is needed.
        name: String,
        /// What there is.
        found: String,
    },
    /// A column is of another type.
    #[error("{url}: the column `{name}` holds {found}, not {wanted}")]
    Type {
        /// The file.
        url: String,
        /// The column.
        name: String,
        /// What it holds.
        found: String,
        /// What it should.
        wanted: &'static str,
    },
    /// Bytes that are no parquet, or a fetch that failed.
    #[error("{url}: {source}")]
    Parquet {
        /// The file.
        url: String,
        /// The parquet reader's error.
        #[source]
        source: ParquetError,
    },
}

/// Annotated images in the order of files and rows.
pub type AnnotatedStream = BoxStream<'static, Result<Annotated, AnnotatedError>>;

/// Reads the parquet file, or all of those in the folder, at a path or URL. To be polled inside a tokio runtime.
///
/// # Errors
/// When there is no parquet. Later failures are in the stream.
pub async fn read_annotated(path: &str, columns: &AnnotatedColumns) -> Result<AnnotatedStream, AnnotatedError> {
    let (folder, files) = files(path).await?;
    let dataset: Arc<str> = folder.url.rsplit('/').next().unwrap_or_default().into();
    let columns = columns.clone();
    let rows = stream::iter(files).then(move |file| {
        let (folder, columns, dataset) = (folder.clone(), columns.clone(), Arc::clone(&dataset));
        async move { read_file(&folder, &file, &columns, dataset).await }
    });
    Ok(rows.try_flatten().boxed())
}

/// The parquet files at a path, which may itself be one.
async fn files(path: &str) -> Result<(Folder, Vec<String>), AnnotatedError> {
    if let Some(name) = path.rsplit('/').next().filter(|name| name.ends_with(".parquet")) {
        let parent = path[..path.len() - name.len()].trim_end_matches('/');
        let folder = store::open(match (parent, path.starts_with('/')) {
            ("", true) => "/",
            ("", false) => ".",
            (parent, _) => parent,
        })?;
        if folder.exists(name).await? {
            return Ok((folder, vec![name.to_owned()]));
        }
    }
    let folder = store::open(path)?;
    let mut files = folder.list("").await?;
    files.retain(|file| file.ends_with(".parquet"));
    match files.is_empty() {
        true => Err(AnnotatedError::NoFiles { url: folder.url }),
        false => Ok((folder, files)),
    }
}

async fn read_file(
    folder: &Folder,
    name: &str,
    columns: &AnnotatedColumns,
    dataset: Arc<str>,
) -> Result<AnnotatedStream, AnnotatedError> {
    let url = folder.url_of(name);
    let unreadable = |url: &str, source| AnnotatedError::Parquet { url: url.into(), source };
    let file = ParquetFile::open(folder.store.clone(), folder.path_of(name)?, folder.size(name).await?).await;
    let file = file.map_err(|error| unreadable(&url, ParquetError::External(Box::new(error))))?;
    // Without Arrow's own schema there is one type for texts, one for bytes and one for lists.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchStreamBuilder::new_with_options(file, options).await;
    let builder = builder.map_err(|source| unreadable(&url, source))?;

    let fields = builder.schema().fields();
    let position = |name: &String| fields.iter().position(|field| field.name() == name);
    let missing = |names: &[String]| {
        let found: Vec<String> = fields.iter().map(|field| format!("`{}`", field.name())).collect();
        AnnotatedError::Missing { url: url.clone(), name: names.join("` or `"), found: found.join(", ") }
    };
    let image = position(&columns.image).ok_or_else(|| missing(std::slice::from_ref(&columns.image)))?;
    let texts = columns.texts.iter().find_map(position);
    if texts.is_none() && !columns.texts.is_empty() {
        return Err(missing(&columns.texts));
    }
    let key = position(&columns.key);
    let wanted = [Some(image), texts, key].into_iter().flatten();
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let name_of = |index: usize| fields[index].name().clone();
    let part = Part {
        image: name_of(image),
        texts: texts.map(name_of),
        key: key.map(name_of),
        dataset,
        file: name.into(),
        url: url.clone(),
    };
    let batches = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build();
    let batches = batches.map_err(|source| unreadable(&url, source))?;
    // The parquet reader takes some damaged pages' word for what they hold.
    let panicked = |_| Err(ParquetError::General("the parquet reader gives up on it".into()));
    let batches = AssertUnwindSafe(batches).catch_unwind().map(move |batch| batch.unwrap_or_else(panicked));
    let mut first_row = 0;
    let rows = batches.map(move |batch| {
        let rows = part.rows(&batch.map_err(|source| unreadable(&part.url, source))?, first_row)?;
        first_row += rows.len() as u64;
        Ok::<_, AnnotatedError>(stream::iter(rows.into_iter().map(Ok)))
    });
    Ok(rows.try_flatten().boxed())
}

/// A file's columns that are read.
struct Part {
    image: String,
    texts: Option<String>,
    key: Option<String>,
    dataset: Arc<str>,
    file: Arc<str>,
    url: String,
}

impl Part {
    fn rows(&self, batch: &RecordBatch, first_row: u64) -> Result<Vec<Annotated>, AnnotatedError> {
        let column = |name: &String| batch.column_by_name(name).expect("a column of the projection");
        let wrong = |name: &String, wanted| AnnotatedError::Type {
            url: self.url.clone(),
            name: name.clone(),
            found: column(name).data_type().to_string(),
            wanted,
        };
        let images = image_bytes(column(&self.image)).ok();
        let images = images.filter(|images| images.as_binary_opt::<i32>().is_some());
        let images = images.ok_or_else(|| wrong(&self.image, "bytes, or a struct with a field `bytes`"))?;
        let keyed = |index| {
            let key = column(self.key.as_ref()?);
            match key.as_string_opt::<i32>() {
                Some(texts) => (!texts.is_null(index)).then(|| texts.value(index).to_owned()),
                None => text(key, index).ok().flatten(),
            }
        };
        (0..batch.num_rows())
            .map(|index| {
                let id = RowId {
                    dataset: Arc::clone(&self.dataset),
                    file: Arc::clone(&self.file),
                    row: first_row + index as u64,
                };
                let image = bytes_at(&images, index).expect("bytes, as was just seen").map(Bytes::copy_from_slice);
                let texts = match &self.texts {
                    None => Vec::new(),
                    Some(name) => texts_at(column(name), index).ok_or_else(|| wrong(name, "text or lists of text"))?,
                };
                Ok(Annotated { id, key: keyed(index), image, texts })
            })
            .collect()
    }
}

/// The text or texts of a row; `None`: the column has neither.
fn texts_at(column: &ArrayRef, index: usize) -> Option<Vec<String>> {
    if let Some(texts) = column.as_string_opt::<i32>() {
        return Some((!texts.is_null(index)).then(|| texts.value(index).to_owned()).into_iter().collect());
    }
    let lists = column.as_list_opt::<i32>()?;
    lists.values().as_string_opt::<i32>()?;
    if lists.is_null(index) {
        return Some(Vec::new());
    }
    Some(lists.value(index).as_string::<i32>().iter().flatten().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, Int64Array, ListBuilder, StringArray, StringBuilder, StructArray};
    use arrow::datatypes::{DataType, Field};
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn write(path: &std::path::Path, columns: Vec<(&str, ArrayRef)>) {
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
                .unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    fn lists() -> ArrayRef {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("a dog"), None, Some("the dog")]);
        lists.append_null();
        Arc::new(lists.finish())
    }

    fn images() -> ArrayRef {
        Arc::new(BinaryArray::from_iter([Some(b"first".as_slice()), None]))
    }

    fn columns(image: &str, texts: &[&str]) -> AnnotatedColumns {
        let texts = texts.iter().map(|&name| name.to_owned()).collect();
        AnnotatedColumns { image: image.into(), texts, key: "key".into() }
    }

    async fn read(path: &str, columns: &AnnotatedColumns) -> Result<Vec<Annotated>, AnnotatedError> {
        read_annotated(path, columns).await?.try_collect().await
    }

    #[tokio::test]
    async fn a_list_is_several_texts_and_nulls_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None]));
        write(&folder.path().join("a.parquet"), vec![("captions", lists()), ("jpg", images()), ("key", keys)]);
        let path = folder.path().to_str().unwrap();
        let rows = read(path, &columns("jpg", &["captions", "caption"])).await.unwrap();
        assert_eq!((rows[0].texts.as_slice(), rows[1].texts.len()), (&["a dog".to_owned(), "the dog".into()][..], 0));
        assert_eq!((rows[0].key.as_deref(), rows[1].key.as_deref()), (Some("7"), None));
        assert_eq!((rows[0].image.as_deref(), rows[1].image.as_deref()), (Some(b"first".as_slice()), None));
        assert_eq!(rows[1].id.row, 1);
        assert_eq!(read(&format!("{path}/a.parquet"), &columns("jpg", &["captions"])).await.unwrap(), rows);
        assert!(read(path, &columns("jpg", &[])).await.unwrap()[0].texts.is_empty());
    }

    #[tokio::test]
    async fn one_text_per_row_and_hugging_faces_images_are_read_too() {
        let folder = tempfile::tempdir().unwrap();
        let image = StructArray::from(vec![(Arc::new(Field::new("bytes", DataType::Binary, true)), images())]);
        let captions: ArrayRef = Arc::new(StringArray::from(vec![Some("a dog"), None]));
        let keys: ArrayRef = Arc::new(StringArray::from(vec![None, Some("0002")]));
        let rows = vec![("image", Arc::new(image) as ArrayRef), ("caption", captions), ("key", keys)];
        write(&folder.path().join("a.parquet"), rows);
        let rows = read(folder.path().to_str().unwrap(), &columns("image", &["captions", "caption"])).await.unwrap();
        assert_eq!((rows[0].texts.as_slice(), rows[1].texts.len()), (&["a dog".to_owned()][..], 0));
        assert_eq!(rows[0].image.as_deref(), Some(b"first".as_slice()));
        assert_eq!((rows[0].key.as_deref(), rows[1].key.as_deref()), (None, Some("0002")));
    }

    #[tokio::test]
    async fn what_is_missing_or_of_another_type_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        let said = |error: AnnotatedError| error.to_string();
        assert!(said(read(&path, &columns("jpg", &[])).await.unwrap_err()).contains("no parquet files"));
        write(&folder.path().join("a.parquet"), vec![("captions", lists()), ("jpg", images())]);
        let error = said(read(&path, &columns("png", &[])).await.unwrap_err());
        assert!(error.contains("no column `png`; it has `captions`, `jpg`"), "{error}");
        let error = said(read(&path, &columns("jpg", &["text", "prompt"])).await.unwrap_err());
        assert!(error.contains("no column `text` or `prompt`"), "{error}");
        for (image, texts) in [("captions", "captions"), ("jpg", "jpg")] {
            let error = said(read(&path, &columns(image, &[texts])).await.unwrap_err());
            assert!(error.contains(&format!("the column `{image}` holds")), "{error}");
        }
    }
}
