//! `quern status`: what a run looks like now.

use crate::outcome::{Done, Failure};
use crate::{client, view};

/// Show a run's status once.
#[derive(clap::Args)]
pub struct Arguments {
    /// The coordinator's URL.
    #[arg(long, value_name = "URL", default_value = client::DEFAULT_URL)]
    coordinator: String,
}

/// Asks, and prints the page.
pub async fn status(arguments: Arguments) -> Result<Done, Failure> {
    print!("{}", view::page(&client::status(&arguments.coordinator).await?));
    Ok(Done::Completely)
}
