//! Which of a parquet file's columns hold the image, the caption and the key.
//!
//! An image is a column of bytes, or Hugging Face's `struct{bytes, path}`; where images are at paths or URLs, a column of
//! text, or the struct's `path` wherever its `bytes` are null. Text is read as bytes, so that one row
//! with broken UTF-8 does not make its whole file unreadable.

use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::errors::ParquetError;
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};
use quern_recipes::{Columns, Dataset, Images};

use crate::plan::FoundColumn;

/// A file's columns are not those that the recipe names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ColumnError {
    /// No such column.
    #[error("no column `{name}` for the {role}; the file has {found}. Set `columns.{role}` of the data set")]
    Missing {
        /// `image` or `caption`, as the recipe's `columns` calls it.
        role: &'static str,
        /// The column that the recipe names.
        name: String,
        /// The columns that are there.
        found: String,
    },
    /// A column of another type.
    #[error("column `{name}` holds {found}, but the {role} must be {wanted}. Set `columns.{role}` of the data set")]
    Type {
        /// `image`, `caption` or `key`, as the recipe's `columns` calls it.
        role: &'static str,
        /// The column that the recipe names.
        name: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        wanted: &'static str,
    },
}

/// Where the wanted columns are: indices of leaf columns, in the file's order of leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaves {
    /// The images' bytes.
    pub image: Option<usize>,
    /// The images' paths or URLs.
    pub path: Option<usize>,
    pub caption: usize,
    pub key: Option<usize>,
}

impl Leaves {
    /// All that are read.
    pub fn all(self) -> impl Iterator<Item = usize> {
        [self.image, self.path, Some(self.caption), self.key].into_iter().flatten()
    }

    /// The one that says most about how much there is to read.
    pub fn of_image(self) -> usize {
        self.image.or(self.path).unwrap_or(self.caption)
    }
}

/// The data set's columns; where it has URLs and leaves columns to their defaults, LAION's names stand in for those that
/// the file lacks.
pub(crate) fn named(schema: &SchemaDescriptor, dataset: &Dataset) -> Columns {
    let (mut columns, usual) = (dataset.columns.clone(), Columns::default());
    if dataset.images == Images::Urls {
        let stand_in = |column: &mut String, usual: &str, laion: &[&str]| {
            if *column == usual && root(schema, column).is_none() {
                let found = laion.iter().find(|name| root(schema, name).is_some());
                found.iter().for_each(|name| *column = (**name).to_owned());
            }
        };
        stand_in(&mut columns.image, &usual.image, &["url", "URL"]);
        stand_in(&mut columns.caption, &usual.caption, &["TEXT"]);
        stand_in(&mut columns.key, &usual.key, &["SAMPLE_ID"]);
    }
    columns
}

/// Finds the wanted columns in a file's schema.
pub(crate) fn find(schema: &SchemaDescriptor, columns: &Columns, images: &Images) -> Result<Leaves, ColumnError> {
    let root_image = required(schema, "image", &columns.image)?;
    let caption = required(schema, "caption", &columns.caption)?;
    let (image, path) = match images {
        Images::Bytes => (Some(image_leaf(schema, root_image, &columns.image)?), None),
        Images::Paths(_) | Images::Urls => {
            let path = path_leaf(schema, root_image, &columns.image)?;
            (field_leaf(schema, root_image, &columns.image, "bytes"), Some(path))
        }
    };
    Ok(Leaves {
        image,
        path,
        caption: typed_leaf(schema, caption, "caption", "text", &[Physical::BYTE_ARRAY])?,
        key: match root(schema, &columns.key) {
            None => None,
            Some(key) => Some(typed_leaf(
                schema,
                key,
                "key",
                "text or a number",
                &[Physical::BYTE_ARRAY, Physical::INT32, Physical::INT64, Physical::DOUBLE],
            )?),
        },
    })
}

