use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// The first `count` samples, one at a time.
fn first(order: &SampleOrder, count: u64) -> Vec<Sample> {
    (0..count).flat_map(|step| order.batch(step, 1)).collect()
}

fn sizes() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(0u64..12, 1..14).prop_filter("some rows", |sizes| sizes.iter().sum::<u64>() > 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn every_epoch_is_a_permutation(sizes in sizes(), seed: u64) {
        let order = SampleOrder::new(sizes.clone(), seed);
        let rows = order.rows_per_epoch();
        let all: BTreeSet<(usize, u64)> =
            sizes.iter().enumerate().flat_map(|(shard, &rows)| (0..rows).map(move |row| (shard, row))).collect();
        let samples = first(&order, rows * 3);
        for (epoch, samples) in samples.chunks(rows as usize).enumerate() {
            prop_assert!(samples.iter().all(|sample| sample.epoch == epoch as u64));
            let seen: BTreeSet<_> = samples.iter().map(|sample| (sample.shard, sample.ordinal)).collect();
            prop_assert_eq!(&seen, &all);
        }
    }

    #[test]
    fn batches_are_cut_from_one_sequence(sizes in sizes(), seed: u64, batch in 1u32..40) {
        let order = SampleOrder::new(sizes, seed);
        let batches: Vec<_> = (0..5).flat_map(|step| order.batch(step, batch)).collect();
        prop_assert_eq!(batches, first(&order, 5 * u64::from(batch)));
    }

    #[test]
    fn any_step_is_reached_at_once(sizes in sizes(), seed: u64, step in 0u64..1 << 60, batch in 1u32..9) {
        let order = SampleOrder::new(sizes.clone(), seed);
        let resumed = SampleOrder::new(sizes, seed);
        prop_assert_eq!(order.batch(step, batch), resumed.batch(step, batch));
        prop_assert_eq!(order.batch(step, batch).len(), batch as usize);
    }

    #[test]
    fn ranks_take_all_of_a_batch_once(len in 0usize..300, ranks in 1usize..20) {
        let slices: Vec<_> = (0..ranks).map(|rank| slice(len, rank, ranks)).collect();
        let joined: Vec<usize> = slices.iter().cloned().flatten().collect();
        prop_assert_eq!(joined, (0..len).collect::<Vec<_>>());
        let (least, most) = (slices.iter().map(Range::len).min(), slices.iter().map(Range::len).max());
        prop_assert!(most.unwrap() - least.unwrap() <= 1);
    }

    #[test]
    fn a_window_opens_few_shards(sizes in sizes(), seed: u64) {
        let order = SampleOrder::new(sizes.clone(), seed);
        let samples = first(&order, order.rows_per_epoch());
        // Rows of shards of different windows never mix: at any time the shards begun but not finished are few.
        let mut left: BTreeMap<usize, u64> = BTreeMap::new();
        for sample in samples {
            let left_of_shard = left.entry(sample.shard).or_insert(sizes[sample.shard]);
            *left_of_shard -= 1;
            if *left_of_shard == 0 {
                left.remove(&sample.shard);
            }
            prop_assert!(left.len() <= WINDOW_SHARDS);
        }
    }
}

#[test]
fn thirty_two_on_three_ranks_are_eleven_eleven_ten() {
    assert_eq!([0, 1, 2].map(|rank| slice(32, rank, 3)), [0..11, 11..22, 22..32]);
}

#[test]
fn seeds_and_epochs_differ() {
    let order = |seed| SampleOrder::new(vec![50; 8], seed);
    let places = |samples: Vec<Sample>| samples.into_iter().map(|s| (s.shard, s.ordinal)).collect::<Vec<_>>();
    assert_eq!(order(1).batch(0, 400), order(1).batch(0, 400));
    assert_ne!(order(1).batch(0, 400), order(2).batch(0, 400));
    assert_ne!(places(order(1).batch(0, 400)), places(order(1).batch(1, 400)));
}

/// A checkpoint that a later version resumes must find the same order: these values must never change. They were
/// derived by a second implementation of the module's header, in Python.
#[test]
fn the_order_is_pinned() {
    let order = SampleOrder::new(vec![3, 0, 2, 4, 1, 2], 42);
    let samples = order.batch(1, 8).into_iter().map(|s| (s.shard, s.ordinal, s.epoch)).collect::<Vec<_>>();
    let pinned = [(3, 1, 0), (3, 3, 0), (3, 2, 0), (3, 0, 0), (3, 2, 1), (3, 0, 1), (0, 1, 1), (3, 3, 1)];
    assert_eq!(samples, pinned);
}

/// A shuffle of many rows is even: each tenth of the epoch holds about a tenth of every shard's window.
#[test]
fn rows_of_a_window_are_mixed() {
    let order = SampleOrder::new(vec![1000; WINDOW_SHARDS], 9);
    for tenth in order.batch(0, 4000).chunks(400) {
        for shard in 0..WINDOW_SHARDS {
            let count = tenth.iter().filter(|sample| sample.shard == shard).count();
            assert!((60..140).contains(&count), "{count} of 400 from shard {shard}");
        }
    }
}

#[test]
#[should_panic(expected = "an order of no rows")]
fn no_rows_have_no_batches() {
    SampleOrder::new(vec![0, 0], 1).batch(0, 1);
}

#[test]
fn weights_decide_how_often_rows_come_and_all_come_alike() {
    let shards = [(10, 0.25), (7, 2.0), (0, 3.0), (5, 1.0), (9, 0.25), (3, 1.5)];
    let order = SampleOrder::weighted(shards, 9);
    // 2.5, 14, 0, 5, 2.25, 4.5
    assert_eq!(order.rows_per_epoch(), 28);
    let epochs = 40;
    let mut seen: std::collections::BTreeMap<(usize, u64), Vec<u64>> = std::collections::BTreeMap::new();
    for sample in (0..epochs).flat_map(|step| order.batch(step, 28)) {
        seen.entry((sample.shard, sample.ordinal)).or_default().push(sample.epoch);
    }
    for ((shard, ordinal), mut times) in seen {
        let (rows, weight) = shards[shard];
        let expected = weight * epochs as f64;
        let off = (times.len() as f64 - expected).abs();
        assert!(off <= 1.0 + epochs as f64 / rows as f64, "row {ordinal} of shard {shard}: {times:?}");
        times.sort_unstable();
        assert!(times.iter().copied().eq(0..times.len() as u64), "each time is another: {times:?}");
    }
    assert_eq!(SampleOrder::weighted([(10, 1.0), (3, 1.0)], 4), SampleOrder::new(vec![10, 3], 4));
}
