//! The shards as a map: where each stands, one letter each, in the plan's order.
//!
//! A large plan is drawn with several shards per cell. The map is made on demand, and kept for a while: making it takes
//! the ledger time in proportion to the plan, however many look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quern_machine::{Machine, Standing};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::errors::CallError;
use crate::runs::Run;

/// Cells of a map, but for one more per data set.
const CELLS: usize = 2_000;
/// How old a map may be that is shown.
const FRESH: Duration = Duration::from_millis(500);

/// The map of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ShardMap {
    /// Shards in a cell; the last one of a data set may have fewer.
    per_cell: usize,
    datasets: Vec<DatasetMap>,
}

/// The part of the map that is one data set's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct DatasetMap {
    name: String,
    shards: usize,
    /// `p`ending, `l`eased, `d`one or `q`uarantined, one letter per cell. Of a cell with several shards it is the one
    /// that an operator would want to see: quarantine before work, work before what waits, what waits before what is done.
    cells: String,
    /// Per cell, of its shards those that are settled; not there when each cell is one shard.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    settled: Vec<u32>,
}

impl ShardMap {
    fn of(machine: &Machine) -> Self {
        let mut by_dataset: Vec<(&str, Vec<Standing>)> = Vec::new();
        let mut total: usize = 0;
        for (plan, standing) in machine.standings() {
            total += 1;
            match by_dataset.iter_mut().find(|(name, _)| *name == plan.dataset) {
                Some((_, standings)) => standings.push(standing),
                None => by_dataset.push((&plan.dataset, vec![standing])),
            }
        }
        let per_cell = total.div_ceil(CELLS).max(1);
        let map = |(name, standings): (&str, Vec<Standing>)| DatasetMap::of(name, &standings, per_cell);
        ShardMap { per_cell, datasets: by_dataset.into_iter().map(map).collect() }
    }
}

impl DatasetMap {
    fn of(name: &str, standings: &[Standing], per_cell: usize) -> Self {
        let cells = standings.chunks(per_cell);
        let settled = |cell: &[Standing]| {
            cell.iter().filter(|standing| matches!(standing, Standing::Done | Standing::Quarantined)).count() as u32
        };
        DatasetMap {
            name: name.into(),
            shards: standings.len(),
            cells: cells.clone().map(letter).collect(),
            settled: if per_cell > 1 { cells.map(settled).collect() } else { Vec::new() },
        }
    }
}

fn letter(cell: &[Standing]) -> char {
    let has = |standing| cell.contains(&standing);
    match () {
        () if has(Standing::Quarantined) => 'q',
        () if has(Standing::Leased) => 'l',
        () if has(Standing::Pending) => 'p',
        () => 'd',
    }
}

/// Maps that were made lately, by run.
#[derive(Default)]
pub(super) struct ShardMaps(Mutex<BTreeMap<String, Made>>);

/// A map: when it was made, and of which version of the status.
type Made = (Instant, u64, Arc<ShardMap>);

impl ShardMaps {
    /// The map of a run, made anew if the run has changed and the last one is old.
    ///
    /// # Errors
    /// When the run can't be looked at now.
    pub async fn get(&self, run: &Run) -> Result<Arc<ShardMap>, CallError> {
        // Held while one is made: whoever else asks gets the same.
        let mut made = self.0.lock().await;
        let version = run.status().version;
        if let Some((at, of, map)) = made.get(&run.id)
            && (*of == version || at.elapsed() < FRESH)
        {
            return Ok(Arc::clone(map));
        }
        let map = Arc::new(run.look(ShardMap::of).await?);
        made.insert(run.id.clone(), (Instant::now(), version, Arc::clone(&map)));
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_shows_what_asks_for_attention() {
        use Standing::{Done, Leased, Pending, Quarantined};
        let standings = [Done, Pending, Leased, Quarantined, Done];
        let map = DatasetMap::of("web", &standings, 1);
        assert_eq!((map.cells.as_str(), map.shards, map.settled.len()), ("dplqd", 5, 0));
        let map = DatasetMap::of("web", &standings, 2);
        assert_eq!((map.cells.as_str(), map.settled), ("pqd", vec![1, 1, 1]));
    }
}
