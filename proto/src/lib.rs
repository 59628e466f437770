//! The gRPC protocol between coordinator, workers and the command line: generated code; and what both sides of it need to
//! know each other: a client's options ([`client`]) and files that may be replaced at any time ([`Rotating`]).

pub mod client;
mod rotating;
mod secret;

pub use generated::*;
pub use rotating::{FileError, Rotating};

#[allow(missing_docs, clippy::all)]
mod generated {
    tonic::include_proto!("quern.v1");
}
