//! `quern eval …`: hands over to `quern-worker eval …`.

use crate::companion;
use crate::outcome::{Done, Failure};

/// Evaluate a checkpoint: `quern eval retrieval …`. Carried out by quern-worker.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// Arguments of `quern-worker eval`; `--help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

/// Becomes the worker; returns only when that is impossible.
pub fn eval(arguments: Arguments) -> Result<Done, Failure> {
    let mut all = vec!["eval".to_owned()];
    all.extend(arguments.arguments);
    Err(companion::hand_over(&all))
}
