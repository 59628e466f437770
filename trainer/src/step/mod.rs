//! One training step of stage 1 on one rank: the gradient of the global batch's loss, by the graph cut of DESIGN 3.4.
//!
//! 1. Contrastive features of the local rows; gathered over the ranks.
//! 2. ITC with local and gathered features as leaves; backward to the leaves. The gradients of the gathered copies are
//!    summed over the ranks; a rank's own slice of that sum plus its local gradient is `g`, the whole derivative of the
//!    global loss by its features.
//! 3. Hard negatives; the frozen features that they need move between ranks *before* the trainable LayerNorm, so
//!    that every weight's derivative is a sum over ranks.
//! 4. ONE backward through the trunk of Σ(feature · g) + ITM + ITG, and one sum of the gradients over the ranks.
//!
//! All losses are local sums over global counts: the result doesn't depend on how the batch is cut into ranks.

pub mod bridge;
mod contrast;
mod groups;
mod mining;
mod noise;
mod passes;
mod texts;

use quern_collective::{Collective, CollectiveError};
use quern_models::qformer::{Outputs, Parameters, QFormer};
use tch::{Device, Kind, Tensor};

use crate::exchange::fetch_rows;
use crate::objectives::contrastive::{self, Features, Similarities};
use crate::objectives::{language, matching};

use contrast::Contrast;
use groups::Lanes;
use mining::Mining;
use noise::{Noise, Stream};
use passes::{LanguagePass, matching_lanes};
use texts::GlobalTexts;

/// Which derivative of which mean is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Semantics {
    /// Whether the gathered side of ITC counts as constant (LAVIS' `all_gather` passes no gradient).
    pub gathered_side_detached: bool,
    /// Over what a mean over tokens is taken.
    pub language_mean: LanguageMean,
}

/// Over what a mean over tokens (ITG's, stage 2's) is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanguageMean {
    /// Over all tokens of the global batch.
    Tokens,
    /// Over each rank's tokens, then over the ranks.
    Ranks,
}

impl From<quern_recipes::Semantics> for Semantics {
    fn from(recipe: quern_recipes::Semantics) -> Self {
        match recipe {
            quern_recipes::Semantics::Exact => {
                Semantics { gathered_side_detached: false, language_mean: LanguageMean::Tokens }
            }
            quern_recipes::Semantics::Lavis => {
                Semantics { gathered_side_detached: true, language_mean: LanguageMean::Ranks }
            }
        }
    }
}

/// This rank's rows of a global batch.
pub struct Batch {
    /// Frozen encoder's features, before the trainable LayerNorm, `[B, N, V]`.
    pub features: Tensor,
    /// Token ids, `[CLS]` first, padded to one length on all ranks and in all steps, `[B, L]`.
    pub ids: Tensor,
    /// 1 for a token, 0 for padding, `[B, L]`.
    pub mask: Tensor,
    /// Each row's [`RowId::key`](quern_corpus::RowId::key).
    pub rows: Vec<u64>,
}

/// Where the hard negatives come from: row indices into the global batch.
#[derive(Debug, Clone)]
pub enum Negatives {
    /// Drawn from the similarity softmax, by key.
    Keyed,
    /// Given, one of each per local row.
    Given {
        /// For every local text, an image.
        images: Vec<i64>,
        /// For every local image, a text.
        texts: Vec<i64>,
    },
}

/// What a step's randomness and means depend on, besides the weights and the batch.
#[derive(Debug, Clone)]
pub struct StepOptions {
    /// Whose gradient.
    pub semantics: Semantics,
    /// Seed of the run.
    pub seed: u64,
    /// The optimiser step.
    pub step: u64,
    /// Id of `[DEC]`, which replaces `[CLS]` in ITG.
    pub decoder_start: i64,
    /// Hard negatives.
    pub negatives: Negatives,
    /// Whether the tensors on the way are wanted. Without them texts go through the model in groups of like length and
    /// what no head reads is not computed, which changes nothing but the time.
    pub probes: bool,
}

/// The three losses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Losses {
    /// Image-text contrast.
    pub itc: f64,
    /// Image-grounded text generation.
    pub itg: f64,
    /// Image-text matching.
    pub itm: f64,
}

impl Losses {
    /// Their sum, which is what is minimised.
    pub fn total(&self) -> f64 {
        self.itc + self.itg + self.itm
    }
}

/// What a step computed.
pub struct StepOutput {
    /// Derivatives of the global batch's loss, in the parameters' order, the same on every rank.
    pub gradients: Vec<Tensor>,
    /// The global batch's losses, the same on every rank.
    pub losses: Losses,
    /// Means over this rank's own rows and tokens.
    pub local: Losses,
    /// What this rank saw, if it was asked for.
    pub probes: Option<Probes>,
}

/// Tensors on the way, detached; what the goldens compare.
pub struct Probes {
    /// ITC similarities of the local rows, temperature applied, `[B, G]` each.
    pub similarities: Similarities,
    /// Probabilities of the hard negative images of the local texts, `[B, G]`.
    pub image_weights: Tensor,
    /// Probabilities of the hard negative texts of the local images, `[B, G]`.
    pub text_weights: Tensor,
    /// Query transformer's last hidden states, `[B, Q, D]`.
    pub query_hidden: Tensor,
    /// Text transformer's last hidden states, `[B, L, D]`.
    pub text_hidden: Tensor,
    /// Last hidden states of the language pass, `[B, L, D]`.
    pub language_hidden: Tensor,
    /// Its logits but for the last position, `[B, L - 1, vocabulary]`.
    pub language_logits: Tensor,
    /// Its targets, `[B, L - 1]`.
    pub language_labels: Tensor,
    /// Last hidden states of the matching pass: pairs, negative images, negative texts, `[3 B, Q + L, D]`.
    pub matching_hidden: Tensor,
    /// Its logits, `[3 B, 2]`.
    pub matching_logits: Tensor,
    /// Its targets, `[3 B]`.
    pub matching_labels: Tensor,
    /// The right columns of the similarities, `[B]`.
    pub contrastive_targets: Tensor,
}

