//! Parquet in and out, shard plan, row reader, sample order, images, and the toy world.
//!
//! - [`store`]: folders behind paths and URLs.
//! - [`plan`]: which shards a data set has, from its files' footers and headers alone.
//! - [`sample`]: rows that stand for a data set.
//! - [`discover`]: which columns a data set has.
//! - [`reader`]: a shard's rows as a stream.
//! - [`fetch`]: images from the web.
//! - [`order`]: which sample is trained on when.
//! - [`annotated`]: images with their texts, to be evaluated.
//! - `images`: decode, resize, transform (crate feature `images`).
//! - `toy`: a world whose correct captions are known (crate feature `images`).

pub mod annotated;
mod columns;
#[cfg(test)]
mod counted;
pub mod discover;
pub mod fetch;
mod files;
#[cfg(feature = "images")]
pub mod images;
mod keyed;
mod local;
pub mod order;
mod parquet_file;
pub mod plan;
pub mod reader;
mod rows;
pub mod sample;
pub mod store;
mod tars;
#[cfg(feature = "images")]
pub mod toy;
mod values;
#[cfg(test)]
mod web;

pub use columns::ColumnError;
pub use keyed::{Keyed, Purpose};
pub use parquet_file::check_places;
pub use rows::{RowId, ShardId, ShardSpec};
