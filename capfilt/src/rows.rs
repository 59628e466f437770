//! All rows of an output, part by part in the manifest's order.

use std::ops::ControlFlow;

use quern_corpus::store::{Folder, StoreError};

use crate::manifest::Manifest;
use crate::read::{DataRow, QuarantineRow, ReadPartError, read_data, read_quarantine};

/// A row of an output.
#[derive(Debug, Clone, PartialEq)]
pub enum OutputRow {
    /// Kept or passed through.
    Data(DataRow),
    /// In quarantine.
    Quarantined(QuarantineRow),
}

/// Why an output's rows can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part is damaged.
    #[error("{url}: {source}")]
    Part {
        /// The part.
        url: String,
        /// Why.
        #[source]
        source: ReadPartError,
    },
}

/// Shows each row to `visit` until that breaks: of every part first what it kept, then what is in quarantine. One part is
/// in memory at a time.
///
/// # Errors
/// When a part can't be fetched or is none.
pub async fn visit_rows(
    output: &Folder,
    manifest: &Manifest,
    mut visit: impl FnMut(OutputRow) -> ControlFlow<()>,
) -> Result<(), RowsError> {
    for entry in &manifest.parts {
        let damaged = |name: &str, source| RowsError::Part { url: output.url_of(name), source };
        let mut rows = Vec::new();
        if let Some(name) = &entry.data {
            let data = read_data(output.get(name).await?).map_err(|source| damaged(name, source))?;
            rows.extend(data.into_iter().map(OutputRow::Data));
        }
        if let Some(name) = &entry.quarantine {
            let failed = read_quarantine(output.get(name).await?).map_err(|source| damaged(name, source))?;
            rows.extend(failed.into_iter().map(OutputRow::Quarantined));
        }
        if rows.into_iter().try_for_each(&mut visit).is_break() {
            break;
        }
    }
    Ok(())
}
