//! An output as one HTML page to look at: what was kept and why, what failed, how the scores lie.
//!
//! The page is self-contained (thumbnails are data URIs, there is no script) and the same for the same output, but for which
//! shards took longest: that lies beside the output, or nowhere. It shows a
//! sample of rows: those whose keys hash lowest, which is random but does not change, and the weakest, whose best caption
//! has the lowest score. Numbers and distributions are over all rows, in memory that does not grow with them
//! (the manifest, which does with the number of shards, is read whole).

mod cards;
mod chart;
mod distinct;
mod escape;
mod gather;
mod histogram;
mod images;
mod numbers;
mod page;
mod quarantine;
mod readable;
mod slowest;
mod tally;
mod thumbnail;
mod words;

use quern_corpus::RowId;
use quern_corpus::store::{Folder, StoreError};

use crate::manifest::ManifestError;
use crate::rows::RowsError;

/// The page's name in an output.
pub const REPORT: &str = "report.html";

/// What the page shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportOptions {
    /// Rows of the sample.
    pub examples: usize,
    /// Rows with the lowest scores.
    pub weakest: usize,
    /// Rows per reason of quarantine.
    pub per_reason: usize,
}

impl Default for ReportOptions {
    fn default() -> Self {
        ReportOptions { examples: 36, weakest: 8, per_reason: 6 }
    }
}

/// Whether a caption is right for a row, where the caller can tell (the demo can); the page then marks captions and counts.
pub type Marks<'a> = &'a (dyn Fn(&RowId, &str) -> Option<bool> + Sync);

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is no manifest: CapFilt is not done.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part can't be read.
    #[error(transparent)]
    Rows(#[from] RowsError),
}

/// The page for an output. Images are read from the data sets that the manifest names, or from the parts that carry them;
/// a row whose image can't be had is shown without.
///
/// # Errors
/// When the manifest or a part can't be read.
pub async fn render(output: &Folder, options: &ReportOptions, marks: Option<Marks<'_>>) -> Result<String, ReportError> {
    let gathered = gather::gather(output, options, marks).await?;
    Ok(page::page(&gathered, marks))
}

/// Writes the page into the output as [`REPORT`] and gives its URL.
///
/// # Errors
/// As [`render`], and when it can't be written.
pub async fn write(output: &Folder, options: &ReportOptions, marks: Option<Marks<'_>>) -> Result<String, ReportError> {
    let page = render(output, options, marks).await?;
    output.put(REPORT, page.into()).await?;
    Ok(output.url_of(REPORT))
}
