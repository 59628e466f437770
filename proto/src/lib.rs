//! The gRPC protocol between coordinator, workers and the command line: generated code, nothing else.
#![allow(missing_docs, clippy::all)]

tonic::include_proto!("quern.v1");
