//! `quern run`: a recipe from beginning to end on this machine.

use std::path::PathBuf;

use quern_proto::client::ClientOptions;
use quern_recipes::Recipe;

use crate::access::AccessOptions;
use crate::commands::watch::end_of;
use crate::launch::{Again, Launch, default_journal, default_logs, launch, ranks};
use crate::outcome::{Done, Failure};
use crate::progress::ProgressOptions;

/// Carry out a recipe on this machine: a coordinator and local workers.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recipe's file.
    recipe: PathBuf,
    #[command(flatten)]
    local: Local,
}

/// How a recipe is carried out on this machine.
#[derive(clap::Args)]
pub struct Local {
    /// Worker processes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Device of the workers: auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Where the coordinator listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: String,
    #[command(flatten)]
    access: AccessOptions,
    #[command(flatten)]
    client: ClientOptions,
    #[command(flatten)]
    progress: ProgressOptions,
    /// The journal: with it, the same command goes on where an earlier one stopped [default: OUTPUT.journal.sqlite].
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

/// Runs the recipe and says what came out.
pub async fn run(Arguments { recipe, local }: Arguments) -> Result<Done, Failure> {
    carry_out(Recipe::read(&recipe)?, local, Again::Rest).await
}

/// Runs a recipe on this machine and says what came out.
pub async fn carry_out(recipe: Recipe, local: Local, again: Again) -> Result<Done, Failure> {
    let Local { workers, device, listen, access, client, progress, journal } = local;
    if let Some((key, ranks)) = ranks(&recipe).find(|(_, ranks)| *ranks > u32::from(workers)) {
        return Err(Failure::bad_input(format!(
            "`{key}` is {ranks}, but --workers is {workers}: training needs a worker per rank"
        )));
    }
    access.admits(&client)?;
    let ended = launch(Launch {
        workers: workers.into(),
        device,
        listen,
        access: access.access(),
        client,
        progress,
        journal: journal.unwrap_or_else(|| default_journal(&recipe)),
        logs: default_logs(&recipe),
        recipe,
        again,
    })
    .await?;
    let end = end_of(&ended.last)?;
    print!("{}", crate::view::page(&ended.last));
    Ok(end)
}
