//! `sim`: runs seeds and counts what happened. See docs/reference/simulation.md.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;
use quern_sim::{Options, Report, run, run_all};

/// Simulates whole clusters, one per seed, and checks them from outside.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Replay this seed and print every event.
    #[arg(long, conflicts_with_all = ["seeds", "start"])]
    seed: Option<u64>,
    /// For every planted bug, say how many seeds it takes to catch it (needs the feature `mutations`).
    #[arg(long)]
    mutations: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.mutations {
        return mutations(arguments.start, arguments.seeds);
    }
    if let Some(seed) = arguments.seed {
        let report = run(Options { trace: true, ..Options::of(seed) });
        println!("seed {seed}: {} events, log digest {}", report.events, report.digest);
        return verdict(&[report]);
    }
    verdict(&run_all(arguments.start, arguments.seeds))
}

fn verdict(reports: &[Report]) -> ExitCode {
    let violations: Vec<_> = reports.iter().filter(|report| report.violation.is_some()).collect();
    for report in &violations {
        let what = report.violation.as_deref().unwrap_or_default();
        println!("seed {}: {what}\n  replay: sim --seed {}", report.seed, report.seed);
    }
    let mut faults = BTreeMap::new();
    for (kind, count) in reports.iter().flat_map(|report| &report.faults) {
        *faults.entry(*kind).or_insert(0) += count;
    }
    let mut marks = BTreeMap::new();
    for (mark, count) in reports.iter().flat_map(|report| &report.marks) {
        *marks.entry(*mark).or_insert(0) += count;
    }
    let marks: Vec<_> = marks.iter().map(|(mark, count)| format!("{mark} {count}")).collect();
    println!("{}", marks.join(", "));
    let kinds: Vec<_> = faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!(
        "{} seeds ({} over SQLite), {} events (median {}), {} faults (median {}, beside messages {}): {}; median run {} ms; {} violations",
        reports.len(),
        reports.iter().filter(|report| report.sqlite).count(),
        reports.iter().map(|report| report.events).sum::<u64>(),
        median(reports, |report| report.events),
        reports.iter().map(Report::faults_total).sum::<u64>(),
        median(reports, Report::faults_total),
        median(reports, Report::faults_beside_messages),
        kinds.join(", "),
        median(reports, |report| report.virtual_ms),
        violations.len()
    );
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn median(reports: &[Report], of: impl Fn(&Report) -> u64) -> u64 {
    let mut all: Vec<_> = reports.iter().map(of).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}

#[cfg(feature = "mutations")]
fn mutations(start: u64, seeds: u64) -> ExitCode {
    let mut missed = 0;
    for mutation in quern_machine::Mutation::ALL {
        match quern_sim::seeds_to_catch(mutation, start, seeds) {
            Some((seeds, what)) => println!("{mutation:?}: caught within {seeds} seeds: {what}"),
            None => {
                println!("{mutation:?}: not caught within {seeds} seeds");
                missed += 1;
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(feature = "mutations"))]
fn mutations(_: u64, _: u64) -> ExitCode {
    eprintln!("this build has no bugs to plant: build it with --features quern-sim/mutations");
    ExitCode::FAILURE
}