/// The wanted columns that a file has, for people.
pub(crate) fn found(schema: &SchemaDescriptor, columns: &Columns) -> Vec<FoundColumn> {
    let of = |role, name: &String| {
        let field = &schema.root_schema().get_fields()[root(schema, name)?];
        Some(FoundColumn { role, name: name.clone(), holds: kind(field) })
    };
    let roles = [("image", &columns.image), ("caption", &columns.caption), ("key", &columns.key)];
    roles.into_iter().filter_map(|(role, name)| of(role, name)).collect()
}

/// `text`, `bytes`, `int64`, `struct of bytes, path`.
fn kind(field: &Type) -> String {
    match field.is_primitive() {
        true if is_text(field) => "text".into(),
        true if field.get_physical_type() == Physical::BYTE_ARRAY => "bytes".into(),
        true => field.get_physical_type().to_string().to_lowercase(),
        false => {
            let names: Vec<_> = field.get_fields().iter().map(|field| field.name()).collect();
            format!("struct of {}", names.join(", "))
        }
    }
}

/// Whether a field is text, which no encoded image is.
pub(crate) fn is_text(field: &Type) -> bool {
    let info = field.get_basic_info();
    field.is_primitive()
        && (info.converted_type() == ConvertedType::UTF8 || info.logical_type_ref() == Some(&LogicalType::String))
}

/// The same schema with plain bytes in the place of text in the root columns that are read.
pub(crate) fn text_as_bytes(schema: &SchemaDescriptor, leaves: Leaves) -> Result<SchemaDescriptor, ParquetError> {
    let read: Vec<usize> = leaves.all().map(|leaf| schema.get_column_root_idx(leaf)).collect();
    let image = schema.get_column_root_idx(leaves.of_image());
    let root = schema.root_schema();
    let fields = root.get_fields().iter().enumerate().map(|(index, field)| match field.is_primitive() {
        true if read.contains(&index) => as_bytes(field),
        false if index == image => {
            let fields = field.get_fields().iter().map(as_bytes).collect::<Result<Vec<_>, _>>()?;
            let info = field.get_basic_info();
            let group = Type::group_type_builder(field.name())
                .with_repetition(info.repetition())
                .with_id(info.has_id().then(|| info.id()))
                .with_fields(fields);
            group.build().map(Arc::new)
        }
        _ => Ok(Arc::clone(field)),
    });
    let fields = fields.collect::<Result<Vec<_>, _>>()?;
    Ok(SchemaDescriptor::new(Arc::new(Type::group_type_builder(root.name()).with_fields(fields).build()?)))
}

/// A field of text as one of plain bytes; any other as it is.
fn as_bytes(field: &TypePtr) -> Result<TypePtr, ParquetError> {
    if !field.is_primitive() || field.get_physical_type() != Physical::BYTE_ARRAY {
        return Ok(Arc::clone(field));
    }
    let info = field.get_basic_info();
    Type::primitive_type_builder(field.name(), Physical::BYTE_ARRAY)
        .with_repetition(info.repetition())
        .with_id(info.has_id().then(|| info.id()))
        .build()
        .map(Arc::new)
}

fn root(schema: &SchemaDescriptor, name: &str) -> Option<usize> {
    schema.root_schema().get_fields().iter().position(|field| field.name() == name)
}

fn required(schema: &SchemaDescriptor, role: &'static str, name: &str) -> Result<usize, ColumnError> {
    root(schema, name).ok_or_else(|| {
        let names: Vec<_> =
            schema.root_schema().get_fields().iter().map(|field| format!("`{}`", field.name())).collect();
        ColumnError::Missing { role, name: name.into(), found: names.join(", ") }
    })
}

