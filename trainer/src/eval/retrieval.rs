//! Retrieval: every image against every text of a held-out set (BLIP-2 §4.4; LAVIS `blip2.py`, `compute_sim_matrix`).
//!
//! First by ITC, the best query's cosine. Then, of every query's best `k` candidates, ITM judges each pair, and they
//! are ordered by the sum of cosine and the logit for "they match"; the other candidates follow in the order of ITC.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

use quern_corpus::images::decode;
use quern_corpus::store;
use quern_models::qformer::foreign::Absent;
use quern_models::qformer::{Dropout, Outputs, QFormer};
use quern_recipes::Recipe;
use serde::Serialize;
use tch::{Device, Kind, Tensor, no_grad};

use super::estimate::Estimate;
use super::heed;
use super::held_out::{self, HeldOut};
use crate::checkpoint::{self, Found};
use crate::error::TrainError;
use crate::objectives::contrastive::pairwise;
use crate::setup::Setup;
use crate::training::runtime;

/// Images, texts or pairs that are computed together.
const BATCH: usize = 64;
/// ITM's class of pairs that belong together.
const MATCH: i64 = 1;
/// Candidates that ITM judges, as BLIP-2 does.
pub const RERANK: usize = 128;

/// What is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrievalOptions {
    /// Images at most.
    pub limit: Option<usize>,
    /// A query's candidates that ITM judges; 0: ITC alone.
    pub rerank: usize,
}

impl Default for RetrievalOptions {
    fn default() -> Self {
        RetrievalOptions { limit: None, rerank: RERANK }
    }
}

/// How well images find their texts and texts their images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RetrievalReport {
    /// Images.
    pub n: usize,
    /// Texts; an image may have several, and is found by any of them.
    pub texts: usize,
    /// Whose weights these are, as they were named; none for an untrained model.
    pub checkpoint: Option<String>,
    /// Steps that quern trained them.
    pub step: Option<u64>,
    /// Images as queries, by ITC alone.
    pub image_to_text: Direction,
    /// Texts as queries, by ITC alone.
    pub text_to_image: Direction,
    /// After ITM's judgement.
    pub reranked: Option<Reranked>,
}

/// Retrieval with ITM's judgement of the best candidates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reranked {
    /// Candidates judged per query.
    pub k: usize,
    /// Images as queries.
    pub image_to_text: Direction,
    /// Texts as queries.
    pub text_to_image: Direction,
}

/// One direction of retrieval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Direction {
    /// Share of queries whose answer is first.
    #[serde(rename = "R@1")]
    pub r1: Estimate,
    /// Share of queries whose answer is among the first 5.
    #[serde(rename = "R@5")]
    pub r5: Estimate,
    /// Share of queries whose answer is among the first 10.
    #[serde(rename = "R@10")]
    pub r10: Estimate,
    /// Median of the ranks.
    pub median_rank: f64,
    /// Mean of the ranks.
    pub mean_rank: f64,
    /// Every query's rank of its best right answer, from 1, in the order of the data set: two models' can be compared
    /// in pairs.
    pub ranks: Vec<u32>,
}

impl Direction {
    /// From every query's rank, counted from 1.
    pub fn of(ranks: Vec<u32>) -> Self {
        let mut sorted = ranks.clone();
        sorted.sort_unstable();
        let middle = |index: usize| f64::from(sorted.get(index).copied().unwrap_or(0));
        let within = |k: u32| Estimate::share(ranks.iter().map(|&rank| rank <= k));
        Direction {
            r1: within(1),
            r5: within(5),
            r10: within(10),
            median_rank: (middle(ranks.len() / 2) + middle(ranks.len().saturating_sub(1) / 2)) / 2.0,
            mean_rank: ranks.iter().copied().map(f64::from).sum::<f64>() / ranks.len().max(1) as f64,
            ranks,
        }
    }

    /// Whether each query's answer is among the first `k`.
    pub fn hits(&self, k: u32) -> impl ExactSizeIterator<Item = bool> {
        self.ranks.iter().map(move |&rank| rank <= k)
    }
}

