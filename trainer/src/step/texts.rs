//! The texts of the global batch: every rank needs all of them, for hard negatives and global counts.

use quern_collective::{Collective, CollectiveError};
use tch::{Device, Tensor};

use crate::exchange::gather_whole_sized;
use crate::objectives::{Place, language};

use super::Batch;

/// The texts of the global batch and who holds what.
pub struct GlobalTexts {
    /// Token ids, `[G, L]`.
    pub ids: Tensor,
    /// 1 for a token, 0 for padding, `[G, L]`.
    pub mask: Tensor,
    /// The rows' keys as 64-bit integers, `[G]`.
    pub rows: Tensor,
    /// The same.
    pub row_keys: Vec<u64>,
    /// Each text's length without padding.
    pub lengths: Vec<i64>,
    /// Which rows are this rank's.
    pub place: Place,
    /// Tokens that ITG predicts in the global batch.
    pub tokens: i64,
}

impl GlobalTexts {
    /// One gather of ids, mask and row keys, side by side.
    pub fn gather(batch: &Batch, collective: &dyn Collective) -> Result<Self, CollectiveError> {
        let length = batch.ids.size()[1];
        let keys: Vec<i64> = batch.rows.iter().map(|&key| key as i64).collect();
        let keys = Tensor::from_slice(&keys).to_device(batch.ids.device());
        let own = Tensor::cat(&[&batch.ids, &batch.mask, &keys.unsqueeze(1)], 1); // [B, 2 L + 1]
        let (table, sizes) = gather_whole_sized(collective, &own)?;
        let here = Vec::<i64>::try_from(table.to_device(Device::Cpu).reshape([-1])).expect("a vector of integers");
        let lines = here.chunks(2 * length as usize + 1);
        let mask = table.narrow(1, length, length);
        Ok(GlobalTexts {
            tokens: language::target_count(&mask),
            ids: table.narrow(1, 0, length),
            mask,
            rows: table.select(1, 2 * length),
            row_keys: lines.clone().map(|line| line[line.len() - 1] as u64).collect(),
            lengths: lines.map(|line| text_length(&line[length as usize..2 * length as usize])).collect(),
            place: Place::new(collective.rank(), sizes),
        })
    }
}

/// Positions up to the last token.
fn text_length(mask: &[i64]) -> i64 {
    mask.iter().rposition(|&token| token != 0).map_or(0, |last| last as i64 + 1)
}
