//! Hard negatives for the local rows, drawn by key or given.

use quern_corpus::{Keyed, Purpose};
use tch::Tensor;

use crate::objectives::contrastive::Similarities;
use crate::objectives::negatives;

use super::texts::GlobalTexts;
use super::{Batch, Negatives, StepOptions};

/// The hard negatives of the local rows: indices into the global batch.
pub struct Mining {
    /// Probabilities of the images, `[B, G]`.
    pub image_weights: Tensor,
    /// Probabilities of the texts, `[B, G]`.
    pub text_weights: Tensor,
    /// For every local text, an image.
    pub images: Vec<i64>,
    /// For every local image, a text.
    pub texts: Vec<i64>,
}

impl Mining {
    pub fn of(similarities: &Similarities, texts: &GlobalTexts, batch: &Batch, options: &StepOptions) -> Self {
        let range = texts.place.rows();
        let own = texts.rows.narrow(0, range.start as i64, range.len() as i64);
        let positives = negatives::positives(&own, &texts.rows);
        let image_weights = negatives::sampling_weights(&similarities.text_to_image, &positives);
        let text_weights = negatives::sampling_weights(&similarities.image_to_text, &positives);
        let keyed = |weights: &Tensor, purpose: Purpose| {
            let uniform = |&row| Keyed::new(options.seed, row, purpose, options.step).uniform(0);
            negatives::draw(weights, &batch.rows.iter().map(uniform).collect::<Vec<_>>())
        };
        let (images, texts) = match &options.negatives {
            Negatives::Keyed => {
                (keyed(&image_weights, Purpose::NegativeImage), keyed(&text_weights, Purpose::NegativeText))
            }
            Negatives::Given { images, texts } => (images.clone(), texts.clone()),
        };
        Mining { image_weights, text_weights, images, texts }
    }
}
