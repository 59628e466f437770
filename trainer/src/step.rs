//! One training step on one rank: the gradient of the global batch's loss, by the graph cut of DESIGN 3.4.
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

use quern_collective::{Collective, CollectiveError};
use quern_corpus::{Keyed, Purpose};
use quern_models::qformer::{Dropout, ImageMemory, QFormer};
use tch::{Device, Kind, Tensor};

use crate::exchange::{fetch_rows, gather_whole};
use crate::objectives::contrastive::{self, Features, Similarities};
use crate::objectives::{Place, language, matching, negatives};

/// Which derivative of which mean is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Semantics {
    /// Whether the gathered side of ITC counts as constant (LAVIS' `all_gather` passes no gradient).
    pub gathered_side_detached: bool,
    /// Over what ITG's mean is taken.
    pub language_mean: LanguageMean,
}

/// Over what ITG's mean is taken.
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
    /// What this rank saw.
    pub probes: Probes,
}

/// Tensors on the way, detached; what the goldens compare.
pub struct Probes {
    /// Means over this rank's own rows and tokens.
    pub local: Losses,
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
    let texts = GlobalTexts::gather(batch, collective)?;
    let place = &texts.place;
    let noise = Noise { model, batch, options };
    let frozen = batch.features.to_kind(Kind::Float);

    let images = model.image_memory(&frozen);
    let queries = model.queries(&images, &noise.of_rows(Stream::Queries));
    let text_hidden = model.text(&batch.ids, &batch.mask, &noise.of_rows(Stream::Text));
    let local = Features { image: model.image_features(&queries.hidden), text: model.text_features(&text_hidden) };
    let contrast = contrast(model, &local, place, collective, options.semantics)?;

    let input = language::decoder_input(&batch.ids, options.decoder_start);
    let language_hidden = model.language(&input, &batch.mask, &queries.past, &noise.of_rows(Stream::Language));
    let length = batch.ids.size()[1];
    let language_logits = model.language_logits(&language_hidden.narrow(1, 0, length - 1));
    let language_labels = language::labels(&batch.ids, &batch.mask);
    let language_sum = language::loss_sum(&language_logits, &language_labels);

    let mining = Mining::of(&contrast.similarities, &texts, batch, options);
    let negative_frozen = fetch_rows(collective, &batch.features, &mining.images, place)?.to_kind(Kind::Float);
    let pairs = MatchingInput::assemble(model, images, &negative_frozen, batch, &texts, &mining);
    let matching_hidden = model.matching(&pairs.images, &pairs.ids, &pairs.mask, &noise.of_pairs(&texts, &mining));
    let matching_logits = model.matching_logits(&matching_hidden);
    let matching_sum = matching::loss_sum(&matching_logits);

    let local_tokens = language::target_count(&batch.mask).max(1) as f64;
    let language_loss = match options.semantics.language_mean {
        LanguageMean::Tokens => &language_sum / texts.tokens as f64,
        LanguageMean::Ranks => &language_sum / (local_tokens * place.ranks() as f64),
    };
    let examples = matching::EXAMPLES_PER_ROW * place.global() as i64;
    let matching_loss = &matching_sum / examples as f64;
    let carried = (&local.image * &contrast.image_gradient).sum(Kind::Float)
        + (&local.text * &contrast.text_gradient).sum(Kind::Float);
    (carried + &matching_loss + &language_loss).backward();

    let contributions = [&contrast.loss, &language_loss, &matching_loss];
    let (gradients, losses) = reduce(model, contributions, collective)?;
    let rows = batch.rows.len() as f64;
    let probes = Probes {
        local: Losses {
            itc: contrast.loss.double_value(&[]) * place.global() as f64 / rows,
            itg: language_sum.double_value(&[]) / local_tokens,
            itm: matching_sum.double_value(&[]) / (rows * matching::EXAMPLES_PER_ROW as f64),
        },
        similarities: contrast.similarities,
        image_weights: mining.image_weights,
        text_weights: mining.text_weights,
        query_hidden: queries.hidden.detach(),
        text_hidden: text_hidden.detach(),
        language_hidden: language_hidden.detach(),
        language_logits: language_logits.detach(),
        language_labels,
        matching_labels: matching::labels(batch.rows.len() as i64, &matching_logits),
        matching_hidden: matching_hidden.detach(),
        matching_logits: matching_logits.detach(),
        contrastive_targets: contrastive::targets(place, model.device()),
    };
    Ok(StepOutput { gradients, losses, probes })
}

/// The texts of the global batch and who holds what.
struct GlobalTexts {
    ids: Tensor,
    mask: Tensor,
    rows: Tensor,
    row_keys: Vec<u64>,
    place: Place,
    /// Tokens that ITG predicts in the global batch.
    tokens: i64,
}

impl GlobalTexts {
    /// One gather of ids, mask and row keys, side by side.
    fn gather(batch: &Batch, collective: &dyn Collective) -> Result<Self, CollectiveError> {
        let keys: Vec<i64> = batch.rows.iter().map(|&key| key as i64).collect();
        let keys = Tensor::from_slice(&keys).to_device(batch.ids.device());
        let table = Tensor::cat(&[&batch.ids, &batch.mask, &keys.unsqueeze(1)], 1); // [B, 2 L + 1]
        let parts = collective.all_gather(&table)?;
        let sizes = parts.iter().map(|part| part.size()[0] as usize).collect();
        let table = Tensor::cat(&parts, 0);
        let length = batch.ids.size()[1];
        let mask = table.narrow(1, length, length);
        let rows = table.select(1, 2 * length);
        let row_keys = Vec::<i64>::try_from(rows.to_device(Device::Cpu).contiguous()).expect("a vector of integers");
        Ok(GlobalTexts {
            tokens: language::target_count(&mask),
            ids: table.narrow(1, 0, length),
            mask,
            rows,
            row_keys: row_keys.into_iter().map(|key| key as u64).collect(),
            place: Place::new(collective.rank(), sizes),
        })
    }
}

