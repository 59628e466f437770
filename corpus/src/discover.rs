//! Which columns a data set has, and which of them hold the image, the caption and the key when nobody says.

use std::collections::BTreeSet;

use parquet::arrow::async_reader::AsyncFileReader;
use parquet::schema::types::SchemaDescriptor;
use quern_recipes::{Columns, Format, Images};

use crate::columns::{self, ColumnError};
use crate::files::{FilesError, of_one_format};
use crate::parquet_file::{self, ParquetFile};
use crate::store::{Folder, StoreError};
use crate::tars::{self, Layout, Samples, TarError};

/// Names of a column with an image's bytes, likeliest first: img2dataset's and WebDataset's, Hugging Face's.
const IMAGE: [&str; 8] = ["jpg", "image", "jpeg", "png", "webp", "img", "IMAGE", "image_bytes"];
/// Names of a column with an image's URL: img2dataset's, LAION's and others'.
const URL: [&str; 6] = ["url", "URL", "image_url", "Image_URL", "img_url", "image_link"];
/// Names of a column with a caption: img2dataset's, WebDataset's, Hugging Face's, LAION's.
const CAPTION: [&str; 8] = ["caption", "txt", "text", "TEXT", "CAPTION", "alt_text", "alt", "title"];
/// Names of a column with a key: img2dataset's, LAION's and others'.
const KEY: [&str; 7] = ["key", "__key__", "SAMPLE_ID", "uid", "id", "KEY", "sample_id"];
/// Samples of a tar file that are looked at.
const LOOKED_AT: usize = 64;

/// What a person has named; the rest is looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedColumns {
    /// With the image's bytes, path or URL.
    pub image: Option<String>,
    /// With the caption.
    pub caption: Option<String>,
    /// With the key.
    pub key: Option<String>,
    /// What the image column's paths are relative to, if it holds such.
    pub image_base: Option<String>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Discovered {
    /// The columns by role.
    pub columns: Columns,
    /// What the image column holds.
    pub images: Images,
}

/// Why columns are not known.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The folder can't be listed, or the first file can't be fetched.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No file of a known format.
    #[error("no *.parquet file and no *.tar file under {0}; check the path")]
    NoFiles(String),
    /// Files of two formats.
    #[error(
        "*.parquet files and *.tar files are under {0}; name a folder with one of them, or write a recipe and say `format: \
         parquet` or `format: webdataset` in it"
    )]
    TwoFormats(String),
    /// The first file is none.
    #[error("{url} is not a readable parquet file: {source}")]
    Parquet {
        /// The file.
        url: String,
        /// Why.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// The first file is none.
    #[error("{url}: {reason}")]
    Tar {
        /// The file.
        url: String,
        /// Why.
        reason: String,
    },
    /// A column isn't there, or doesn't hold what it should.
    #[error("{url}: {source}")]
    Columns {
        /// The file.
        url: String,
        /// Which column, and what there is.
        #[source]
        source: ColumnError,
    },
    /// No column has a name that is usual for its role.
    #[error("{url}: which column holds the {role}? It has {found}; say --column {role}=NAME")]
    Unclear {
        /// The file.
        url: String,
        /// `image` or `caption`.
        role: &'static str,
        /// The columns that are there.
        found: String,
    },
}

/// The columns of a folder's first file by role: as named, or else by their usual names.
///
/// # Errors
/// When there is no file, it can't be read, an image's or caption's column is neither named nor found, or a column doesn't
/// hold what it should.
pub async fn discover_columns(folder: &Folder, named: NamedColumns) -> Result<Discovered, DiscoverError> {
    let (format, files) = of_one_format(folder.list_sizes("").await?, None).map_err(|error| match error {
        FilesError::None => DiscoverError::NoFiles(folder.url.clone()),
        FilesError::TwoFormats => DiscoverError::TwoFormats(folder.url.clone()),
    })?;
    let (file, size) = files.into_iter().next().ok_or_else(|| DiscoverError::NoFiles(folder.url.clone()))?;
    match format {
        Format::Parquet => in_parquet(folder, &file, size, named).await,
        Format::WebDataset => in_tar(folder, &file, size, named).await,
    }
}

