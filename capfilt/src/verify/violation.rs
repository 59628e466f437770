//! What can be wrong with an output.

use quern_corpus::{RowId, ShardId, ShardSpec};

use crate::provenance::Provenance;

/// Something that is wrong with an output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A shard of the plan is in no part and not quarantined.
    #[error("shard {shard} of the plan is missing from the manifest")]
    ShardMissing {
        /// The shard.
        shard: ShardId,
    },
    /// A shard is named more than once.
    #[error("shard {shard} is in the manifest {times} times")]
    ShardRepeated {
        /// The shard.
        shard: ShardId,
        /// How often.
        times: usize,
    },
    /// The manifest's shard is not the plan's.
    #[error("shard {shard} is not what was planned: {found:?} instead of {planned:?}")]
    ShardDiffers {
        /// The shard.
        shard: ShardId,
        /// In the manifest.
        found: Box<ShardSpec>,
        /// In the plan; none if it has no such shard.
        planned: Option<Box<ShardSpec>>,
    },
    /// The entries are not in the order of the shards' names.
    #[error("the manifest's parts are not in shard order: {shard} comes too late")]
    OutOfOrder {
        /// The shard that comes too late.
        shard: ShardId,
    },
    /// A file that the manifest names is not there.
    #[error("{file} is in the manifest, but not in the output")]
    FileMissing {
        /// The file.
        file: String,
    },
    /// A file's content is not what its name says.
    #[error("{file} should be called {expected}: its content changed")]
    FileDigest {
        /// The file.
        file: String,
        /// The name that fits its content.
        expected: String,
    },
    /// A part's digest is not that of its files.
    #[error("shard {shard}: the manifest's digest is {expected}, the files' is {found}")]
    PartDigest {
        /// The shard.
        shard: ShardId,
        /// In the manifest.
        expected: String,
        /// Of the files.
        found: String,
    },
    /// A file can't be read.
    #[error("{file}: {reason}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// A file comes from another run, recipe, seed, version or other models.
    #[error("{file} was written by another run than the manifest's: {found:?} instead of {expected:?}")]
    Provenance {
        /// The file.
        file: String,
        /// In the file.
        found: Box<Provenance>,
        /// In the manifest.
        expected: Box<Provenance>,
    },
    /// An input row is in no part.
    #[error("row {row} is missing from shard {shard}")]
    RowMissing {
        /// The shard.
        shard: ShardId,
        /// The row.
        row: RowId,
    },
    /// An input row is there more than once.
    #[error("row {row} is {times} times in the output")]
    RowRepeated {
        /// The row.
        row: RowId,
        /// How often.
        times: usize,
    },
    /// A row does not belong to the shard.
    #[error("row {row} is in a part of shard {shard}, but not a row of it")]
    RowForeign {
        /// The shard.
        shard: ShardId,
        /// The row.
        row: RowId,
    },
    /// The rows of a file are not in order.
    #[error("the rows of {file} are not in order: {row} comes too late")]
    RowOrder {
        /// The file.
        file: String,
        /// The first row that comes too late.
        row: RowId,
    },
    /// The manifest counts other rows than there are.
    #[error("shard {shard}: the manifest says {expected} kept, passed and quarantined rows, the files hold {found}")]
    Counts {
        /// The shard.
        shard: ShardId,
        /// In the manifest.
        expected: String,
        /// In the files.
        found: String,
    },
    /// The manifest counts other reasons than there are.
    #[error("shard {shard}: the manifest says {expected} in quarantine, the files hold {found}")]
    Reasons {
        /// The shard.
        shard: ShardId,
        /// In the manifest.
        expected: String,
        /// In the files.
        found: String,
    },
    /// There is no dataset card.
    #[error("README.md, the dataset card, is missing")]
    CardMissing,
    /// The dataset card is not the manifest's.
    #[error(
        "README.md is not the dataset card that the manifest gives: it was changed since, or is another output's; keep an \
         edited one elsewhere"
    )]
    CardDiffers,
    /// What a task made is not what the manifest says.
    #[error("{path}: the manifest's digest is {expected}, that of the files there is {found}")]
    TaskDigest {
        /// The result's folder.
        path: String,
        /// In the manifest.
        expected: String,
        /// Of the files.
        found: String,
    },
    /// The totals are not the sum of the parts.
    #[error("the manifest's totals are not the sum of its parts")]
    Totals,
    /// A file that the manifest does not name.
    #[error("{file} is in the output, but not in the manifest: an attempt that was not accepted left it; delete it")]
    Orphan {
        /// The file.
        file: String,
    },
}