/// The leaf with an image's bytes: the column itself, or `bytes` of a struct.
fn image_leaf(schema: &SchemaDescriptor, root: usize, name: &str) -> Result<usize, ColumnError> {
    let wanted = "bytes, or a struct with a field `bytes`";
    let field = &schema.root_schema().get_fields()[root];
    if field.is_primitive() {
        return typed_leaf(schema, root, "image", wanted, &[Physical::BYTE_ARRAY]);
    }
    field_leaf(schema, root, name, "bytes").ok_or_else(|| ColumnError::Type {
        role: "image",
        name: name.into(),
        found: describe(field),
        wanted,
    })
}

/// The leaf with an image's path or URL: the column itself, or `path` of a struct.
fn path_leaf(schema: &SchemaDescriptor, root: usize, name: &str) -> Result<usize, ColumnError> {
    let wanted = "a path or URL as text, or a struct with a field `path`";
    let field = &schema.root_schema().get_fields()[root];
    if field.is_primitive() {
        return typed_leaf(schema, root, "image", wanted, &[Physical::BYTE_ARRAY]);
    }
    field_leaf(schema, root, name, "path").ok_or_else(|| ColumnError::Type {
        role: "image",
        name: name.into(),
        found: describe(field),
        wanted,
    })
}

/// The leaf of a struct's field that holds bytes or text.
fn field_leaf(schema: &SchemaDescriptor, root: usize, name: &str, field: &str) -> Option<usize> {
    (0..schema.num_columns()).find(|&leaf| {
        let column = schema.column(leaf);
        schema.get_column_root_idx(leaf) == root
            && column.path().parts() == [name, field]
            && column.physical_type() == Physical::BYTE_ARRAY
            && column.max_rep_level() == 0
    })
}

fn typed_leaf(
    schema: &SchemaDescriptor,
    root: usize,
    role: &'static str,
    wanted: &'static str,
    allowed: &[Physical],
) -> Result<usize, ColumnError> {
    let field = &schema.root_schema().get_fields()[root];
    let leaf = (0..schema.num_columns()).find(|&leaf| schema.get_column_root_idx(leaf) == root);
    match leaf {
        Some(leaf)
            if field.is_primitive()
                && allowed.contains(&field.get_physical_type())
                && schema.column(leaf).max_rep_level() == 0 =>
        {
            Ok(leaf)
        }
        _ => Err(ColumnError::Type { role, name: field.name().into(), found: describe(field), wanted }),
    }
}

