//! The parsers of foreign bytes that link no torch, one file each.

mod addresses;
mod annotated;
mod images;
mod manifests;
mod opt_outs;
mod parquets;
mod parts;
mod recipes;
mod records;
mod seeds;
mod shards;
mod tars;
