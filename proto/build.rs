//! Generates the client and server code; protox parses the .proto files, so no protoc is needed. The
//! parsed protocol itself is kept for reflection.

use protox::prost::Message;

/// What is printed as JSON.
const PRINTED: [&str; 12] = [
    "StatusReply",
    "StageStatus",
    "StepLosses",
    "WorkerStatus",
    "DatasetStatus",
    "DeniedPlace",
    "TaskStatus",
    "ShardFailure",
    "QuarantineReason",
    "RunSummary",
    "SubmitReply",
    "LogLine",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=quern.proto");
    let descriptors = protox::compile(["quern.proto"], ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // What holds a secret prints itself, in src/secret.rs.
    let mut builder = tonic_prost_build::configure().skip_debug([".quern.v1.Credentials"]);
    for message in PRINTED {
        builder = builder.type_attribute(message, "#[derive(serde::Serialize)]");
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
