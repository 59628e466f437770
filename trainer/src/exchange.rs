//! Moving rows between ranks: ragged gathers joined, and single rows fetched from whoever holds them.

use quern_collective::{Collective, CollectiveError};
use tch::{Device, Tensor};

use crate::objectives::Place;

/// All ranks' rows of `local`, in rank order.
pub fn gather_whole(collective: &dyn Collective, local: &Tensor) -> Result<Tensor, CollectiveError> {
    Ok(gather_whole_sized(collective, local)?.0)
}

/// All ranks' rows of `local`, in rank order, and how many each has.
pub fn gather_whole_sized(
    collective: &dyn Collective,
    local: &Tensor,
) -> Result<(Tensor, Vec<usize>), CollectiveError> {
    let parts = collective.all_gather(local)?;
    let sizes = parts.iter().map(|part| part.size()[0] as usize).collect();
    Ok((Tensor::cat(&parts, 0), sizes))
}

/// The rows `wanted` (indices into the global batch) of the ranks' `local` tensors `[B, ..]`, in that order.
///
/// Only what was asked for travels: ranks tell each other their wishes, then send those rows.
pub fn fetch_rows(
    collective: &dyn Collective,
    local: &Tensor,
    wanted: &[i64],
    place: &Place,
) -> Result<Tensor, CollectiveError> {
    let device = local.device();
    let wishes = collective.all_gather(&Tensor::from_slice(wanted).to_device(device))?;
    let parts = (wishes.iter())
        .map(|wish| {
            let wish = Vec::<i64>::try_from(wish.to_device(Device::Cpu)).expect("a vector of integers");
            let mine: Vec<i64> = (wish.iter())
                .map(|&row| place.owner(row as usize))
                .filter(|(owner, _)| *owner == collective.rank())
                .map(|(_, index)| index as i64)
                .collect();
            local.index_select(0, &Tensor::from_slice(&mine).to_device(device))
        })
        .collect::<Vec<_>>();
    let arrived = Tensor::cat(&collective.all_to_all(&parts)?, 0); // by owner, in the order of the wish
    let mut by_owner: Vec<usize> = (0..wanted.len()).collect();
    by_owner.sort_by_key(|&index| place.owner(wanted[index] as usize).0);
    let mut order = vec![0i64; wanted.len()];
    for (arrival, &index) in by_owner.iter().enumerate() {
        order[index] = arrival as i64;
    }
    Ok(arrived.index_select(0, &Tensor::from_slice(&order).to_device(device)))
}
