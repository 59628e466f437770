//! Generates the client and server code; protox parses the .proto files, so no protoc is needed.

/// What is printed as JSON.
const PRINTED: [&str; 11] = [
    "StatusReply",
    "StageStatus",
    "StepLosses",
    "WorkerStatus",
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
    // What holds a secret prints itself, in src/secret.rs.
    let mut builder = tonic_prost_build::configure().skip_debug([".quern.v1.Credentials"]);
    for message in PRINTED {
        builder = builder.type_attribute(message, "#[derive(serde::Serialize)]");
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