/// ITC's outcome: the cut through the graph.
struct Contrast {
    similarities: Similarities,
    /// This rank's share of the global loss.
    loss: Tensor,
    /// Derivative of the global loss by the local image features.
    image_gradient: Tensor,
    /// Derivative of the global loss by the local text features.
    text_gradient: Tensor,
}

fn contrast(
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

/// All ranks' features as leaves: one gather of both kinds side by side.
fn gather_features(local: &Features, collective: &dyn Collective) -> Result<Features, CollectiveError> {
    let (rows, queries, width) = local.image.size3().expect("[B, Q, E]");
    let table = Tensor::cat(&[local.image.detach().view([rows, -1]), local.text.detach()], 1); // [B, (Q + 1) E]
    let all = gather_whole(collective, &table)?;
    let image = all.narrow(1, 0, queries * width).reshape([-1, queries, width]);
    let text = all.narrow(1, queries * width, width).contiguous();
    Ok(Features { image, text }.as_leaves())
}

/// The hard negatives of the local rows: indices into the global batch.
struct Mining {
    image_weights: Tensor,
    text_weights: Tensor,
    images: Vec<i64>,
    texts: Vec<i64>,
}

impl Mining {
    fn of(similarities: &Similarities, texts: &GlobalTexts, batch: &Batch, options: &StepOptions) -> Self {
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

/// The matching pass's rows: pairs, then texts with a negative image, then images with a negative text.
struct MatchingInput {
    images: ImageMemory,
    ids: Tensor,
    mask: Tensor,
}

impl MatchingInput {
    fn assemble(
        model: &QFormer,
        own: ImageMemory,
        negative_frozen: &Tensor,
        batch: &Batch,
        texts: &GlobalTexts,
        mining: &Mining,
    ) -> Self {
        let negative = model.image_memory(negative_frozen);
        let chosen = Tensor::from_slice(&mining.texts).to_device(texts.ids.device());
        let tripled = |own: &Tensor, all: &Tensor| Tensor::cat(&[own, own, &all.index_select(0, &chosen)], 0);
        MatchingInput {
            images: ImageMemory::cat(&[&own, &negative, &own]),
            ids: tripled(&batch.ids, &texts.ids),
            mask: tripled(&batch.mask, &texts.mask),
        }
    }
}

/// Sums gradients and losses over the ranks, in one message.
fn reduce(
    model: &QFormer,
    losses: [&Tensor; 3],
    collective: &dyn Collective,
) -> Result<(Vec<Tensor>, Losses), CollectiveError> {
    let flat: Vec<Tensor> = (model.parameters().iter())
        .map(|(name, parameter)| {
            let gradient = parameter.grad();
            assert!(gradient.defined(), "{name} takes part in no objective");
            gradient.view(-1)
        })
        .chain(losses.iter().map(|loss| loss.detach().view(-1)))
        .collect();
    let summed = collective.all_reduce_sum(&[Tensor::cat(&flat, 0)])?;
    let mut offset = 0;
    let gradients = (model.parameters().iter())
        .map(|(_, parameter)| {
            let count = parameter.numel() as i64;
            let gradient = summed[0].narrow(0, offset, count).view(parameter.size().as_slice());
            offset += count;
            gradient
        })
        .collect();
    let tail = Vec::<f64>::try_from(summed[0].narrow(0, offset, 3).to_device(Device::Cpu).to_kind(Kind::Double));
    let [itc, itg, itm] = tail.expect("a vector of doubles")[..] else { unreachable!("three losses") };
    Ok((gradients, Losses { itc, itg, itm }))
}

/// The step's keyed dropout.
struct Noise<'a> {
    model: &'a QFormer,
    batch: &'a Batch,
    options: &'a StepOptions,
}

/// What a dropout key is for; distinct passes never share a mask.
#[derive(Clone, Copy)]
enum Stream {
    Queries = 0,
    Text = 1,
    Language = 2,
    Pair = 3,
    NegativeImage = 4,
    NegativeText = 5,
}

impl Noise<'_> {
    fn key(&self, row: u64, stream: Stream) -> u64 {
        Keyed::new(self.options.seed, row, Purpose::Dropout, self.options.step).bits(stream as u64)
    }

    fn of_rows(&self, stream: Stream) -> Dropout {
        Dropout::keyed(&self.model.config, self.batch.rows.iter().map(|&row| self.key(row, stream)).collect())
    }

    /// A matching example is known by its image's and its text's row.
    fn of_pairs(&self, texts: &GlobalTexts, mining: &Mining) -> Dropout {
        let own = &self.batch.rows;
        let drawn = |indices: &[i64]| indices.iter().map(|&index| texts.row_keys[index as usize]).collect::<Vec<_>>();
        let pair = |image: u64, text: u64, stream| {
            Keyed::new(self.key(image, stream), text, Purpose::Dropout, self.options.step).bits(0)
        };
        let pairs = own.iter().map(|&row| pair(row, row, Stream::Pair));
        let images = drawn(&mining.images).into_iter().zip(own);
        let images = images.map(|(image, &text)| pair(image, text, Stream::NegativeImage));
        let negative_texts = own.iter().zip(drawn(&mining.texts));
        let negative_texts = negative_texts.map(|(&image, text)| pair(image, text, Stream::NegativeText));
        Dropout::keyed(&self.model.config, pairs.chain(images).chain(negative_texts).collect())
    }
}
