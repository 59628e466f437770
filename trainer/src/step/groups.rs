//! Texts of like length together: padding costs as much as text, and a batch's longest text is far longer than most.

use quern_models::qformer::Outputs;
use tch::{Device, Kind, Tensor};

/// Lanes per group at least, so that the matrix products stay large.
const MIN_LANES: usize = 16;
/// Groups at most.
const MAX_GROUPS: usize = 4;
/// Positions that a text has at least: `[CLS]` and `[SEP]`.
const MIN_LENGTH: i64 = 2;

/// Lanes of padded texts, and how they are grouped.
pub struct Lanes {
    groups: Vec<Group>,
    /// Position of each lane in the groups laid end to end; none if that is the lanes' own order.
    order: Option<Tensor>,
}

/// Lanes that go through the model together, cut to the longest.
pub struct Group {
    /// Token ids, `[b, l]`.
    pub ids: Tensor,
    /// 1 for a token, 0 for padding, `[b, l]`.
    pub mask: Tensor,
    /// Which lanes.
    pub lanes: Vec<i64>,
    /// The same, `[b]`.
    pub index: Tensor,
}

impl Lanes {
    /// Lanes of `ids` and `mask [B, L]`, whose texts have these lengths. If all outputs are wanted, there is one group of
    /// all lanes at full length.
    pub fn new(ids: &Tensor, mask: &Tensor, lengths: &[i64], outputs: Outputs) -> Self {
        let device = ids.device();
        let all: Vec<i64> = (0..lengths.len() as i64).collect();
        if outputs == Outputs::All {
            let index = Tensor::from_slice(&all).to_device(device);
            let whole = Group { ids: ids.shallow_clone(), mask: mask.shallow_clone(), lanes: all, index };
            return Lanes { groups: vec![whole], order: None };
        }
        let mut sorted = all;
        sorted.sort_by_key(|&lane| (lengths[lane as usize], lane));
        let order = inverse(&sorted).to_device(device);
        let groups = pieces(&sorted)
            .map(|lanes| {
                let length = lanes.iter().map(|&lane| lengths[lane as usize]).max().unwrap_or(0).max(MIN_LENGTH);
                let index = Tensor::from_slice(lanes).to_device(device);
                let cut = |tensor: &Tensor| tensor.index_select(0, &index).narrow(1, 0, length);
                Group { ids: cut(ids), mask: cut(mask), lanes: lanes.to_vec(), index }
            })
            .collect();
        Lanes { groups, order: Some(order) }
    }

    /// The groups.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Whether there is one group of all lanes at full length.
    pub fn is_whole(&self) -> bool {
        self.order.is_none()
    }

    /// What `pass` makes of each group, joined in the lanes' order.
    pub fn run(&self, pass: impl FnMut(&Group) -> Tensor) -> Tensor {
        let parts: Vec<Tensor> = self.groups.iter().map(pass).collect();
        match &self.order {
            None => Tensor::cat(&parts, 0),
            Some(order) => Tensor::cat(&parts, 0).index_select(0, order),
        }
    }
}

/// Equal pieces, as many as are worth it.
fn pieces(lanes: &[i64]) -> impl Iterator<Item = &[i64]> {
    let count = (lanes.len() / MIN_LANES).clamp(1, MAX_GROUPS);
    lanes.chunks(lanes.len().div_ceil(count).max(1))
}

/// Where each of `0..n` is in `permutation`, `[n]`.
fn inverse(permutation: &[i64]) -> Tensor {
    let positions = Tensor::arange(permutation.len() as i64, (Kind::Int64, Device::Cpu));
    let index = Tensor::from_slice(permutation);
    positions.zeros_like().scatter(0, &index, &positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_lane_once_and_give_results_back_in_order() {
        let lengths: Vec<i64> = (0..50).map(|lane| 2 + (lane * 7) % 9).collect();
        let ids = Tensor::arange(50 * 12, (Kind::Int64, Device::Cpu)).view([50, 12]);
        let lanes = Lanes::new(&ids, &ids, &lengths, Outputs::Read);
        assert_eq!(lanes.groups().len(), 3);
        let first = lanes.run(|group| group.ids.select(1, 0));
        assert!(first.equal(&ids.select(1, 0)));
        let cut: i64 = lanes.groups().iter().map(|group| group.ids.numel() as i64).sum();
        assert!(cut < 50 * 9, "{cut} positions are computed: less than all at the longest text's length");
        for group in lanes.groups() {
            let longest = group.lanes.iter().map(|&lane| lengths[lane as usize]).max();
            assert_eq!(Some(group.ids.size()[1]), longest);
        }
    }
}
