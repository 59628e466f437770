//! The simulation itself: many seeds without a broken promise, and the same seed twice.

use quern_sim::{Options, Report, run, run_all};

/// Seeds of `make test`; one in eight is over the SQLite journal.
const SEEDS: u64 = 2_000;

fn median(reports: &[Report], of: impl Fn(&Report) -> u64) -> u64 {
    let mut all: Vec<_> = reports.iter().map(of).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

#[test]
fn no_seed_breaks_a_promise() {
    let reports = run_all(0, SEEDS);
    let broken = reports.iter().filter_map(|report| Some((report.seed, report.violation.as_ref()?)));
    let broken: Vec<_> = broken.map(|(seed, what)| format!("sim --seed {seed}: {what}")).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert_eq!(reports.iter().filter(|report| report.sqlite).count(), 250);
    assert!(median(&reports, |report| report.events) >= 2_000);
    assert!(median(&reports, Report::faults_beside_messages) >= 10);
    for (mark, least) in [
        ("second attempt", 200),
        ("second attempt was first", 200),
        ("place denied", 200),
        ("place allowed", 200),
        ("task done", 200),
        ("task tried again", 200),
        ("acceptances read", 200),
        ("journal set back", 200),
        ("shards added", 200),
        ("shards retried", 200),
        ("shard restored", 50),
        ("part replaced", 10),
    ] {
        let often: u64 = reports.iter().filter_map(|report| report.marks.get(mark)).sum();
        assert!(often >= least, "too rare: {mark}, {often} times");
    }
    let kinds: std::collections::BTreeSet<_> = reports.iter().flat_map(|report| report.faults.keys()).collect();
    assert_eq!(kinds.len(), 36, "every kind of fault strikes: {kinds:?}");
}

#[test]
fn the_same_seed_is_the_same_run_over_either_journal() {
    for seed in [3, 10, 8, 16, 40] {
        let (once, again) = (run(Options::of(seed)), run(Options::of(seed)));
        assert_eq!((once.digest, once.events), (again.digest, again.events), "seed {seed}");
    }
    assert_ne!(run(Options::of(1)).digest, run(Options::of(2)).digest);
}
