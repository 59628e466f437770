//! Cross-entropy of the counted targets alone, from states that already stand in the targets' places.

use tch::{Kind, Reduction, Tensor};

use super::{IGNORED, cut};

/// States that pass the head at a time: bounds the memory that logits over a large vocabulary take.
const ROWS: i64 = 1024;

/// The loss before the layers.
pub(crate) struct Counted {
    /// fp32, `[]`.
    pub sum: Tensor,
    /// How many.
    pub targets: i64,
    /// `[B, T, W]`: the derivative of `sum` by the states.
    pub by_states: Tensor,
}

/// The loss of `states [B, T, W]`, each of which predicts its own of `labels [B, T]`; `head` makes logits `[n, vocabulary]`
/// of states `[n, W]`, and is computed for counted states only.
pub(crate) fn counted_loss(states: &Tensor, labels: &Tensor, head: &dyn Fn(&Tensor) -> Tensor) -> Counted {
    let labels = labels.flatten(0, 1);
    let places = labels.ne(IGNORED).nonzero().squeeze_dim(1); // [n]
    let labels = labels.index_select(0, &places);
    let flat = states.detach().flatten(0, 1);
    let targets = places.size()[0];
    let mut sum = Tensor::zeros([], (Kind::Float, states.device()));
    let mut by_flat = flat.zeros_like();
    for first in (0..targets).step_by(ROWS as usize) {
        let rows = ROWS.min(targets - first);
        let places = places.narrow(0, first, rows);
        let leaf = cut(&flat.index_select(0, &places));
        let loss = tch::with_grad(|| {
            let logits = head(&leaf).to_kind(Kind::Float);
            logits.cross_entropy_loss::<Tensor>(&labels.narrow(0, first, rows), None, Reduction::Sum, IGNORED, 0.0)
        });
        let by_leaf = Tensor::run_backward(&[&loss], &[&leaf], false, false).swap_remove(0);
        let _ = by_flat.index_copy_(0, &places, &by_leaf);
        sum += loss.detach();
    }
    Counted { sum, targets, by_states: by_flat.view_as(states) }
}
