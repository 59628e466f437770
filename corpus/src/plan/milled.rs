//! What was planned of a data set before: its files keep their numbers, whatever has come to lie beside them since.

use std::collections::BTreeMap;

use crate::rows::{ShardId, ShardSpec};

/// The files of a data set that were planned before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Milled {
    /// Number and rows of each.
    files: BTreeMap<String, (usize, u64)>,
}

impl Milled {
    /// Those that the data set's shards among `shards` name.
    pub fn of<'a>(dataset: &str, shards: impl IntoIterator<Item = &'a ShardSpec>) -> Self {
        let mut files: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        for shard in shards.into_iter().filter(|shard| shard.dataset == dataset) {
            if let Some(number) = number_of(&shard.shard) {
                files.entry(shard.file.clone()).or_insert((number, 0)).1 += shard.rows;
            }
        }
        Milled { files }
    }

    /// Whether rows of this file are milled already: one that couldn't be read has none.
    pub(super) fn has_rows_of(&self, file: &str) -> bool {
        self.files.get(file).is_some_and(|(_, rows)| *rows > 0)
    }

    /// Whether anything was planned of this file.
    pub(super) fn knows(&self, file: &str) -> bool {
        self.files.contains_key(file)
    }

    /// Whether nothing was planned before.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The number of each of these files, which are sorted: its own, or for new ones those after the last, in order.
    pub(super) fn numbers<'a>(&self, files: impl Iterator<Item = &'a str>) -> Vec<usize> {
        let mut next = self.files.values().map(|(number, _)| number + 1).max().unwrap_or(0);
        let number = |file| match self.files.get(file) {
            Some((number, _)) => *number,
            None => {
                next += 1;
                next - 1
            }
        };
        files.map(number).collect()
    }
}

/// The file's number in a shard's name.
fn number_of(shard: &ShardId) -> Option<usize> {
    shard.0.rsplit('-').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_their_numbers_and_new_ones_come_after() {
        let shard = |name: &str, file: &str, rows| ShardSpec {
            shard: ShardId(name.into()),
            dataset: "a-1".into(),
            file: file.into(),
            row_start: 0,
            rows,
        };
        let shards = [
            shard("a-1-00000-000000000", "b", 5),
            shard("a-1-00000-000000005", "b", 5),
            shard("a-1-00007-000000000", "d", 0),
            ShardSpec { dataset: "other".into(), ..shard("other-00009-000000000", "c", 1) },
        ];
        let milled = Milled::of("a-1", &shards);
        assert_eq!(milled.numbers(["a", "b", "c", "d"].into_iter()), [8, 0, 9, 7]);
        assert!(milled.has_rows_of("b") && !milled.has_rows_of("d") && milled.knows("d") && !milled.knows("c"));
        assert_eq!(Milled::default().numbers(["a", "b"].into_iter()), [0, 1]);
    }
}
