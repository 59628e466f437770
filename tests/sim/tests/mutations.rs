//! Every planted bug is caught. Needs the feature `mutations`: `make sim-mutations`.
#![cfg(feature = "mutations")]

use quern_machine::Mutation;

/// Within so many seeds, from seed 0 on.
const SEEDS: u64 = 100;

#[test]
fn every_planted_bug_is_caught() {
    for mutation in Mutation::ALL {
        let caught = quern_sim::seeds_to_catch(mutation, 0, SEEDS);
        // Shown with --nocapture, for docs/reference/simulation.md.
        println!("{mutation:?}: {:?} seeds", caught.as_ref().map(|(seeds, _)| seeds));
        assert!(caught.is_some(), "{mutation:?} is not caught within {SEEDS} seeds");
    }
}
