//! ITG: the caption, token by token, from the queries (BLIP-2 §3.2).

use tch::{Kind, Reduction, Tensor};

/// Share of probability that every wrong token gets together (LAVIS `label_smoothing=0.1`).
const LABEL_SMOOTHING: f64 = 0.1;
/// Label of positions that don't count.
pub const IGNORED: i64 = -100;

/// The text transformer's input: `ids [B, L]` with `[CLS]` replaced by `[DEC]`.
pub fn decoder_input(ids: &Tensor, decoder_start: i64) -> Tensor {
    let input = ids.copy();
    let _ = input.select(1, 0).fill_(decoder_start);
    input
}

/// The next token at each position but the last, -100 where that is padding: `[B, L - 1]`.
pub fn labels(ids: &Tensor, mask: &Tensor) -> Tensor {
    let following = ids.size()[1] - 1;
    let padding = mask.narrow(1, 1, following).eq(0);
    ids.narrow(1, 1, following).masked_fill(&padding, IGNORED)
}

/// Tokens that are predicted in texts of `mask [.., L]`.
pub fn target_count(mask: &Tensor) -> i64 {
    mask.narrow(-1, 1, mask.size()[mask.dim() - 1] - 1).sum(Kind::Int64).int64_value(&[])
}

/// Cross-entropy with smoothed labels of `logits [.., vocabulary]`, summed over the tokens that count.
pub fn loss_sum(logits: &Tensor, labels: &Tensor) -> Tensor {
    let vocabulary = logits.size()[logits.dim() - 1];
    let logits = logits.reshape([-1, vocabulary]);
    logits.cross_entropy_loss::<Tensor>(&labels.reshape([-1]), None, Reduction::Sum, IGNORED, LABEL_SMOOTHING)
}