/// Evaluates the model of `checkpoint` (a path below the recipe's output, or a location of its own, quern's or others';
/// `None`: the untrained model of the recipe) on the parquet at `path`.
///
/// Captions are in its list column `captions` or, without one, in the caption column of the recipe's first data set;
/// rows of the same key are one image. Rows without image or caption are left out. It ends between two batches when `stop`
/// is raised.
///
/// # Errors
/// See [`TrainError`].
pub fn retrieval(
    checkpoint: Option<&str>,
    recipe: &Recipe,
    path: &str,
    options: RetrievalOptions,
    device: Device,
    stop: &AtomicBool,
) -> Result<RetrievalReport, TrainError> {
    tch::set_num_threads(recipe.cluster.threads as i32);
    let setup = Setup::load(recipe, device)?;
    let runtime = runtime()?;
    let (model, step) = match checkpoint {
        None => (setup.initial_model(recipe, device)?, None),
        Some(checkpoint) => {
            let output = store::open(&recipe.output)?;
            match checkpoint::find(&runtime, &output, checkpoint, device)? {
                Found::Own(saved) => (runtime.block_on(setup.trained_model(&saved, device))?, Some(saved.state.step)),
                // Neither ITC nor ITM reads what Hugging Face's folders lack.
                Found::Foreign(foreign) => (setup.foreign_model(*foreign, Absent::Untrained)?, None),
            }
        }
    };
    let held_out = runtime.block_on(held_out::read(recipe, path, options.limit))?;
    let owners: Vec<usize> =
        held_out.iter().enumerate().flat_map(|(image, one)| one.captions.iter().map(move |_| image)).collect();
    no_grad(|| {
        let encoded = Encoded::new(&model, &setup, recipe, &held_out, stop)?;
        let scores = pairwise(&encoded.images, &encoded.texts); // [images, texts]
        let by_image = rows(&scores);
        let by_text = rows(&scores.transpose(0, 1));
        let reranked = match options.rerank {
            0 => None,
            k => Some(rerank(&model, &encoded, [&by_image, &by_text], &owners, k, stop)?),
        };
        Ok(RetrievalReport {
            n: held_out.len(),
            texts: owners.len(),
            checkpoint: checkpoint.map(str::to_owned),
            step,
            image_to_text: direction(by_image.iter().cloned(), |image, text| owners[text] == image),
            text_to_image: direction(by_text.iter().cloned(), |text, image| owners[text] == image),
            reranked,
        })
    })
}

/// Every query's scores of all candidates.
fn rows(scores: &Tensor) -> Vec<Vec<f32>> {
    Vec::try_from(scores.to_device(Device::Cpu).to_kind(Kind::Float).contiguous()).expect("a matrix")
}

/// The ranks of queries' right answers, by every query's scores of all candidates.
fn direction<S: PartialOrd + Copy>(
    queries: impl Iterator<Item = Vec<S>>,
    is_right: impl Fn(usize, usize) -> bool,
) -> Direction {
    Direction::of(queries.enumerate().map(|(query, scores)| rank(&scores, |index| is_right(query, index))).collect())
}

/// The rank of the best right answer, from 1; wrong ones with an equal score count against it.
fn rank<S: PartialOrd + Copy>(scores: &[S], is_right: impl Fn(usize) -> bool) -> u32 {
    let right = scores.iter().enumerate().filter(|(index, _)| is_right(*index)).map(|(_, &score)| score);
    let best = right.reduce(|best, score| if score > best { score } else { best }).expect("a right answer");
    let not_below = |(index, score): &(usize, &S)| !is_right(*index) && **score >= best;
    1 + scores.iter().enumerate().filter(not_below).count() as u32
}

/// Indices of the `k` best scores, of equal ones the first.
fn top(scores: &[f32], k: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..scores.len()).collect();
    indices.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    indices.truncate(k);
    indices
}

/// Both directions with each query's best candidates in ITM's order, the others behind them.
fn rerank(
    model: &QFormer,
    encoded: &Encoded,
    scores: [&[Vec<f32>]; 2],
    owners: &[usize],
    k: usize,
    stop: &AtomicBool,
) -> Result<Reranked, TrainError> {
    let [best_texts, best_images] = scores.map(|rows| rows.iter().map(|row| top(row, k)).collect::<Vec<_>>());
    let mut wanted: Vec<BTreeSet<usize>> = best_texts.iter().map(|texts| texts.iter().copied().collect()).collect();
    for (text, images) in best_images.iter().enumerate() {
        images.iter().for_each(|&image| _ = wanted[image].insert(text));
    }
    let judge = |(image, texts)| heed(stop).map(|()| encoded.judge(model, image, texts));
    let judged: Vec<BTreeMap<usize, f32>> = wanted.into_iter().enumerate().map(judge).collect::<Result<_, _>>()?;
    // Judged candidates are before all others, whatever the scores.
    let order = |row: &[f32], best: &[usize], logit: &dyn Fn(usize) -> f32| {
        let mut order: Vec<(bool, f32)> = row.iter().map(|&cosine| (false, cosine)).collect();
        best.iter().for_each(|&candidate| order[candidate] = (true, logit(candidate) + row[candidate]));
        order
    };
    let by_image = scores[0].iter().zip(&best_texts).enumerate();
    let by_text = scores[1].iter().zip(&best_images).enumerate();
    Ok(Reranked {
        k,
        image_to_text: direction(
            by_image.map(|(image, (row, best))| order(row, best, &|text| judged[image][&text])),
            |image, text| owners[text] == image,
        ),
        text_to_image: direction(
            by_text.map(|(text, (row, best))| order(row, best, &|image| judged[image][&text])),
            |text, image| owners[text] == image,
        ),
    })
}

