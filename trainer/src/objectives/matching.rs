//! ITM: does this text describe this image? One positive and two hard negatives per row (BLIP-2 §3.2).

use tch::{Kind, Reduction, Tensor};

/// Examples per row: the pair, its text with a negative image, its image with a negative text.
pub const EXAMPLES_PER_ROW: i64 = 3;

/// 1 for the `rows` pairs, 0 for the two negatives of each: `[3 B]`, in the order of the logits.
pub fn labels(rows: i64, like: &Tensor) -> Tensor {
    let integers = (Kind::Int64, like.device());
    Tensor::cat(&[Tensor::ones([rows], integers), Tensor::zeros([(EXAMPLES_PER_ROW - 1) * rows], integers)], 0)
}

/// Cross-entropy of `logits [3 B, 2]`, summed over the examples.
pub fn loss_sum(logits: &Tensor) -> Tensor {
    let labels = labels(logits.size()[0] / EXAMPLES_PER_ROW, logits);
    logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Sum, -100, 0.0)
}
