//! Which accepted parts took longest.

use serde::{Deserialize, Serialize};

use crate::ids::ShardId;

/// How many are remembered.
const REMEMBERED: usize = 10;

/// What a shard took whose part was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardTime {
    /// The shard.
    pub shard: ShardId,
    /// Its rows.
    pub rows: u64,
    /// How long the accepted attempt took, from its lease to its commit; from the coordinator's start, where that came
    /// in between.
    pub took_ms: u64,
    /// How many attempts were made, but for those that were handed back.
    pub attempts: u32,
    /// Who made the accepted one: the worker's name.
    pub worker: String,
}

/// The slowest, in order; of equally slow ones the first in shard order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Slowest(Vec<ShardTime>);

impl Slowest {
    pub fn offer(&mut self, offered: ShardTime) {
        // A shard whose rows were retried took the longer of its times.
        if let Some(known) = self.0.iter().position(|known| known.shard == offered.shard) {
            if self.0[known].took_ms >= offered.took_ms {
                return;
            }
            self.0.remove(known);
        }
        let is_before = |known: &ShardTime| (offered.took_ms, &known.shard) < (known.took_ms, &offered.shard);
        let at = self.0.partition_point(is_before);
        if at < REMEMBERED {
            self.0.insert(at, offered);
            self.0.truncate(REMEMBERED);
        }
    }

    pub fn all(&self) -> &[ShardTime] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_are_remembered_in_order_whatever_the_order_they_came_in() {
        let time = |shard: &str, took_ms| ShardTime {
            shard: ShardId(shard.into()),
            rows: 1,
            took_ms,
            attempts: 1,
            worker: "w".into(),
        };
        let mut offers: Vec<_> = (0..20).map(|at| time(&format!("s{at:02}"), at / 2)).collect();
        let shards = |offers: &[ShardTime]| {
            let mut slowest = Slowest::default();
            offers.iter().cloned().for_each(|offer| slowest.offer(offer));
            slowest.all().iter().map(|time| time.shard.0.clone()).collect::<Vec<_>>()
        };
        let expected = ["s18", "s19", "s16", "s17", "s14", "s15", "s12", "s13", "s10", "s11"];
        assert_eq!(shards(&offers), expected);
        offers.reverse();
        assert_eq!(shards(&offers), expected);
    }
}
