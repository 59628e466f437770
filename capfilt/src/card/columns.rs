//! What the columns mean.

use std::fmt::Write;

/// The columns that every row has.
const IDENTITY: [(&str, &str); 4] = [
    ("dataset", "the data set that the row comes from"),
    ("file", "the input file, relative to the data set's folder"),
    ("row", "the row's number in that file; the three together are the row's identity"),
    ("key", "the input's key, carried along; may be null"),
];

const CAPTIONS: [(&str, &str); 5] = [
    (
        "captions",
        "what was kept, best first: `text`; `source`, `web` or `synthetic`; `score`, the cosine of image and text, null where \
         a caption was passed through unranked; `rank`, from 1",
    ),
    (
        "candidates",
        "every distinct caption that was ranked: `text`, `source`, `score`, `index`; the web's own has the last index; \
         empty where the caption was passed through",
    ),
    ("top_caption", "the best of `captions`"),
    ("all_captions", "the texts of `candidates`, or the caption that was passed through, as LAION-COCO has them"),
    ("all_similarities", "their scores"),
];

const IMAGE: (&str, &str) = ("image", "the image as it came: `bytes`, and `path`, which is null");

const FAILURE: [(&str, &str); 3] = [
    ("stage", "where the row failed: `read`, `decode`, `caption`, `rank`, `write`, `shard`"),
    ("reason", "a short word, the same for all rows that failed like this"),
    ("detail", "what exactly was wrong"),
];

/// The names of a data part's columns, in order.
#[cfg(test)]
pub(super) fn data(with_images: bool) -> Vec<&'static str> {
    let image = with_images.then_some(IMAGE);
    IDENTITY.into_iter().chain(CAPTIONS).chain(image).map(|(name, _)| name).collect()
}

pub(super) fn columns(with_images: bool) -> String {
    let mut section = String::from("\n## Columns\n\nIn `data/`, a row per image:\n\n");
    table(&mut section, IDENTITY.into_iter().chain(CAPTIONS).chain(with_images.then_some(IMAGE)));
    section += "\nIn `quarantine/`, a row per image that could not be used:\n\n";
    table(&mut section, IDENTITY.into_iter().chain(FAILURE));
    section
}

fn table(section: &mut String, columns: impl Iterator<Item = (&'static str, &'static str)>) {
    section.push_str("| Column | Meaning |\n|---|---|\n");
    for (name, meaning) in columns {
        let _ = writeln!(section, "| `{name}` | {meaning} |");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn every_column_is_explained() {
        for with_images in [false, true] {
            let schema = schema::data(with_images);
            let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            assert_eq!(data(with_images), names);
        }
        let schema = schema::quarantine();
        let explained: Vec<_> = IDENTITY.into_iter().chain(FAILURE).map(|(name, _)| name).collect();
        assert!(schema.fields().iter().map(|field| field.name()).eq(explained));
    }
}