fn describe(field: &Type) -> String {
    if field.is_primitive() {
        let repeated = field.get_basic_info().repetition() == parquet::basic::Repetition::REPEATED;
        format!("{}{}", if repeated { "a list of " } else { "" }, field.get_physical_type())
    } else {
        let names: Vec<_> = field.get_fields().iter().map(|field| field.name()).collect();
        format!("a group of {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::schema::parser::parse_message_type;
    use parquet::schema::types::ColumnDescPtr;

    fn schema(text: &str) -> SchemaDescriptor {
        SchemaDescriptor::new(Arc::new(parse_message_type(text).unwrap()))
    }

    fn columns(image: &str, caption: &str, key: &str) -> Columns {
        Columns { image: image.into(), caption: caption.into(), key: key.into() }
    }

    const WEB: &str = "message m { optional int64 width; optional binary caption (UTF8); optional binary jpg;
        optional binary key (UTF8); optional group exif (LIST) { repeated group list { optional binary element; } } }";

    #[test]
    fn finds_plain_columns_and_a_missing_key_is_none() {
        let found = find(&schema(WEB), &columns("jpg", "caption", "key"), &Images::Bytes).unwrap();
        assert_eq!(found, Leaves { image: Some(2), path: None, caption: 1, key: Some(3) });
        assert_eq!(find(&schema(WEB), &columns("jpg", "caption", "uid"), &Images::Bytes).unwrap().key, None);
    }

    #[test]
    fn finds_the_bytes_of_a_hugging_face_image() {
        let schema = schema(
            "message m { optional group image { optional binary path (UTF8); optional binary bytes; }
             optional binary text (UTF8); required int64 id; }",
        );
        let columns = columns("image", "text", "id");
        let found = find(&schema, &columns, &Images::Bytes).unwrap();
        assert_eq!(found, Leaves { image: Some(1), path: None, caption: 2, key: Some(3) });
        let found = find(&schema, &columns, &Images::Paths("pictures".into())).unwrap();
        assert_eq!(found, Leaves { image: Some(1), path: Some(0), caption: 2, key: Some(3) });
        let bytes = text_as_bytes(&schema, found).unwrap();
        assert!(bytes.columns().iter().all(|column| column.converted_type() == ConvertedType::NONE));
    }

    #[test]
    fn a_path_or_url_is_text_or_the_path_of_a_struct() {
        let laion = "message m { optional double SAMPLE_ID; optional binary URL (UTF8); optional binary TEXT (UTF8);
            optional group image { optional binary path (UTF8); } optional group bare { optional binary bytes; } }";
        let urls = |image, caption| find(&schema(laion), &columns(image, caption, "none"), &Images::Urls);
        assert_eq!(urls("URL", "TEXT").unwrap(), Leaves { image: None, path: Some(1), caption: 2, key: None });
        assert_eq!(urls("image", "TEXT").unwrap(), Leaves { image: None, path: Some(3), caption: 2, key: None });
        for wrong in ["SAMPLE_ID", "bare"] {
            let error = urls(wrong, "TEXT").unwrap_err().to_string();
            assert!(error.contains("a path or URL as text, or a struct with a field `path`"), "{error}");
        }
    }

    #[test]
    fn laions_names_stand_in_for_defaults_where_images_are_urls() {
        let laion = "message m { optional int64 SAMPLE_ID; optional binary URL (UTF8); optional binary TEXT (UTF8); }";
        let dataset = |images| Dataset {
            name: "laion".into(),
            path: "unused".into(),
            format: None,
            images,
            columns: Columns::default(),
            max_rows: None,
            weight: None,
            capfilt: true,
        };
        let urls = dataset(Images::Urls);
        assert_eq!(named(&schema(laion), &urls), columns("URL", "TEXT", "SAMPLE_ID"));
        assert_eq!(named(&schema(WEB), &urls), columns("jpg", "caption", "key"), "what is there is taken");
        let other = Dataset { columns: columns("link", "caption", "key"), ..urls };
        assert_eq!(named(&schema(laion), &other), columns("link", "TEXT", "SAMPLE_ID"), "what is named is taken");
        assert_eq!(named(&schema(laion), &dataset(Images::Bytes)), Columns::default());
    }

    #[test]
    fn errors_name_the_columns_that_are_there() {
        let error = find(&schema(WEB), &columns("image", "caption", "key"), &Images::Bytes).unwrap_err();
        assert!(error.to_string().contains("`width`, `caption`, `jpg`, `key`, `exif`"), "{error}");
        assert!(error.to_string().contains("columns.image"), "{error}");
        for (image, caption, key) in [("width", "caption", "key"), ("jpg", "exif", "key"), ("jpg", "caption", "exif")] {
            let error = find(&schema(WEB), &columns(image, caption, key), &Images::Bytes).unwrap_err();
            assert!(matches!(error, ColumnError::Type { .. }), "{error}");
        }
    }

    #[test]
    fn only_the_columns_that_are_read_lose_their_text_type() {
        let schema = schema(WEB);
        let leaves = find(&schema, &columns("jpg", "caption", "none"), &Images::Bytes).unwrap();
        let bytes = text_as_bytes(&schema, leaves).unwrap();
        let is_text = |column: &ColumnDescPtr| column.converted_type() == ConvertedType::UTF8;
        let texts = |schema: &SchemaDescriptor| schema.columns().iter().map(is_text).collect::<Vec<_>>();
        assert_eq!(texts(&schema), [false, true, false, true, false]);
        assert_eq!(texts(&bytes), [false, false, false, true, false]);
    }
}
