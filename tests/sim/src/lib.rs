//! A whole cluster in one thread: the production ledger, machine and journals, and around them simulated workers,
//! network, disk and clock. One seed is one run, and the same seed is the same run.
//!
//! `cluster` is the scheduler and the network, `coordinator` the process around the production keeper, `worker`
//! the agents, `faults` what goes wrong, `disk` the journals. The judge is `quern-sim-checker`.

#![forbid(unsafe_code)]

pub mod cluster;
mod coordinator;
pub mod dice;
pub mod disk;
mod faults;
pub mod log;
mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

pub use cluster::run;

/// How a seed is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// Print every event.
    pub trace: bool,
    /// Over the SQLite journal.
    pub sqlite: bool,
}

impl Options {
    /// Of eight seeds, one is over the SQLite journal.
    pub fn of(seed: u64) -> Self {
        Options { seed, trace: false, sqlite: seed.is_multiple_of(8) }
    }
}

/// What came of a seed.
#[derive(Debug, Clone)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Whether it was over the SQLite journal.
    pub sqlite: bool,
    /// Events that happened.
    pub events: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often what is rare happened.
    pub marks: BTreeMap<&'static str, u64>,
    /// Digest of the event log.
    pub digest: String,
    /// The first promise that was broken.
    pub violation: Option<String>,
    /// How long the run took, in its own time.
    pub virtual_ms: u64,
}

impl Report {
    /// All faults.
    pub fn faults_total(&self) -> u64 {
        self.faults.values().sum()
    }

    /// All faults but those that befall single messages.
    pub fn faults_beside_messages(&self) -> u64 {
        self.faults.iter().filter(|(kind, _)| !kind.starts_with("message")).map(|(_, count)| count).sum()
    }
}

/// Runs seeds on all cores; the reports come in no order.
pub fn run_all(start: u64, seeds: u64) -> Vec<Report> {
    let next = AtomicU64::new(start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut reports = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= start + seeds {
                return reports;
            }
            reports.push(run(Options::of(seed)));
        }
    };
    std::thread::scope(|scope| {
        let hands: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        hands.into_iter().flat_map(|hand| hand.join().expect("a run doesn't panic")).collect()
    })
}

/// How many seeds from `start` on it takes to catch a planted bug, and what gave it away; `None`: more than `seeds`.
#[cfg(feature = "mutations")]
pub fn seeds_to_catch(mutation: quern_machine::Mutation, start: u64, seeds: u64) -> Option<(u64, String)> {
    quern_machine::plant(Some(mutation));
    let caught = (start..start + seeds).find_map(|seed| {
        let report = run(Options { sqlite: mutation.is_below_the_journal(), ..Options::of(seed) });
        report.violation.map(|what| (seed - start + 1, what))
    });
    quern_machine::plant(None);
    caught
}
