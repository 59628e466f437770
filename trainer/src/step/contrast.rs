//! ITC across the ranks, with the graph cut at the contrastive features.

use quern_collective::{Collective, CollectiveError};
use quern_models::qformer::QFormer;
use tch::Tensor;

use crate::exchange::gather_whole;
use crate::objectives::Place;
use crate::objectives::contrastive::{self, Features, Similarities};

use super::Semantics;

/// ITC's outcome: the cut through the graph.
pub struct Contrast {
    /// Of the local rows to the global batch, detached.
    pub similarities: Similarities,
    /// This rank's share of the global loss, detached.
    pub loss: Tensor,
    /// Derivative of the global loss by the local image features.
    pub image_gradient: Tensor,
    /// Derivative of the global loss by the local text features.
    pub text_gradient: Tensor,
}

impl Contrast {
    pub fn of(
        model: &QFormer,
        local: &Features,
        place: &Place,
        collective: &dyn Collective,
        semantics: Semantics,
    ) -> Result<Contrast, CollectiveError> {
        let own = local.as_leaves();
        let gathered = gather_features(&own, collective)?;
        let similarities = contrastive::similarities(&own, &gathered, model.temperature());
        let loss = contrastive::loss_sum(&similarities, place) / place.global() as f64;
        loss.backward();
        let (mut image_gradient, mut text_gradient) = (own.image.grad(), own.text.grad());
        if !semantics.gathered_side_detached {
            let sums = collective.all_reduce_sum(&[gathered.image.grad(), gathered.text.grad()])?;
            let rows = place.rows();
            let slice = |sum: &Tensor| sum.narrow(0, rows.start as i64, rows.len() as i64);
            image_gradient += slice(&sums[0]);
            text_gradient += slice(&sums[1]);
        }
        let similarities = Similarities {
            image_to_text: similarities.image_to_text.detach(),
            text_to_image: similarities.text_to_image.detach(),
        };
        Ok(Contrast { similarities, loss: loss.detach(), image_gradient, text_gradient })
    }
}

/// All ranks' features as leaves: one gather of both kinds side by side.
fn gather_features(local: &Features, collective: &dyn Collective) -> Result<Features, CollectiveError> {
    let (rows, queries, width) = local.image.size3().expect("[B, Q, E]");
    let table = Tensor::cat(&[local.image.detach().view([rows, -1]), local.text.detach()], 1); // [B, (Q + 1) E]
    let all = gather_whole(collective, &table)?;
    let image = all.narrow(1, 0, queries * width).reshape([-1, queries, width]);
    let text = all.narrow(1, queries * width, width).contiguous();
    Ok(Features { image, text }.as_leaves())
}