/// What the model makes of a held-out set.
struct Encoded {
    /// Frozen features of each image `[1, N, V]`, on the CPU.
    frozen: Vec<Tensor>,
    /// Contrastive features of the images, `[images, Q, E]`.
    images: Tensor,
    /// Ids of the texts `[texts, L]`.
    ids: Tensor,
    /// Their mask.
    mask: Tensor,
    /// Contrastive features of the texts, `[texts, E]`.
    texts: Tensor,
}

impl Encoded {
    fn new(
        model: &QFormer,
        setup: &Setup,
        recipe: &Recipe,
        held_out: &[HeldOut],
        stop: &AtomicBool,
    ) -> Result<Self, TrainError> {
        let (mut frozen, mut images) = (Vec::new(), Vec::new());
        for batch in held_out.chunks(BATCH) {
            heed(stop)?;
            let (pixels, decoded) = setup.images.filled(batch.len(), |pixels| {
                batch.iter().zip(pixels.chunks_mut(setup.images.numbers())).try_for_each(|(one, out)| {
                    let decoded = decode(&one.image, &recipe.limits)
                        .map_err(|source| TrainError::Image { row: one.id.clone(), source })?;
                    setup.images.evaluate(&decoded, out);
                    Ok::<(), TrainError>(())
                })
            });
            decoded?;
            let features = setup.encoder.features(&pixels);
            let queries = model.queries(&model.image_memory(&features.to_kind(Kind::Float)), &Dropout::OFF);
            images.push(model.image_features(&queries.hidden));
            frozen.extend(features.to_device(Device::Cpu).split(1, 0));
        }
        let captions: Vec<&str> = held_out.iter().flat_map(|one| one.captions.iter().map(String::as_str)).collect();
        let (ids, mask) = setup.texts.encode(&captions);
        let longest = mask.sum_dim_intlist(1, false, Kind::Int64).max().int64_value(&[]);
        let cut = |tensor: Tensor| tensor.narrow(1, 0, longest).to_device(model.device());
        let (ids, mask) = (cut(ids), cut(mask));
        let texts: Vec<Tensor> = (ids.split(BATCH as i64, 0).iter().zip(mask.split(BATCH as i64, 0)))
            .map(|(ids, mask)| model.text_features(&model.text(ids, &mask, Outputs::Read, &Dropout::OFF)))
            .collect();
        Ok(Encoded { frozen, images: Tensor::cat(&images, 0), ids, mask, texts: Tensor::cat(&texts, 0) })
    }

    /// ITM's logits for "they match" of an image and each of `texts`.
    fn judge(&self, model: &QFormer, image: usize, texts: BTreeSet<usize>) -> BTreeMap<usize, f32> {
        let frozen = self.frozen[image].to_device(model.device()).to_kind(Kind::Float);
        let memory = model.image_memory(&frozen);
        let texts: Vec<usize> = texts.into_iter().collect();
        let mut judged = BTreeMap::new();
        for batch in texts.chunks(BATCH) {
            let chosen: Vec<i64> = batch.iter().map(|&text| text as i64).collect();
            let chosen = Tensor::from_slice(&chosen).to_device(model.device());
            let (ids, mask) = (self.ids.index_select(0, &chosen), self.mask.index_select(0, &chosen));
            let images = memory.select(&chosen.zeros_like());
            let hidden = model.matching(&images, &ids, &mask, Outputs::Read, &Dropout::OFF);
            let logits = model.matching_logits(&hidden).select(1, MATCH); // [batch]
            let logits: Vec<f32> = Vec::try_from(logits.to_device(Device::Cpu)).expect("a vector");
            judged.extend(batch.iter().copied().zip(logits));
        }
        judged
    }
}

#[cfg(test)]
mod tests {
    use quern_models::qformer::QFormerConfig;

    use super::*;

    /// A random model and what it makes of 6 random images with 2 texts each.
    fn encoded() -> (QFormer, Encoded) {
        let config = QFormerConfig {
            vocab_size: 12,
            hidden_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            intermediate_size: 12,
            max_position_embeddings: 8,
            layer_norm_eps: 1e-12,
            ln_vision_eps: 1e-5,
            initializer_range: 0.5,
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            cross_attention_freq: 2,
            encoder_width: 6,
            num_query_token: 3,
            embed_dim: 4,
            pad_token_id: 0,
        };
        let model = QFormer::init(&config, 7, Device::Cpu).expect("a valid config");
        tch::manual_seed(1);
        let frozen = Tensor::randn([6, 5, 6], (Kind::Float, Device::Cpu));
        let ids = Tensor::randint_low(1, 12, [12, 4], (Kind::Int64, Device::Cpu));
        let mask = ids.ones_like();
        let queries = model.queries(&model.image_memory(&frozen), &Dropout::OFF);
        let images = model.image_features(&queries.hidden);
        let texts = model.text_features(&model.text(&ids, &mask, Outputs::Read, &Dropout::OFF));
        (model, Encoded { frozen: frozen.split(1, 0), images, ids, mask, texts })
    }

