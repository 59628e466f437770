//! `quern capfilt plan`: what `quern capfilt run` with these arguments will be.

use super::short::ShortForm;
use crate::commands::plan::{Options, carry_out};
use crate::outcome::{Done, Failure};

/// Say what `quern capfilt run` with the same arguments will be, as `quern plan` does of a recipe. Nothing is written.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    short: ShortForm,
    #[command(flatten)]
    options: Options,
}

/// Finds the columns, and plans the recipe.
pub async fn plan(arguments: Arguments) -> Result<Done, Failure> {
    carry_out(arguments.short.recipe().await?, arguments.options).await
}
