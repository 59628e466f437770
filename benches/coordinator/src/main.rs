//! `bench-coordinator`: the coordinator's speed at the size of the paper's corpus, against its goals and against a queue
//! in PostgreSQL. See docs/benchmarks.md.
//!
//! The coordinator is the production one, in a process of its own, with its journal on a disk; the load comes from
//! this process.

mod coordinator;
mod figures;
mod footers;
mod limits;
mod planning;
mod postgres;
mod queue;
mod recipe;
mod slow_store;
mod stages;
mod workers;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::stages::{Bench, Size};

/// Measures the coordinator: planning, leases and commits, restart.
#[derive(Parser)]
struct Arguments {
    /// A twentieth of the size, once: whether everything works, not how fast.
    #[arg(long)]
    quick: bool,
    /// How often each figure is taken; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where the corpus, the journals and PostgreSQL's data are: on a disk, not in memory.
    #[arg(long, value_name = "FOLDER", default_value = "/var/tmp")]
    folder: PathBuf,
    /// Leave the comparison out.
    #[arg(long)]
    without_postgres: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// What the bench starts its coordinator with.
    #[command(hide = true)]
    BeCoordinator {
        /// The recipe's file.
        recipe: PathBuf,
        /// The journal's.
        journal: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    limits::allow_many_connections()?;
    let runtime = tokio::runtime::Runtime::new()?;
    if let Some(Role::BeCoordinator { recipe, journal }) = arguments.role {
        return runtime.block_on(coordinator::be(&recipe, journal));
    }
    let size = if arguments.quick { Size::QUICK } else { Size { rounds: arguments.rounds, ..Size::FULL } };
    let bench = Bench::new(size, &arguments.folder, !arguments.without_postgres)?;
    runtime.block_on(bench.measure())
}
