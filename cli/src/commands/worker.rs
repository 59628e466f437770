//! `quern worker`: hands over to `quern-worker run`.

use crate::companion;
use crate::outcome::{Done, Failure};

/// Work for a coordinator: `quern worker --coordinator URL [--device DEVICE]`. Carried out by quern-worker.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// Arguments of `quern-worker run`; `--help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

/// Becomes the worker; returns only when that is impossible.
pub fn worker(arguments: Arguments) -> Result<Done, Failure> {
    let mut all = vec!["run".to_owned()];
    all.extend(arguments.arguments);
    Err(companion::hand_over(&all))
}
