//! The card's front matter, which the Hub and `datasets` read: which files are which configuration, of which features.

use std::fmt::Write;

use arrow::datatypes::{DataType, Field};

use super::{embeds_images, yaml};
use crate::manifest::Manifest;
use crate::schema;

pub(super) fn front_matter(manifest: &Manifest, name: &str) -> String {
    let totals = &manifest.totals;
    let rows = totals.kept + totals.passed;
    let mut front = format!("---\npretty_name: {}\n", yaml::scalar(name));
    front += "# license: which one, the owner of images and captions knows\n";
    front += "task_categories:\n- image-to-text\n";
    let _ = writeln!(front, "size_categories:\n- {}", size(rows));
    front += "tags:\n- image-captioning\n- capfilt\n- quern\n";
    let (mut configs, mut infos) = (String::new(), String::new());
    let mut add = |config: &str, folder: &str, schema: &arrow::datatypes::SchemaRef, rows: u64| {
        let _ = write!(configs, "- config_name: {config}\n  data_files: {folder}/*.parquet\n");
        let _ = write!(infos, "- config_name: {config}\n  features:\n");
        schema.fields().iter().for_each(|field| feature(field, 2, &mut infos));
        // `datasets` compares the number of rows with what it read, if the bytes are there, too.
        let _ = write!(infos, "  splits:\n  - name: train\n    num_bytes: {} # of all parts\n", totals.bytes);
        let _ = writeln!(infos, "    num_examples: {rows}");
    };
    if manifest.parts.iter().any(|part| part.data.is_some()) {
        add("default", "data", &schema::data(embeds_images(manifest)), rows);
    }
    if manifest.parts.iter().any(|part| part.quarantine.is_some()) {
        add("quarantine", "quarantine", &schema::quarantine(), totals.quarantined);
    }
    if !configs.is_empty() {
        front += &format!("configs:\n{configs}dataset_info:\n{infos}");
    }
    front + "---\n"
}

/// The Hub's word for a number of rows.
fn size(rows: u64) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        10_000_000..100_000_000 => "10M<n<100M",
        100_000_000..1_000_000_000 => "100M<n<1B",
        _ => "n>1B",
    }
}

/// A column in the words of `datasets`.
fn feature(field: &Field, indent: usize, yaml: &mut String) {
    let lead = " ".repeat(indent);
    let _ = writeln!(yaml, "{lead}- name: {}", field.name());
    match field.data_type() {
        DataType::List(element) => match element.data_type() {
            DataType::Struct(fields) => {
                let _ = writeln!(yaml, "{lead}  list:");
                fields.iter().for_each(|field| feature(field, indent + 2, yaml));
            }
            other => {
                let _ = writeln!(yaml, "{lead}  list: {}", kind(other));
            }
        },
        other => {
            let _ = writeln!(yaml, "{lead}  dtype: {}", kind(other));
        }
    }
}

fn kind(of: &DataType) -> &'static str {
    match of {
        DataType::Utf8 => "string",
        DataType::Int64 => "int64",
        DataType::Int32 => "int32",
        DataType::Float32 => "float32",
        DataType::Struct(fields) if *fields == schema::image() => "image",
        other => unreachable!("no part has a column of {other}"),
    }
}
