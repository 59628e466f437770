//! Images with their captions, for evaluation.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt;
use quern_corpus::RowId;
use quern_corpus::annotated::{Annotated, AnnotatedColumns, read_annotated};
use quern_recipes::{Columns, Recipe};

use crate::error::TrainError;

/// The column that may hold several captions of an image.
const CAPTIONS: &str = "captions";

/// An image and all its captions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldOut {
    /// Its first row.
    pub id: RowId,
    /// Its key, if it has one.
    pub key: Option<String>,
    /// The encoded image.
    pub image: Bytes,
    /// At least one.
    pub captions: Vec<String>,
}

/// Reads the parquet at `path`: at most `limit` images, in the order of their first rows. Captions are in the list
/// column `captions` or, where a file has none, in the caption column of the recipe's first data set; rows of the same
/// key are one image. Rows without image or caption are left out.
pub(super) async fn read(recipe: &Recipe, path: &str, limit: Option<usize>) -> Result<Vec<HeldOut>, TrainError> {
    let Columns { image, caption, key } =
        recipe.datasets.first().map_or_else(Columns::default, |dataset| dataset.columns.clone());
    let columns = AnnotatedColumns { image, texts: vec![CAPTIONS.into(), caption], key };
    let mut rows = read_annotated(path, &columns).await?;
    let mut gathered = Gathered::default();
    while let Some(row) = rows.try_next().await? {
        gathered.add(row, limit.unwrap_or(usize::MAX));
    }
    match gathered.images.is_empty() {
        true => Err(TrainError::Corpus(format!("{path} has no row with an image and a caption"))),
        false => Ok(gathered.images),
    }
}

/// Images so far, and where those with a key are.
#[derive(Default)]
struct Gathered {
    images: Vec<HeldOut>,
    places: BTreeMap<String, usize>,
}

impl Gathered {
    /// Adds a row's captions to its image, which is new unless its key is known.
    fn add(&mut self, row: Annotated, limit: usize) {
        let captions: Vec<String> = row.texts.into_iter().filter(|caption| !caption.trim().is_empty()).collect();
        if captions.is_empty() {
            return;
        }
        if let Some(&place) = row.key.as_ref().and_then(|key| self.places.get(key)) {
            self.images[place].captions.extend(captions);
        } else if let Some(image) = row.image
            && self.images.len() < limit
        {
            if let Some(key) = &row.key {
                self.places.insert(key.clone(), self.images.len());
            }
            self.images.push(HeldOut { id: row.id, key: row.key, image, captions });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(index: u64, key: Option<&str>, image: Option<&'static str>, texts: &[&str]) -> Annotated {
        Annotated {
            id: RowId { dataset: "d".into(), file: "f".into(), row: index },
            key: key.map(String::from),
            image: image.map(Bytes::from),
            texts: texts.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn rows_of_one_key_are_one_image_and_what_lacks_image_or_caption_is_left_out() {
        let mut gathered = Gathered::default();
        for row in [
            row(0, Some("a"), Some("dog"), &["a dog", " ", "the dog"]),
            row(1, None, Some("cat"), &["a cat"]),
            row(2, Some("b"), None, &["nothing to see"]),
            row(3, Some("a"), None, &["one dog"]),
            row(4, None, Some("cat"), &["another cat"]),
            row(5, Some("c"), Some("fish"), &[]),
            row(6, Some("d"), Some("bird"), &["beyond the limit"]),
        ] {
            gathered.add(row, 3);
        }
        let found: Vec<(u64, Vec<&str>)> = (gathered.images.iter())
            .map(|image| (image.id.row, image.captions.iter().map(String::as_str).collect()))
            .collect();
        let expected = [(0, vec!["a dog", "the dog", "one dog"]), (1, vec!["a cat"]), (4, vec!["another cat"])];
        assert_eq!(found, expected);
    }
}
