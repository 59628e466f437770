//! A row's result depends on the row, its place and the seed; not on what happens around it.

use bytes::Bytes;
use quern_capfilt::PartRow;
use quern_capfilt_engine::Engine;
use tch::Device;

use crate::fixture::{BATCH, LIMITS, candidates, config, digest, engine, jpeg, row, rows, run, written};

#[test]
fn the_same_rows_give_the_same_bytes() {
    let engine = engine(&config());
    let first = digest(&engine, run(&engine, rows()));
    assert_eq!(digest(&engine, run(&engine, rows())), first);
    let reloaded = crate::fixture::engine(&config());
    assert_eq!(digest(&reloaded, run(&reloaded, rows())), first);
}

#[test]
fn chunk_by_chunk_is_the_same_as_all_at_once() {
    let engine = engine(&config());
    let all = run(&engine, rows());
    let by_chunk: Vec<PartRow> = rows().chunks(BATCH).flat_map(|chunk| run(&engine, chunk.to_vec())).collect();
    assert_eq!(by_chunk, all);
}

#[test]
fn chunks_may_come_in_any_order_and_on_any_thread() {
    let engine = engine(&config());
    let all = run(&engine, rows());
    let mut by_chunk: Vec<PartRow> = std::thread::scope(|scope| {
        let late_first = rows().chunks(BATCH).rev().map(<[_]>::to_vec).collect::<Vec<_>>();
        let start = |chunk| {
            scope.spawn(|| {
                tch::set_num_threads(1);
                run(&engine, chunk)
            })
        };
        let threads: Vec<_> = late_first.into_iter().map(start).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    by_chunk.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(by_chunk, all);
}

#[test]
fn a_row_that_fails_changes_no_other_row() {
    let engine = engine(&config());
    let whole = run(&engine, rows());
    // In the middle, at the edge of a chunk, and a whole chunk.
    for broken in [&[1][..], &[3, 4], &[4, 5, 6, 7], &[0, 2, 9]] {
        let mut spoilt = rows();
        for &at in broken {
            spoilt[at].image = if at % 2 == 0 { None } else { Some(jpeg(at as u64).slice(..300)) };
        }
        let found = run(&engine, spoilt);
        for (at, (found, expected)) in found.iter().zip(&whole).enumerate() {
            assert_eq!(found == expected, !broken.contains(&at), "row {at} with {broken:?} broken");
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
        assert_eq!(found[at], whole[at], "row {at}");
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

#[test]
fn an_empty_lane_at_the_end_is_no_shorter_chunk() {
    let engine = engine(&config());
    let whole = run(&engine, rows()[..BATCH].to_vec());
    let mut last_missing = rows()[..BATCH].to_vec();
    last_missing[BATCH - 1].image = Some(Bytes::from_static(b"nothing"));
    assert_eq!(run(&engine, last_missing)[..BATCH - 1], whole[..BATCH - 1]);
}
