//! `quern explain`: one sentence about what a run is doing, or why nothing moves.

use crate::client::RunPlace;
use crate::outcome::{Done, Failure};

/// Say in one sentence what a run is doing, or why nothing moves.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    of: RunPlace,
}

/// Asks, and prints the sentence.
pub async fn explain(arguments: Arguments) -> Result<Done, Failure> {
    let RunPlace { place, run } = arguments.of;
    println!("{}", place.status(&run).await?.explanation);
    Ok(Done::Completely)
}
