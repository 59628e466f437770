//! The gRPC protocol between coordinator, workers and the command line: generated code; and what both sides of it need to
//! know each other: a client's options ([`client`]) and files that may be replaced at any time ([`Rotating`]).

pub mod client;
mod rotating;
mod secret;

pub use generated::*;
pub use rotating::{FileError, Rotating};

/// The protocol as a serialised `FileDescriptorSet`, for servers that describe themselves.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[allow(missing_docs, clippy::all)]
mod generated {
    tonic::include_proto!("quern.v1");
}
