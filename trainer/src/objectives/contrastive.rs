//! ITC: image-text contrast over the global batch, by the best of the queries (BLIP-2 §3.2).

use tch::{Device, Kind, Reduction, Tensor};

use super::Place;

/// Share of probability that every wrong pair gets together (LAVIS `label_smoothing=0.1`).
const LABEL_SMOOTHING: f64 = 0.1;

/// Contrastive features of a set of pairs, of length one.
pub struct Features {
    /// Query outputs, `[rows, Q, E]`.
    pub image: Tensor,
    /// `[CLS]` outputs, `[rows, E]`.
    pub text: Tensor,
}

impl Features {
    /// The same values as new leaves that collect a gradient.
    pub fn as_leaves(&self) -> Features {
        let leaf = |tensor: &Tensor| tensor.detach().set_requires_grad(true);
        Features { image: leaf(&self.image), text: leaf(&self.text) }
    }
}

/// Similarities of the local rows to the global batch, divided by the temperature.
pub struct Similarities {
    /// Local images to all texts, `[B, G]`.
    pub image_to_text: Tensor,
    /// Local texts to all images, `[B, G]`.
    pub text_to_image: Tensor,
}

/// Maximum over the queries of the cosine, divided by `temperature []`.
pub fn similarities(local: &Features, gathered: &Features, temperature: &Tensor) -> Similarities {
    Similarities {
        image_to_text: pairwise(&local.image, &gathered.text) / temperature,
        text_to_image: pairwise(&gathered.image, &local.text).transpose(0, 1) / temperature,
    }
}

/// Cosine of every image with every text, by the best query: `[I, Q, E]`, `[T, E]` -> `[I, T]`.
pub fn pairwise(images: &Tensor, texts: &Tensor) -> Tensor {
    images.matmul(&texts.transpose(0, 1)).amax(&[1i64][..], false)
}

/// Cross-entropy of both directions with smoothed labels, halved; summed over the local rows.
pub fn loss_sum(similarities: &Similarities, place: &Place) -> Tensor {
    let targets = targets(place, similarities.image_to_text.device());
    let side =
        |scores: &Tensor| scores.cross_entropy_loss::<Tensor>(&targets, None, Reduction::Sum, -100, LABEL_SMOOTHING);
    (side(&similarities.image_to_text) + side(&similarities.text_to_image)) / 2.0
}

/// The columns of the right pairs: the local rows' places in the global batch, `[B]`.
pub fn targets(place: &Place, device: Device) -> Tensor {
    let rows = place.rows();
    Tensor::arange_start(rows.start as i64, rows.end as i64, (Kind::Int64, device))
}
