//! The three self-attention masks (BLIP-2 figure 2; LAVIS `BertModel.get_extended_attention_mask`).
//!
//! True = visible; all broadcast to `[B, heads, attending, attended]`. `mask [B, L]` holds 1 for a token, 0 for padding.
//! Queries alone (ITC's image side) need no mask: they see each other, all of them.

use tch::{Kind, Tensor};

use crate::layers::padding_mask;

/// Unimodal text (ITC): every position sees the tokens that are not padding. `[B, 1, 1, L]`.
pub fn text(mask: &Tensor) -> Tensor {
    padding_mask(mask)
}

/// Multimodal causal (ITG): queries see queries only, a text position sees all queries and the tokens up to itself
/// that are not padding. `[B, 1, Q + L, Q + L]`; the text's rows alone are what a pass over cached queries needs.
pub fn multimodal_causal(mask: &Tensor, queries: i64) -> Tensor {
    let (batch, length) = mask.size2().expect("[B, L]");
    let bools = (Kind::Bool, mask.device());
    let causal = Tensor::ones([length, length], bools).tril(0).logical_and(&padding_mask(mask)); // [B, 1, L, L]
    let text_rows = Tensor::cat(&[Tensor::ones([batch, 1, length, queries], bools), causal], 3);
    let query_rows = Tensor::cat(
        &[Tensor::ones([batch, 1, queries, queries], bools), Tensor::zeros([batch, 1, queries, length], bools)],
        3,
    );
    Tensor::cat(&[query_rows, text_rows], 2)
}

/// Bidirectional (ITM): everyone sees all queries and the tokens that are not padding. `[B, 1, 1, Q + L]`.
pub fn bidirectional(mask: &Tensor, queries: i64) -> Tensor {
    let batch = mask.size()[0];
    let seen = Tensor::ones([batch, 1, 1, queries], (Kind::Bool, mask.device()));
    Tensor::cat(&[seen, padding_mask(mask)], 3)
}
