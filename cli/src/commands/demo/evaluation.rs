//! What `quern-worker` measures and says, for the demo to read.

use std::ffi::OsStr;
use std::process::Stdio;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::companion;
use crate::outcome::Failure;

/// A mean with its standard error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// Its standard error.
    pub standard_error: f64,
}

/// What `quern-worker ARGUMENTS… --json` prints: one JSON value, or one per line.
pub async fn evaluate<T: DeserializeOwned>(
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<Vec<T>, Failure> {
    let mut command = Command::new(companion::path()?);
    command.args(arguments).args(["--json", "--device", "cpu"]);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| Failure::failed(format!("quern-worker does not start: {error}")))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::failed(format!("the evaluation ended with {}: {}", output.status, errors.trim())));
    }
    serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::failed(format!("quern-worker's report can't be read: {error}")))
}

/// The one value that an evaluation is to print.
pub fn only<T>(values: Vec<T>) -> Result<T, Failure> {
    let count = values.len();
    let [value] = <[T; 1]>::try_from(values)
        .map_err(|_| Failure::failed(format!("quern-worker printed {count} reports instead of one")))?;
    Ok(value)
}
