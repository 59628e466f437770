//! `bench-coordinator`: the coordinator's speed at the size of the paper's corpus, against its goals and against a queue
//! in PostgreSQL. See docs/benchmarks.md.

mod footers;
mod planning;
mod recipe;
mod slow_store;

use std::time::{Duration, Instant};

use clap::Parser;

/// What a request takes through the slow store.
const LATENCY: Duration = Duration::from_millis(50);

/// Measures the coordinator: planning, leases and commits, restart.
#[derive(Parser)]
struct Arguments {
    /// A twentieth of the size.
    #[arg(long)]
    quick: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(arguments))
}

async fn measure(arguments: Arguments) -> anyhow::Result<()> {
    let files = if arguments.quick { 645 } else { 12_900 };
    let folder = tempfile::tempdir()?;
    let start = Instant::now();
    footers::write_corpus(&folder.path().join("corpus"), files)?;
    println!("{files} files written in {:.1?}", start.elapsed());
    let shards = files * (footers::FILE_ROWS / footers::GROUP_ROWS) as usize;
    let recipe = recipe::over(folder.path(), footers::GROUP_ROWS)?;
    println!("planned here in {:.2?}", planning::plan_here(&recipe, shards).await?);
    println!("planned at {LATENCY:?} per request in {:.2?}", planning::plan_far(&recipe, shards, LATENCY).await?);
    Ok(())
}
