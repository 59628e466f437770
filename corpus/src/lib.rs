//! Parquet in and out, shard plan, row reader, sample order, images, and the toy world.

mod keyed;
mod rows;

pub use keyed::{Keyed, Purpose};
pub use rows::{RowId, ShardId, ShardSpec};
