//! The images of rows that are shown, out of the inputs or of the parts that carry them.

use std::collections::HashMap;

use bytes::Bytes;
use futures::TryStreamExt;
use quern_corpus::RowId;
use quern_corpus::reader::{ReadError, read_rows};
use quern_recipes::{Dataset, ImageLimits};

use super::gather::Example;
use super::thumbnail;
use crate::manifest::Manifest;
use crate::read::DataRow;

/// Where images come from.
pub(super) struct Images {
    datasets: HashMap<String, Dataset>,
    limits: ImageLimits,
}

impl Images {
    /// By the recipe in the manifest; without one that can be understood there are only the parts' own images.
    pub(super) fn of(manifest: &Manifest) -> Self {
        let field = |name: &str| manifest.recipe.get(name).cloned().unwrap_or_default();
        let datasets: Vec<Dataset> = serde_json::from_value(field("datasets")).unwrap_or_default();
        let limits = serde_json::from_value(field("limits")).unwrap_or_default();
        Images { datasets: datasets.into_iter().map(|dataset| (dataset.name.clone(), dataset)).collect(), limits }
    }

    pub(super) async fn examples(&self, rows: Vec<DataRow>) -> Vec<Example> {
        let mut examples = Vec::with_capacity(rows.len());
        for row in rows {
            let image = self.data_uri(&row.id, row.image.as_ref()).await;
            examples.push(Example { row, image });
        }
        examples
    }

    pub(super) async fn data_uri(&self, id: &RowId, embedded: Option<&Bytes>) -> Option<String> {
        let bytes = match embedded {
            Some(bytes) => bytes.clone(),
            None => self.input(id).await.ok().flatten()?,
        };
        thumbnail::data_uri(&bytes, &self.limits)
    }

    async fn input(&self, id: &RowId) -> Result<Option<Bytes>, ReadError> {
        let Some(dataset) = self.datasets.get(&*id.dataset) else { return Ok(None) };
        let mut rows = read_rows(dataset, &id.file, id.row, 1).await?;
        Ok(rows.try_next().await?.and_then(|row| row.image))
    }
}
