//! Who holds what, and until when: an index over the live attempts, so that a heartbeat, a request for work and a tick
//! cost as much as the worker holds, however many shards there are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, ShardId, WorkerId};

/// Live attempts by worker and by deadline.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Holdings {
    by_worker: BTreeMap<WorkerId, BTreeMap<Epoch, ShardId>>,
    by_deadline: BTreeMap<(u64, Epoch), ShardId>,
}

impl Holdings {
    /// How many attempts are live.
    pub fn len(&self) -> usize {
        self.by_deadline.len()
    }

    /// What `worker` holds, the oldest attempt first.
    pub fn of(&self, worker: WorkerId) -> impl Iterator<Item = (Epoch, &ShardId)> {
        self.by_worker.get(&worker).into_iter().flatten().map(|(epoch, shard)| (*epoch, shard))
    }

    /// Attempts whose term ends at `now_ms` or did before.
    pub fn overdue(&self, now_ms: u64) -> impl Iterator<Item = (Epoch, &ShardId)> {
        let until_now = ..=(now_ms, Epoch(u64::MAX));
        self.by_deadline.range(until_now).map(|((_, epoch), shard)| (*epoch, shard))
    }

    pub fn add(&mut self, shard: &ShardId, epoch: Epoch, worker: WorkerId, until_ms: u64) {
        self.by_worker.entry(worker).or_default().insert(epoch, shard.clone());
        self.by_deadline.insert((until_ms, epoch), shard.clone());
    }

    pub fn remove(&mut self, epoch: Epoch, worker: WorkerId, until_ms: u64) {
        self.by_deadline.remove(&(until_ms, epoch));
        if let Some(held) = self.by_worker.get_mut(&worker) {
            held.remove(&epoch);
            if held.is_empty() {
                self.by_worker.remove(&worker);
            }
        }
    }

    pub fn renew(&mut self, epoch: Epoch, from_ms: u64, until_ms: u64) {
        if let Some(shard) = self.by_deadline.remove(&(from_ms, epoch)) {
            self.by_deadline.insert((until_ms, epoch), shard);
        }
    }
}
