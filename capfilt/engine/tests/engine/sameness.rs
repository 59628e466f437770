//! A row's result depends on the row, its place and the seed; not on what happens around it.

use std::sync::atomic::{AtomicBool, Ordering};

use quern_capfilt::{Candidate, PartRow, RowOutcome};
use quern_capfilt_engine::Engine;
use tch::Device;

use crate::fixture::{LIMITS, candidates, config, digest, engine, jpeg, row, rows, run, written};

#[test]
fn the_same_rows_give_the_same_bytes() {
    let engine = engine(&config());
    let first = digest(&engine, run(&engine, rows()));
    assert_eq!(digest(&engine, run(&engine, rows())), first);
    let reloaded = crate::fixture::engine(&config());
    assert_eq!(digest(&reloaded, run(&reloaded, rows())), first);
}

/// Whether two rows have the same captions, and but for rounding the same scores.
fn alike(a: &PartRow, b: &PartRow) -> bool {
    let (RowOutcome::Kept { candidates, kept }, RowOutcome::Kept { candidates: others, kept: other_kept }) =
        (&a.outcome, &b.outcome)
    else {
        return a == b;
    };
    let same = |(a, b): (&Candidate, &Candidate)| {
        (&a.text, a.source, a.index) == (&b.text, b.source, b.index) && (a.score - b.score).abs() < 1e-5
    };
    (&a.id, &a.key, kept) == (&b.id, &b.key, other_kept)
        && candidates.len() == others.len()
        && candidates.iter().zip(others).all(same)
}

#[test]
fn a_row_has_the_same_captions_in_a_shorter_shard() {
    let engine = engine(&config());
    let all = run(&engine, rows());
    for (from, to) in [(0, 1), (0, 4), (3, 6), (4, 10)] {
        let found = run(&engine, rows()[from..to].to_vec());
        let is_alike = found.iter().zip(&all[from..]).all(|(found, expected)| alike(found, expected));
        assert!(found.len() == to - from && is_alike, "rows {from} to {to}");
    }
}

#[test]
fn shards_may_come_in_any_order_and_on_any_thread() {
    let engine = engine(&config());
    let shards: Vec<Vec<_>> = rows().chunks(6).map(<[_]>::to_vec).collect();
    let expected: Vec<Vec<PartRow>> = shards.iter().map(|rows| run(&engine, rows.clone())).collect();
    let mut found: Vec<Vec<PartRow>> = std::thread::scope(|scope| {
        let start = |rows: &Vec<_>| {
            let (rows, engine) = (rows.clone(), &engine);
            scope.spawn(move || {
                tch::set_num_threads(1);
                run(engine, rows)
            })
        };
        let threads: Vec<_> = shards.iter().rev().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    found.reverse();
    assert_eq!(found, expected);
}

#[test]
fn rows_that_come_slowly_are_the_same_as_rows_that_are_there() {
    let engine = engine(&config());
    let expected = run(&engine, rows());
    let slowly = rows().into_iter().inspect(|row| {
        // Different at every row, and longer than the device takes for a step of these models.
        std::thread::sleep(std::time::Duration::from_millis(row.id.row % 3 * 20));
    });
    let mut found = Vec::new();
    engine.run_shard(slowly, 10, &|_| Ok(()), &AtomicBool::new(false), |row| found.push(row)).unwrap();
    assert_eq!(found, expected);
}

#[test]
fn a_shard_that_is_stopped_returns_early() {
    let engine = engine(&config());
    let stop = AtomicBool::new(false);
    let mut found = 0;
    let each = |_| {
        found += 1;
        stop.store(true, Ordering::SeqCst);
    };
    engine.run_shard(rows().into_iter().cycle().take(400), 400, &|_| Ok(()), &stop, each).unwrap();
    assert!((1..100).contains(&found), "{found} rows were shown");
}

#[test]
fn a_row_that_fails_changes_no_other_row() {
    let engine = engine(&config());
    let whole = run(&engine, rows());
    // In the middle, at the edge of a group, and a whole group.
    for broken in [&[1][..], &[3, 4], &[4, 5, 6, 7], &[0, 2, 9], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]] {
        let mut spoilt = rows();
        for &at in broken {
            spoilt[at].image = if at % 2 == 0 { None } else { Some(jpeg(at as u64).slice(..300)) };
        }
        let found = run(&engine, spoilt);
        for (at, (found, expected)) in found.iter().zip(&whole).enumerate() {
            assert_eq!(alike(found, expected), !broken.contains(&at), "row {at} with {broken:?} broken");
        }
    }
}

#[test]
fn what_another_row_holds_changes_nothing() {
    let engine = engine(&config());
    let whole = run(&engine, rows());
    let mut other = rows();
    other[1].image = Some(jpeg(99));
    other[2].caption = Some("a very long caption ".repeat(40));
    other[6].caption = None;
    let found = run(&engine, other);
    for at in [0, 3, 4, 5, 7, 8, 9] {
        assert!(alike(&found[at], &whole[at]), "row {at}");
    }
    // A row's own web caption changes neither what is written nor, but for rounding, its scores.
    assert_eq!(written(&found[2]), written(&whole[2]));
    for (a, b) in candidates(&found[2]).iter().zip(candidates(&whole[2])).take(written(&whole[2]).len()) {
        assert!((a.score - b.score).abs() < 1e-5, "{a:?} {b:?}");
    }
}

#[test]
fn draws_are_keyed_by_row_candidate_and_seed() {
    let config = config();
    let engine = engine(&config);
    // The same image in every row.
    let same: Vec<_> = (0..8).map(|at| row(at, Some(jpeg(3)), None)).collect();
    let found = run(&engine, same.clone());
    assert!(found.iter().any(|row| written(row) != written(&found[0])), "every row drew the same captions");
    assert!(found.iter().any(|row| written(row).len() > 1), "every caption of a row is the same");
    let other_seed = Engine::load(&config, &LIMITS, 8, Device::Cpu).unwrap();
    let other = run(&other_seed, same);
    assert!(found.iter().zip(&other).any(|(a, b)| written(a) != written(b)), "the seed has no effect");
}
