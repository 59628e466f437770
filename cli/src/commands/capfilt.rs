//! `quern capfilt …`: what CapFilt wrote, checked and shown.

mod report;
mod verify;

use crate::outcome::{Done, Failure};

pub use report::write_report;

/// What there is to do with an output.
#[derive(clap::Subcommand)]
pub enum Command {
    Report(report::Arguments),
    Verify(verify::Arguments),
}

/// Carries out the command.
pub async fn capfilt(command: Command) -> Result<Done, Failure> {
    match command {
        Command::Report(arguments) => report::report(arguments).await,
        Command::Verify(arguments) => verify::verify(arguments).await,
    }
}
