//! `quern-worker`, the other binary: it links libtorch and lies beside this one.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use quern_telemetry::{FORMAT_VARIABLE, LogFormat};

use crate::outcome::Failure;

/// Where `quern-worker` is, or one sentence about its absence.
pub fn path() -> Result<PathBuf, Failure> {
    let here = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("the folder of this program can't be found: {error}")))?;
    let worker = here.with_file_name("quern-worker");
    if worker.is_file() {
        return Ok(worker);
    }
    Err(Failure::failed(format!(
        "{} is missing, and this command needs it: run `make build`, or install quern-worker beside quern",
        worker.display()
    )))
}

/// A `quern-worker` to be started, which writes its log as this process does.
pub fn command(worker: &Path) -> Command {
    let mut command = Command::new(worker);
    command.env(FORMAT_VARIABLE, LogFormat::of_this_process().name());
    command
}

/// Becomes `quern-worker ARGUMENTS…`; returns only when that is impossible.
pub fn hand_over(arguments: &[String]) -> Failure {
    match path() {
        Ok(worker) => {
            let error = command(&worker).args(arguments).exec();
            Failure::failed(format!("{} does not start: {error}", worker.display()))
        }
        Err(missing) => missing,
    }
}
