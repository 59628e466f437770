//! How long shards take, and which of those in work take too long.
//!
//! Only durations seen since this start of the coordinator count: they are in no journal.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// How many of the last finished attempts are remembered.
const REMEMBERED: usize = 63;
/// Before so many have finished, nothing can be said.
const ENOUGH: usize = 3;
/// An attempt takes too long when it is so many times as old as a usual one gets.
const SLOWNESS: u64 = 2;

/// What the last finished attempts took, in microseconds per row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Pace {
    recent: VecDeque<u64>,
}

impl Pace {
    /// An attempt at a shard of so many rows has made its part.
    pub fn add(&mut self, took_ms: u64, rows: u64) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(took_ms.saturating_mul(1_000) / rows.max(1));
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        self.recent.clear();
    }

    /// What an attempt at a shard of so many rows usually takes (the median); `None`: too few have finished.
    pub fn usual_ms(&self, rows: u64) -> Option<u64> {
        if self.recent.len() < ENOUGH {
            return None;
        }
        let mut sorted: Vec<_> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        Some(sorted[sorted.len() / 2].saturating_mul(rows) / 1_000)
    }
}

/// How long an attempt of this age will still take if it goes on as it has: `u64::MAX` when it got nowhere yet.
pub(crate) fn remaining_ms(age_ms: u64, rows_done: u64, rows: u64) -> u64 {
    match rows_done {
        0 => u64::MAX,
        done => age_ms.saturating_mul(rows.saturating_sub(done)) / done,
    }
}

/// Whether an attempt takes so long that another one, begun now, is likely to be done before it: it is older than a whole
/// term and than twice what is usual, and the rest of it takes longer than a whole attempt usually does.
pub(crate) fn is_straggling(age_ms: u64, remaining_ms: u64, usual_ms: u64, lease_ms: u64) -> bool {
    age_ms >= lease_ms.max(usual_ms.saturating_mul(SLOWNESS)) && remaining_ms > usual_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_time_is_the_median_by_rows() {
        let mut pace = Pace::default();
        pace.add(100, 10);
        pace.add(5_000, 10);
        assert_eq!(pace.usual_ms(10), None, "two say nothing");
        pace.add(120, 10);
        assert_eq!((pace.usual_ms(10), pace.usual_ms(5)), (Some(120), Some(60)));
        for _ in 0..REMEMBERED {
            pace.add(300, 10);
        }
        assert_eq!(pace.usual_ms(10), Some(300), "the old ones are forgotten");
    }

    #[test]
    fn an_attempt_straggles_when_another_one_would_overtake_it() {
        // A term of 100 ms, shards usually take 200 ms.
        let straggles = |age_ms, done| is_straggling(age_ms, remaining_ms(age_ms, done, 10), 200, 100);
        assert!(!straggles(399, 0), "it may just have begun");
        assert!(straggles(400, 0), "it got nowhere");
        assert!(straggles(400, 6), "400 ms for 6 of 10 rows: 266 more");
        assert!(!straggles(400, 7), "171 more: it comes in before another one");
        assert!(!is_straggling(90, u64::MAX, 1, 100), "no attempt is judged before its first term is over");
    }
}
