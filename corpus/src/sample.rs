//! Rows that stand for a data set: short runs of them, spread evenly over its shards, drawn by key.
//!
//! The rows of all shards, one after the other, are cut into equal stretches, and a run is drawn in each. So a sample is
//! the same on every machine, every stretch of files has its share, and a run costs one look into a file.

use crate::keyed::{Keyed, Purpose};
use crate::rows::{RowId, ShardSpec};

/// Rows of a run.
const RUN_ROWS: u64 = 8;

/// Rows of a file that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRange {
    /// File path relative to the data set's root.
    pub file: String,
    /// First row.
    pub row_start: u64,
    /// Number of rows.
    pub rows: u64,
}

/// At most `rows` rows of one data set's `shards`, in their order, no row twice; all of them where there are no more.
pub fn draw(shards: &[ShardSpec], rows: u64, seed: u64) -> Vec<RowRange> {
    let total: u64 = shards.iter().map(|shard| shard.rows).sum();
    let rows = rows.min(total);
    let runs = rows.div_ceil(RUN_ROWS);
    let share = |of: u64, run: u64| (u128::from(of) * u128::from(run) / u128::from(runs)) as u64;
    let mut ranges = Vec::new();
    let mut cutter = Cutter { shards, before: 0 };
    for run in 0..runs {
        let (first, end) = (share(total, run), share(total, run + 1));
        let length = (share(rows, run + 1) - share(rows, run)).min(end - first);
        let stretch = RowId { dataset: shards[0].dataset.as_str().into(), file: "".into(), row: run };
        let draw = Keyed::new(seed, stretch.key(), Purpose::Sample, 0);
        cutter.cut(first + draw.below(0, end - first - length + 1), length, &mut ranges);
    }
    ranges
}

/// Finds rows of all shards in their files, going forward only.
struct Cutter<'a> {
    /// Those that are not passed.
    shards: &'a [ShardSpec],
    /// Rows of those that are.
    before: u64,
}

impl Cutter<'_> {
    /// The `rows` rows from the `first`-th on, cut where a shard ends.
    fn cut(&mut self, mut first: u64, mut rows: u64, ranges: &mut Vec<RowRange>) {
        while let Some((shard, rest)) = self.shards.split_first().filter(|_| rows > 0) {
            let inside = first - self.before;
            if inside >= shard.rows {
                (self.shards, self.before) = (rest, self.before + shard.rows);
                continue;
            }
            let taken = rows.min(shard.rows - inside);
            ranges.push(RowRange { file: shard.file.clone(), row_start: shard.row_start + inside, rows: taken });
            (first, rows) = (first + taken, rows - taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::ShardId;

    fn shards(rows: &[u64]) -> Vec<ShardSpec> {
        let shard = |(index, &rows): (usize, &u64)| ShardSpec {
            shard: ShardId(format!("d-{index}")),
            dataset: "d".into(),
            file: format!("{index}.parquet"),
            row_start: 100,
            rows,
        };
        rows.iter().enumerate().map(shard).collect()
    }

    fn count(ranges: &[RowRange]) -> u64 {
        ranges.iter().map(|range| range.rows).sum()
    }

    #[test]
    fn a_small_data_set_is_taken_whole() {
        let ranges = draw(&shards(&[3, 20, 1]), 200, 1);
        let taken = |file: &str| ranges.iter().filter(|range| range.file == file).map(|range| range.rows).sum::<u64>();
        assert_eq!([taken("0.parquet"), taken("1.parquet"), taken("2.parquet")], [3, 20, 1]);
        assert!(draw(&shards(&[]), 200, 1).is_empty());
        assert!(draw(&shards(&[5]), 0, 1).is_empty());
    }

    #[test]
    fn runs_are_spread_lie_in_their_shards_and_never_overlap() {
        for rows in [1, 7, 8, 9, 100, 200, 201] {
            let all = shards(&[1000; 40]);
            let ranges = draw(&all, rows, 7);
            assert_eq!(count(&ranges), rows, "{rows}");
            let place = |range: &RowRange| {
                let index = all.iter().position(|shard| shard.file == range.file).expect("a shard's file");
                assert!(range.row_start >= 100 && range.row_start + range.rows <= 1100, "{range:?}");
                index as u64 * 1000 + range.row_start - 100
            };
            let places: Vec<(u64, u64)> = ranges.iter().map(|range| (place(range), range.rows)).collect();
            assert!(places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{places:?}");
        }
        let files: std::collections::BTreeSet<_> =
            draw(&shards(&[1000; 40]), 200, 7).into_iter().map(|range| range.file).collect();
        assert!(files.len() >= 20, "{files:?}");
    }

    #[test]
    fn the_seed_decides_and_nothing_else() {
        let all = shards(&[5000, 5000]);
        assert_eq!(draw(&all, 50, 1), draw(&all, 50, 1));
        assert_ne!(draw(&all, 50, 1), draw(&all, 50, 2));
    }
}
