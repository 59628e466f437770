//! `caption_metrics`: BLEU and CIDEr of given tokens.

use quern_trainer::eval::metrics::{Judged, bleu, cider};
use serde::Deserialize;
use tch::Tensor;

use crate::case::Case;
use crate::checks::{Checks, Tolerance};

/// Sums of double precision in another order.
const SCORES: Tolerance = Tolerance::Elements { rel: 1e-10, abs: 1e-12 };

#[derive(Deserialize)]
struct Image {
    hypothesis: Vec<String>,
    references: Vec<Vec<String>>,
}

/// Checks a case.
pub fn check(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let images: Vec<Image> = case.value("images")?;
    let judged = |Image { hypothesis, references }| Judged { hypothesis, references };
    let images: Vec<Judged> = images.into_iter().map(judged).collect();
    checks.compare("bleu", &Tensor::from_slice(&bleu(&images)), SCORES)?;
    let scores = cider(&images);
    checks.compare("cider", &Tensor::from_slice(&scores), SCORES)?;
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    checks.compare("cider_mean", &Tensor::from_slice(&[mean]), SCORES)
}
