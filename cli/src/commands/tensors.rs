//! The commands that need tensors: `quern COMMAND …` hands over to `quern-worker COMMAND …`.

use crate::companion;
use crate::outcome::{Done, Failure};

/// What the worker is told, help included.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// Arguments of quern-worker's command of this name; `--help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

/// Becomes the worker at `command`; returns only when that is impossible.
pub fn hand_over(command: &str, arguments: Arguments) -> Result<Done, Failure> {
    let mut all = vec![command.to_owned()];
    all.extend(arguments.arguments);
    Err(companion::hand_over(&all))
}
