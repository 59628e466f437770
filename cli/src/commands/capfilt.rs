//! `quern capfilt …`: the pass over one folder, and what it wrote, checked and shown.

mod inspect;
mod plan;
mod report;
mod retry;
mod run;
mod short;
mod verify;

use crate::outcome::{Done, Failure};

pub use report::write_report;

/// What there is to do.
#[derive(clap::Subcommand)]
pub enum Command {
    Plan(Box<plan::Arguments>),
    Run(Box<run::Arguments>),
    Inspect(inspect::Arguments),
    Report(report::Arguments),
    Retry(Box<retry::Arguments>),
    Verify(verify::Arguments),
}

/// Carries out the command.
pub async fn capfilt(command: Command) -> Result<Done, Failure> {
    match command {
        Command::Plan(arguments) => plan::plan(*arguments).await,
        Command::Run(arguments) => run::run(*arguments).await,
        Command::Inspect(arguments) => inspect::inspect(arguments).await,
        Command::Report(arguments) => report::report(arguments).await,
        Command::Retry(arguments) => retry::retry(*arguments).await,
        Command::Verify(arguments) => verify::verify(arguments).await,
    }
}
