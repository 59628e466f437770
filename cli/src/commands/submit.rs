//! `quern submit`: hands a recipe to a coordinator that carries out what it is given.

use std::path::PathBuf;

use quern_proto::SubmitRequest;
use quern_recipes::Recipe;

use crate::client::{Place, RunPlace};
use crate::commands::watch;
use crate::outcome::{Done, Failure};
use crate::progress::ProgressOptions;
use crate::view::{Output, json};

/// Hand a recipe to a coordinator that was started with --state; it is carried out when there are workers for it.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recipe's file.
    recipe: PathBuf,
    #[command(flatten)]
    place: Place,
    /// Follow the run to its end; the exit code is the run's.
    #[arg(long)]
    watch: bool,
    /// `json`: the answer, and with --watch each status, as lines of JSON.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    progress: ProgressOptions,
}

/// Hands it in, and says how the run is called.
pub async fn submit(arguments: Arguments) -> Result<Done, Failure> {
    let Arguments { recipe, place, watch, output, progress } = arguments;
    let recipe = Recipe::read(&recipe)?;
    let request = SubmitRequest { recipe_json: recipe.to_json() };
    let answered = place.connect().await?.submit(request).await.map_err(|status| place.refused(&status))?;
    let reply = answered.into_inner();
    match output {
        Output::Json => println!("{}", json(&reply)),
        Output::Text if reply.known => println!("run {} ({}) has been handed in before", reply.run_id, recipe.name),
        Output::Text => println!("run {} ({}) is handed in", reply.run_id, recipe.name),
    }
    match watch {
        true => watch::watch(watch::Arguments { of: RunPlace { place, run: reply.run_id }, output, progress }).await,
        false => Ok(Done::Completely),
    }
}