    /// One pair at a time, as LAVIS' `compute_itm` would be called for it.
    fn logit(model: &QFormer, encoded: &Encoded, image: usize, text: usize) -> f32 {
        let memory = model.image_memory(&encoded.frozen[image]);
        let (ids, mask) = (encoded.ids.narrow(0, text as i64, 1), encoded.mask.narrow(0, text as i64, 1));
        let hidden = model.matching(&memory, &ids, &mask, Outputs::All, &Dropout::OFF);
        model.matching_logits(&hidden).double_value(&[0, 1]) as f32
    }

    #[test]
    fn reranking_is_lavis_score_matrix() {
        let _no_grad = tch::no_grad_guard();
        let (model, encoded) = encoded();
        let owners: Vec<usize> = (0..12).map(|text| text / 2).collect();
        let scores = pairwise(&encoded.images, &encoded.texts);
        let (by_image, by_text) = (rows(&scores), rows(&scores.transpose(0, 1)));
        let judged = |image| (0..12).map(|text| logit(&model, &encoded, image, text)).collect();
        let logits: Vec<Vec<f32>> = (0..6).map(judged).collect();
        for k in [1, 4, 6, 50] {
            let found = rerank(&model, &encoded, [&by_image, &by_text], &owners, k, &AtomicBool::new(false));
            let found = found.expect("nobody stops it");
            // score_matrix: -100 but for the k best by similarity, there similarity + logit.
            let expected = |row: &[f32], logit: &dyn Fn(usize) -> f32, is_right: &dyn Fn(usize) -> bool| {
                let mut sorted = row.to_vec();
                sorted.sort_by(f32::total_cmp);
                let bound = sorted[row.len().saturating_sub(k)];
                let value = |(index, &cosine): (usize, &f32)| match cosine >= bound {
                    true => cosine + logit(index),
                    false => -100.0 + cosine,
                };
                rank(&row.iter().enumerate().map(value).collect::<Vec<_>>(), is_right)
            };
            for (image, row) in by_image.iter().enumerate() {
                let rank = expected(row, &|text| logits[image][text], &|text| owners[text] == image);
                assert_eq!(found.image_to_text.ranks[image], rank, "image {image}, k {k}");
            }
            for (text, row) in by_text.iter().enumerate() {
                let rank = expected(row, &|image| logits[image][text], &|image| owners[text] == image);
                assert_eq!(found.text_to_image.ranks[text], rank, "text {text}, k {k}");
            }
        }
    }

    #[test]
    fn the_rank_counts_what_scores_at_least_as_high() {
        let scores = [vec![0.9f32, 0.1, 0.2], vec![0.8, 0.5, 0.5], vec![0.3, 0.7, 0.1]];
        assert_eq!(direction(scores.into_iter(), |query, index| query == index).ranks, [1, 3, 3]);
    }

    #[test]
    fn of_several_right_answers_the_best_counts_and_none_is_in_its_way() {
        assert_eq!(rank(&[0.5f32, 0.9, 0.7, 0.6], |index| index == 2 || index == 3), 2);
        assert_eq!(rank(&[0.5f32, 0.7, 0.7, 0.6], |index| index == 1 || index == 2), 1);
    }

    #[test]
    fn judged_candidates_are_before_all_others() {
        let order = [(true, -3.0f32), (false, 0.9), (true, 2.0), (false, 0.8)];
        assert_eq!((0..4).map(|right| rank(&order, |index| index == right)).collect::<Vec<_>>(), [2, 3, 1, 4]);
        assert_eq!(top(&[0.1, 0.9, 0.5, 0.9], 3), [1, 3, 2]);
    }

    #[test]
    fn recalls_medians_and_means() {
        let direction = Direction::of(vec![1, 2, 6, 11]);
        assert_eq!((direction.r1.value, direction.r5.value, direction.r10.value), (0.25, 0.5, 0.75));
        assert!((direction.r1.standard_error - (0.25f64 * 0.75 / 4.0).sqrt()).abs() < 1e-15);
        assert_eq!((direction.median_rank, direction.mean_rank), (4.0, 5.0));
        assert_eq!(direction.hits(5).collect::<Vec<_>>(), [true, true, false, false]);
    }
}
