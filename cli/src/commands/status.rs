//! `quern status`: what a run looks like now.

use crate::client::RunPlace;
use crate::outcome::{Done, Failure};
use crate::view::{self, Output, json};

/// Show a run's status once.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    of: RunPlace,
    /// `json`: the whole status as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Asks, and prints the page.
pub async fn status(arguments: Arguments) -> Result<Done, Failure> {
    let status = arguments.of.place.status(&arguments.of.run).await?;
    match arguments.output {
        Output::Text => print!("{}", view::page(&status)),
        Output::Json => println!("{:#}", json(&status)),
    }
    Ok(Done::Completely)
}
