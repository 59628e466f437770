//! `quern status`: what a run looks like now.

use crate::outcome::{Done, Failure};
use crate::view::{Output, json};
use crate::{client, view};

/// Show a run's status once.
#[derive(clap::Args)]
pub struct Arguments {
    /// The coordinator's URL.
    #[arg(long, value_name = "URL", default_value = client::DEFAULT_URL)]
    coordinator: String,
    /// `json`: the whole status as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Asks, and prints the page.
pub async fn status(arguments: Arguments) -> Result<Done, Failure> {
    let status = client::status(&arguments.coordinator).await?;
    match arguments.output {
        Output::Text => print!("{}", view::page(&status)),
        Output::Json => println!("{:#}", json(&status)),
    }
    Ok(Done::Completely)
}