/// Computes the gradient of the global batch's loss; the weights stay as they are.
///
/// Every rank of `collective` calls it with its own slice and the same `options`.
pub fn train_step(
    model: &QFormer,
    batch: &Batch,
    collective: &dyn Collective,
    options: &StepOptions,
) -> Result<StepOutput, CollectiveError> {
    for (_, parameter) in model.parameters().iter() {
        parameter.shallow_clone().zero_grad();
    }
    let outputs = if options.probes { Outputs::All } else { Outputs::Read };
    let texts = GlobalTexts::gather(batch, collective)?;
    let place = &texts.place;
    let noise = Noise { model, batch, options };
    let own = Lanes::new(&batch.ids, &batch.mask, &texts.lengths[place.rows()], outputs);

    let images = model.image_memory(&batch.features.to_kind(Kind::Float));
    let queries = model.queries(&images, &noise.of_rows(Stream::Queries));
    let noise_of_text = noise.of_rows(Stream::Text);
    let text_hidden =
        own.run(|group| model.text(&group.ids, &group.mask, outputs, &noise_of_text.select(&group.lanes)));
    let local = Features { image: model.image_features(&queries.hidden), text: model.text_features(&text_hidden) };
    let contrast = Contrast::of(model, &local, place, collective, options.semantics)?;

    let language =
        LanguagePass::run(model, &own, &queries.past, options.decoder_start, &noise.of_rows(Stream::Language));

    let mining = Mining::of(&contrast.similarities, &texts, batch, options);
    let negative_features = fetch_rows(collective, &batch.features, &mining.images, place)?.to_kind(Kind::Float);
    let negative_images = model.image_memory(&negative_features);
    let (pairs, shown) = matching_lanes(batch, images, negative_images, &texts, &mining, outputs);
    let noise_of_pairs = noise.of_pairs(&texts, &mining);
    let matching_hidden = pairs.run(|group| {
        let images = shown.of(group);
        model.matching(&images, &group.ids, &group.mask, outputs, &noise_of_pairs.select(&group.lanes))
    });
    let matching_logits = model.matching_logits(&matching_hidden);
    let matching_sum = matching::loss_sum(&matching_logits);

    let local_tokens = language::target_count(&batch.mask).max(1) as f64;
    let language_loss = match options.semantics.language_mean {
        LanguageMean::Tokens => &language.loss_sum / texts.tokens as f64,
        LanguageMean::Ranks => &language.loss_sum / (local_tokens * place.ranks() as f64),
    };
    let examples = matching::EXAMPLES_PER_ROW * place.global() as i64;
    let matching_loss = &matching_sum / examples as f64;
    let carried = (&local.image * &contrast.image_gradient).sum(Kind::Float)
        + (&local.text * &contrast.text_gradient).sum(Kind::Float);
    (carried + &matching_loss + &language_loss).backward();

    let contributions = [&contrast.loss, &language_loss, &matching_loss];
    let (gradients, [itc, itg, itm]) = reduce(model.parameters(), contributions, collective)?;
    let rows = batch.rows.len() as f64;
    let local = Losses {
        itc: contrast.loss.double_value(&[]) * place.global() as f64 / rows,
        itg: language.loss_sum.double_value(&[]) / local_tokens,
        itm: matching_sum.double_value(&[]) / (rows * matching::EXAMPLES_PER_ROW as f64),
    };
    let probes = options.probes.then(|| Probes {
        similarities: contrast.similarities,
        image_weights: mining.image_weights,
        text_weights: mining.text_weights,
        query_hidden: queries.hidden.detach(),
        text_hidden: text_hidden.detach(),
        language_hidden: language.hidden.detach(),
        language_logits: language.logits.detach(),
        language_labels: language.labels,
        matching_labels: matching::labels(batch.rows.len() as i64, &matching_logits),
        matching_hidden: matching_hidden.detach(),
        matching_logits: matching_logits.detach(),
        contrastive_targets: contrastive::targets(place, model.device()),
    });
    Ok(StepOutput { gradients, losses: Losses { itc, itg, itm }, local, probes })
}

/// Sums the parameters' gradients and `numbers` over the ranks, in one message.
fn reduce<const N: usize>(
    parameters: &Parameters,
    numbers: [&Tensor; N],
    collective: &dyn Collective,
) -> Result<(Vec<Tensor>, [f64; N]), CollectiveError> {
    let flat: Vec<Tensor> = (parameters.iter())
        .map(|(name, parameter)| {
            let gradient = parameter.grad();
            assert!(gradient.defined(), "{name} takes part in no objective");
            gradient.view(-1)
        })
        .chain(numbers.iter().map(|number| number.detach().view(-1)))
        .collect();
    let summed = collective.all_reduce_sum(&[Tensor::cat(&flat, 0)])?;
    let mut offset = 0;
    let gradients = (parameters.iter())
        .map(|(_, parameter)| {
            let count = parameter.numel() as i64;
            let gradient = summed[0].narrow(0, offset, count).view(parameter.size().as_slice());
            offset += count;
            gradient
        })
        .collect();
    let tail = summed[0].narrow(0, offset, N as i64).to_device(Device::Cpu).to_kind(Kind::Double);
    let tail = Vec::<f64>::try_from(tail).expect("a vector of doubles");
    Ok((gradients, tail.try_into().expect("as many as were given")))
}
