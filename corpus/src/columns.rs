//! Which of a parquet file's columns hold the image, the caption and the key.
//!
//! An image is a column of bytes, or Hugging Face's `struct{bytes, path}`. Text is read as bytes, so that one row
//! with broken UTF-8 does not make its whole file unreadable.

use std::sync::Arc;

use parquet::basic::Type as Physical;
use parquet::errors::ParquetError;
use parquet::schema::types::{SchemaDescriptor, Type};
use quern_recipes::Columns;

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
    pub image: usize,
    pub caption: usize,
    pub key: Option<usize>,
}

/// Finds the wanted columns in a file's schema.
pub(crate) fn find(schema: &SchemaDescriptor, columns: &Columns) -> Result<Leaves, ColumnError> {
    let image = required(schema, "image", &columns.image)?;
    let caption = required(schema, "caption", &columns.caption)?;
    Ok(Leaves {
        image: image_leaf(schema, image, &columns.image)?,
        caption: typed_leaf(schema, caption, "caption", "text", &[Physical::BYTE_ARRAY])?,
        key: match root(schema, &columns.key) {
            None => None,
            Some(key) => Some(typed_leaf(
                schema,
                key,
                "key",
                "text or an integer",
                &[Physical::BYTE_ARRAY, Physical::INT32, Physical::INT64],
            )?),
        },
    })
}

/// The same schema with plain bytes in the place of text in the root columns that are read.
pub(crate) fn text_as_bytes(schema: &SchemaDescriptor, leaves: Leaves) -> Result<SchemaDescriptor, ParquetError> {
    let read: Vec<usize> = [Some(leaves.image), Some(leaves.caption), leaves.key]
        .into_iter()
        .flatten()
        .map(|leaf| schema.get_column_root_idx(leaf))
        .collect();
    let root = schema.root_schema();
    let fields = root.get_fields().iter().enumerate().map(|(index, field)| {
        let text = field.is_primitive() && field.get_physical_type() == Physical::BYTE_ARRAY;
        if !text || !read.contains(&index) {
            return Ok(Arc::clone(field));
        }
        let info = field.get_basic_info();
        Type::primitive_type_builder(field.name(), Physical::BYTE_ARRAY)
            .with_repetition(info.repetition())
            .with_id(info.has_id().then(|| info.id()))
            .build()
            .map(Arc::new)
    });
    let fields = fields.collect::<Result<Vec<_>, _>>()?;
    Ok(SchemaDescriptor::new(Arc::new(Type::group_type_builder(root.name()).with_fields(fields).build()?)))
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
    (0..schema.num_columns())
        .find(|&leaf| {
            let column = schema.column(leaf);
            schema.get_column_root_idx(leaf) == root
                && column.path().parts() == [name, "bytes"]
                && column.physical_type() == Physical::BYTE_ARRAY
                && column.max_rep_level() == 0
        })
        .ok_or_else(|| ColumnError::Type { role: "image", name: name.into(), found: describe(field), wanted })
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
    use parquet::basic::ConvertedType;
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
        let found = find(&schema(WEB), &columns("jpg", "caption", "key")).unwrap();
        assert_eq!(found, Leaves { image: 2, caption: 1, key: Some(3) });
        assert_eq!(find(&schema(WEB), &columns("jpg", "caption", "uid")).unwrap().key, None);
    }

    #[test]
    fn finds_the_bytes_of_a_hugging_face_image() {
        let schema = schema(
            "message m { optional group image { optional binary path (UTF8); optional binary bytes; }
             optional binary text (UTF8); required int64 id; }",
        );
        let found = find(&schema, &columns("image", "text", "id")).unwrap();
        assert_eq!(found, Leaves { image: 1, caption: 2, key: Some(3) });
    }

    #[test]
    fn errors_name_the_columns_that_are_there() {
        let error = find(&schema(WEB), &columns("image", "caption", "key")).unwrap_err();
        assert!(error.to_string().contains("`width`, `caption`, `jpg`, `key`, `exif`"), "{error}");
        assert!(error.to_string().contains("columns.image"), "{error}");
        for (image, caption, key) in [("width", "caption", "key"), ("jpg", "exif", "key"), ("jpg", "caption", "exif")] {
            let error = find(&schema(WEB), &columns(image, caption, key)).unwrap_err();
            assert!(matches!(error, ColumnError::Type { .. }), "{error}");
        }
    }

    #[test]
    fn only_the_columns_that_are_read_lose_their_text_type() {
        let schema = schema(WEB);
        let leaves = find(&schema, &columns("jpg", "caption", "none")).unwrap();
        let bytes = text_as_bytes(&schema, leaves).unwrap();
        let is_text = |column: &ColumnDescPtr| column.converted_type() == ConvertedType::UTF8;
        let texts = |schema: &SchemaDescriptor| schema.columns().iter().map(is_text).collect::<Vec<_>>();
        assert_eq!(texts(&schema), [false, true, false, true, false]);
        assert_eq!(texts(&bytes), [false, false, false, true, false]);
    }
}
