//! Which columns a data set has, and which of them hold the image, the caption and the key when nobody says.

use parquet::arrow::async_reader::AsyncFileReader;
use quern_recipes::{Columns, Images};

use crate::columns::{self, ColumnError};
use crate::parquet_file::ParquetFile;
use crate::store::{Folder, StoreError};

/// Names of a column with an image's bytes, likeliest first: img2dataset's and WebDataset's, Hugging Face's.
const IMAGE: [&str; 8] = ["jpg", "image", "jpeg", "png", "webp", "img", "IMAGE", "image_bytes"];
/// Names of a column with a caption: img2dataset's, WebDataset's, Hugging Face's, LAION's.
const CAPTION: [&str; 8] = ["caption", "txt", "text", "TEXT", "CAPTION", "alt_text", "alt", "title"];
/// Names of a column with a key: img2dataset's, LAION's and others'.
const KEY: [&str; 7] = ["key", "__key__", "SAMPLE_ID", "uid", "id", "KEY", "sample_id"];

/// Columns that a person has named; the others are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedColumns {
    /// With the image's bytes.
    pub image: Option<String>,
    /// With the caption.
    pub caption: Option<String>,
    /// With the key.
    pub key: Option<String>,
}

/// Why columns are not known.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The folder can't be listed, or the first file can't be fetched.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No parquet file.
    #[error("no *.parquet file under {0}; check the path")]
    NoFiles(String),
    /// The first file is none.
    #[error("{url} is not a readable parquet file: {source}")]
    Parquet {
        /// The file.
        url: String,
        /// Why.
        #[source]
        source: parquet::errors::ParquetError,
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

/// The columns of a folder's first parquet file by role: as named, or else by their usual names.
///
/// # Errors
/// When there is no file, it can't be read, an image's or caption's column is neither named nor found, or a column doesn't
/// hold what it should.
pub async fn discover_columns(folder: &Folder, named: NamedColumns) -> Result<Columns, DiscoverError> {
    let listed = folder.list_sizes("").await?;
    let first = listed.into_iter().find(|(file, _)| file.ends_with(".parquet"));
    let (file, size) = first.ok_or_else(|| DiscoverError::NoFiles(folder.url.clone()))?;
    let url = folder.url_of(&file);
    let opened = ParquetFile::open(folder.store.clone(), folder.path_of(&file)?, size).await;
    let mut parquet = opened.map_err(|error| StoreError::new("read", url.clone(), error))?;
    let metadata = parquet.get_metadata(None).await;
    let metadata = metadata.map_err(|source| DiscoverError::Parquet { url: url.clone(), source })?;
    let schema = metadata.file_metadata().schema_descr();
    let names: Vec<&str> = schema.root_schema().get_fields().iter().map(|field| field.name()).collect();
    let chosen = choose(&names, named).map_err(|role| {
        let found = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        DiscoverError::Unclear { url: url.clone(), role, found }
    })?;
    match columns::find(schema, &chosen, &Images::Bytes) {
        Ok(_) => Ok(chosen),
        Err(source) => Err(DiscoverError::Columns { url, source }),
    }
}

/// The columns by role, or the role for which none is there.
fn choose(names: &[&str], named: NamedColumns) -> Result<Columns, &'static str> {
    let usual = |usual: &[&str]| usual.iter().find(|name| names.contains(name)).map(|name| (*name).to_owned());
    Ok(Columns {
        image: named.image.or_else(|| usual(&IMAGE)).ok_or("image")?,
        caption: named.caption.or_else(|| usual(&CAPTION)).ok_or("caption")?,
        // A file may lack it.
        key: named.key.or_else(|| usual(&KEY)).unwrap_or_else(|| Columns::default().key),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> Result<[String; 3], &'static str> {
        choose(names, NamedColumns::default()).map(|columns| [columns.image, columns.caption, columns.key])
    }

    #[test]
    fn the_usual_layouts_are_known() {
        let img2dataset =
            ["url", "caption", "key", "status", "error_message", "width", "height", "exif", "sha256", "jpg"];
        assert_eq!(chosen(&img2dataset).unwrap(), ["jpg", "caption", "key"]);
        assert_eq!(chosen(&["image", "text"]).unwrap(), ["image", "text", "key"]);
        assert_eq!(chosen(&["SAMPLE_ID", "URL", "TEXT", "jpg"]).unwrap(), ["jpg", "TEXT", "SAMPLE_ID"]);
        assert_eq!(chosen(&["__key__", "png", "txt"]).unwrap(), ["png", "txt", "__key__"]);
    }

    #[test]
    fn what_is_named_is_taken_and_what_is_unclear_is_said() {
        let named = NamedColumns { image: Some("photo".into()), ..NamedColumns::default() };
        assert_eq!(choose(&["photo", "jpg", "caption"], named).unwrap().image, "photo");
        assert_eq!(chosen(&["photo", "caption"]).unwrap_err(), "image");
        assert_eq!(chosen(&["jpg", "words"]).unwrap_err(), "caption");
    }
}
