//! `quern explain`: one sentence about what a run is doing, or why nothing moves.

use crate::client;
use crate::outcome::{Done, Failure};

/// Say in one sentence what a run is doing, or why nothing moves.
#[derive(clap::Args)]
pub struct Arguments {
    /// The coordinator's URL.
    #[arg(long, value_name = "URL", default_value = client::DEFAULT_URL)]
    coordinator: String,
}

/// Asks, and prints the sentence.
pub async fn explain(arguments: Arguments) -> Result<Done, Failure> {
    println!("{}", client::status(&arguments.coordinator).await?.explanation);
    Ok(Done::Completely)
}