async fn in_parquet(folder: &Folder, file: &str, size: u64, named: NamedColumns) -> Result<Discovered, DiscoverError> {
    let url = folder.url_of(file);
    let opened = ParquetFile::open(folder.store.clone(), folder.path_of(file)?, size).await;
    let mut parquet = opened.map_err(|error| StoreError::new("read", url.clone(), error))?;
    let metadata = parquet.get_metadata(None).await;
    let metadata = metadata.map_err(|error| match parquet_file::cause(error) {
        Ok(error) => DiscoverError::Store(StoreError::new("read", url.clone(), error)),
        Err(source) => DiscoverError::Parquet { url: url.clone(), source },
    })?;
    let schema = metadata.file_metadata().schema_descr();
    let names: Vec<&str> = schema.root_schema().get_fields().iter().map(|field| field.name()).collect();
    let base = named.image_base.clone();
    let columns = choose(&names, named).map_err(|role| unclear(&url, role, names.iter().copied()))?;
    let images = match base {
        Some(base) => Images::Paths(base),
        None if holds_text(schema, &columns.image) => Images::Urls,
        None => Images::Bytes,
    };
    match columns::find(schema, &columns, &images) {
        Ok(_) => Ok(Discovered { columns, images }),
        Err(source) => Err(DiscoverError::Columns { url, source }),
    }
}

async fn in_tar(folder: &Folder, file: &str, size: u64, named: NamedColumns) -> Result<Discovered, DiscoverError> {
    let url = folder.url_of(file);
    let mut samples = Samples::open(folder, file, size)?;
    let mut extensions = BTreeSet::new();
    for _ in 0..LOOKED_AT {
        let next = samples.next().await.map_err(|error| match error {
            TarError::Store(error) => DiscoverError::Store(error),
            error @ TarError::Damaged(_) => DiscoverError::Tar { url: url.clone(), reason: error.to_string() },
        })?;
        let Some(sample) = next else { break };
        extensions.extend(sample.members.into_iter().map(|member| member.extension));
    }
    let usual = Columns::default();
    let has = |name: &String| extensions.contains(name);
    let columns = Columns {
        image: named.image.or_else(|| tars::image_names(&usual.image).into_iter().find(has)).unwrap_or(usual.image),
        caption: named.caption.or_else(|| Some("txt".to_owned()).filter(has)).unwrap_or(usual.caption),
        key: named.key.unwrap_or(usual.key),
    };
    match Layout::new(&columns).check(&columns, &extensions) {
        // A base is refused when the data set is planned.
        Ok(()) => Ok(Discovered { columns, images: named.image_base.map_or(Images::Bytes, Images::Paths) }),
        Err(source) => Err(DiscoverError::Columns { url, source }),
    }
}

fn unclear<'a>(url: &str, role: &'static str, names: impl Iterator<Item = &'a str>) -> DiscoverError {
    let found = names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    DiscoverError::Unclear { url: url.into(), role, found }
}

/// The columns by role, or the role for which none is there. An image's bytes are better than its URL.
fn choose(names: &[&str], named: NamedColumns) -> Result<Columns, &'static str> {
    let usual = |usual: &[&str]| usual.iter().find(|name| names.contains(name)).map(|name| (*name).to_owned());
    Ok(Columns {
        image: named.image.or_else(|| usual(&IMAGE)).or_else(|| usual(&URL)).ok_or("image")?,
        caption: named.caption.or_else(|| usual(&CAPTION)).ok_or("caption")?,
        // A file may lack it.
        key: named.key.or_else(|| usual(&KEY)).unwrap_or_else(|| Columns::default().key),
    })
}

fn holds_text(schema: &SchemaDescriptor, name: &str) -> bool {
    schema.root_schema().get_fields().iter().any(|field| field.name() == name && columns::is_text(field))
}

#[cfg(test)]
mod tests;
