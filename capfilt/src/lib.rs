//!
//! The CapFilt pass (BLIP, arXiv 2201.12086; BLIP-2 §3.3) writes captions for an image, ranks them together with its web
//! caption and keeps the best. What needs a device is in `quern-capfilt-engine`; here is everything else:
//!
//! - [`Candidate`], [`distinct`], [`select`]: which captions there are and which are kept; [`filter`]: thresholds
//!   beyond the paper;
//! - [`PartRow`], [`encode_part`], [`Part`]: a shard's result as parquet, the same bytes every time;
//! - [`read_captions`], [`read_data`], [`read_quarantine`]: the way back;
//! - [`visit_rows`]: all rows of an output;
//! - [`Manifest`]: which parts make up an output;
//! - `decode_row`: a row's image, or what becomes of the row without (crate feature `images`);
//! - [`calibration`]: how fast a device does all this, asked of another process;
//! - [`card`](card()): the dataset card that is written beside it;
//! - [`TaskEntry`], [`ResultFiles`]: what was done with what was trained;
//! - [`SlowestShards`]: which shards took longest, beside the output;
//! - [`web_image_kind`]: which images browsers show; [`visible()`]: foreign text where people look at it;
//! - [`verify()`]: whether every input row is in the output exactly once;
//! - `report`: an output as a page to look at (crate feature `report`).
//!
//! # Layout of an output
//! ```text
//! data/{shard}-{digest}.parquet        rows that are kept or passed through, in the shard's order
//! quarantine/{shard}-{digest}.parquet  rows that could not be processed, with stage and reason
//! README.md                            the dataset card
//! manifest.json                        the parts in shard order, totals, recipe, versions, results of tasks
//! evaluation/{digest}/, export/{digest}/  results of tasks
//! ```
//! A file's digest is that of its own bytes. A shard without rows of one kind has no file of that kind.

pub mod calibration;
mod candidate;
mod card;
#[cfg(feature = "images")]
mod decode;
mod filters;
mod language;
mod manifest;
mod models;
mod part;
mod provenance;
mod read;
mod redo;
#[cfg(feature = "report")]
pub mod report;
mod row;
mod rows;
mod schema;
mod slowest;
mod tasks;
pub mod verify;
mod visible;
mod web_image;

pub use candidate::{Candidate, Source, distinct, select};
pub use card::{CARD, card};
#[cfg(feature = "images")]
pub use decode::{decode_row, embedded, panic_message};
pub use filters::filter;
pub use manifest::{MANIFEST, Manifest, ManifestError, PartEntry, QuarantinedShard, Totals};
pub use models::{ModelFileError, model_digests};
pub use part::{DATA_FOLDER, Part, PartError, QUARANTINE_FOLDER, encode_part, shard_of};
pub use provenance::Provenance;
pub use read::{
    CaptionRow, DataRow, KeptCaption, QuarantineRow, ReadPartError, read_captions, read_data, read_provenance,
    read_quarantine,
};
pub use redo::Redo;
pub use row::{PartRow, RowOutcome, Stage, pass_through};
pub use rows::{OutputRow, RowsError, visit_rows};
pub use slowest::{BESIDE, SlowShard, SlowestShards};
pub use tasks::{ResultFiles, TaskEntry};
pub use verify::{Verification, VerifyError, Violation, verify};
pub use visible::{is_invisible, visible};
pub use web_image::web_image_kind;
