//! Retrieval by ITC: every image against every text of a held-out set, by the best query's cosine (BLIP-2 §4.4
//! without the ITM re-ranking).

use std::ops::Range;
use std::path::Path;

use futures::TryStreamExt;
use quern_corpus::images::decode;
use quern_corpus::plan::plan_dataset;
use quern_corpus::reader::{RawRow, read_rows};
use quern_corpus::store;
use quern_models::qformer::{Dropout, Outputs, QFormer};
use quern_recipes::{Columns, Dataset, Recipe};
use serde::Serialize;
use tch::{Device, Kind, Tensor, no_grad};

use crate::checkpoint;
use crate::error::TrainError;
use crate::objectives::contrastive::pairwise;
use crate::setup::Setup;
use crate::training::runtime;

/// Pairs that are encoded together.
const BATCH: usize = 64;
/// Rows that a plan of the held-out set takes at a time.
const SHARD_ROWS: u64 = 2_000;

/// How well images find their texts and texts their images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RetrievalReport {
    /// Pairs, each the only right answer to the other.
    pub n: usize,
    /// Steps that the model was trained; none for an untrained one.
    pub step: Option<u64>,
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
    pub r1: Recall,
    /// Share of queries whose answer is among the first 5.
    #[serde(rename = "R@5")]
    pub r5: Recall,
    /// Share of queries whose answer is among the first 10.
    #[serde(rename = "R@10")]
    pub r10: Recall,
    /// Median of the ranks.
    pub median_rank: f64,
    /// Every query's rank of the right answer, from 1, in the order of the data set: two models' can be compared in
    /// pairs.
    pub ranks: Vec<u32>,
}

/// A share of queries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Recall {
    /// From 0 to 1.
    pub value: f64,
    /// √(p (1 - p) / n).
    pub standard_error: f64,
}

impl Direction {
    /// From every query's rank, counted from 1.
    pub fn of(ranks: Vec<u32>) -> Self {
        let mut sorted = ranks.clone();
        sorted.sort_unstable();
        let middle = |index: usize| f64::from(sorted.get(index).copied().unwrap_or(0));
        Direction {
            r1: Recall::at(1, &ranks),
            r5: Recall::at(5, &ranks),
            r10: Recall::at(10, &ranks),
            median_rank: (middle(ranks.len() / 2) + middle(ranks.len().saturating_sub(1) / 2)) / 2.0,
            ranks,
        }
    }

    /// Whether each query's answer is among the first `k`.
    pub fn hits(&self, k: u32) -> Vec<bool> {
        self.ranks.iter().map(|&rank| rank <= k).collect()
    }
}

impl Recall {
    fn at(k: u32, ranks: &[u32]) -> Self {
        let n = ranks.len().max(1) as f64;
        let value = ranks.iter().filter(|&&rank| rank <= k).count() as f64 / n;
        Recall { value, standard_error: (value * (1.0 - value) / n).sqrt() }
    }
}

/// The mean of paired differences in hits at `k` (second minus first) and its standard error.
pub fn paired_gain(first: &Direction, second: &Direction, k: u32) -> Recall {
    let differences: Vec<f64> = (first.hits(k).into_iter().zip(second.hits(k)))
        .map(|(first, second)| f64::from(u8::from(second)) - f64::from(u8::from(first)))
        .collect();
    let n = differences.len().max(1) as f64;
    let value = differences.iter().sum::<f64>() / n;
    let squares: f64 = differences.iter().map(|difference| (difference - value).powi(2)).sum();
    Recall { value, standard_error: (squares / (n - 1.0).max(1.0) / n).sqrt() }
}

/// Evaluates the model of `checkpoint` (a path below the recipe's output, or a location of its own; `None`: the
/// untrained model of the recipe) on the pairs of the parquet folder `path`, at most `limit` of them.
///
/// The folder has the columns of the recipe's first data set; rows without image or caption are left out.
///
/// # Errors
/// See [`TrainError`].
pub fn retrieval(
    checkpoint: Option<&str>,
    recipe: &Recipe,
    path: &str,
    limit: Option<usize>,
    device: Device,
) -> Result<RetrievalReport, TrainError> {
    tch::set_num_threads(recipe.cluster.threads as i32);
    let setup = Setup::load(recipe, device)?;
    let runtime = runtime()?;
    let (model, step) = match checkpoint {
        None => (setup.initial_model(recipe, device)?, None),
        Some(checkpoint) => {
            let output = store::open(&recipe.output)?;
            let saved = runtime.block_on(checkpoint::open(&output, checkpoint))?;
            (runtime.block_on(saved.qformer(device))?, Some(saved.state.step))
        }
    };
    if model.config.encoder_width != setup.config.encoder_width || model.config.vocab_size != setup.config.vocab_size {
        return Err(TrainError::Checkpoint {
            path: checkpoint.unwrap_or_default().to_string(),
            reason: "it was trained with another image encoder or tokenizer than the recipe names".into(),
        });
    }
    let pairs = runtime.block_on(read_pairs(recipe, path, limit))?;
    let features = encode(&model, &setup, recipe, &pairs, device)?;
    let scores = no_grad(|| pairwise(&features.0, &features.1)); // [images, texts]
    Ok(RetrievalReport {
        n: pairs.len(),
        step,
        image_to_text: Direction::of(ranks(&scores)),
        text_to_image: Direction::of(ranks(&scores.transpose(0, 1))),
    })
}

/// Rank of each row's diagonal element, from 1; equal scores count against it.
fn ranks(scores: &Tensor) -> Vec<u32> {
    let own = scores.diagonal(0, 0, 1).unsqueeze(1);
    let not_below = scores.ge_tensor(&own).sum_dim_intlist(&[1i64][..], false, Kind::Int64);
    let counts = Vec::<i64>::try_from(not_below.to_device(Device::Cpu)).expect("a vector of integers");
    counts.into_iter().map(|count| count as u32).collect()
}

/// A held-out pair.
struct Pair {
    row: RawRow,
    caption: String,
}

async fn read_pairs(recipe: &Recipe, path: &str, limit: Option<usize>) -> Result<Vec<Pair>, TrainError> {
    let columns = recipe.datasets.first().map_or_else(Columns::default, |dataset| dataset.columns.clone());
    let name = Path::new(path).file_name().map_or("held-out".into(), |name| name.to_string_lossy().into_owned());
    let dataset = Dataset { name, path: path.to_string(), columns, capfilt: false };
    let plan = plan_dataset(&dataset, SHARD_ROWS).await?;
    if let Some(file) = plan.unreadable.first() {
        return Err(TrainError::Corpus(format!("{path}/{}: {}", file.shard.file, file.reason)));
    }
    let limit = limit.unwrap_or(usize::MAX);
    let mut pairs = Vec::new();
    for shard in plan.shards {
        if pairs.len() >= limit {
            break;
        }
        let rows: Vec<RawRow> =
            read_rows(&dataset, &shard.file, shard.row_start, shard.rows).await?.try_collect().await?;
        let usable = rows.into_iter().filter(|row| row.image.is_some()).filter_map(|row| {
            let caption = row.caption.clone().filter(|caption| !caption.trim().is_empty())?;
            Some(Pair { row, caption })
        });
        pairs.extend(usable);
    }
    pairs.truncate(limit);
    match pairs.is_empty() {
        true => Err(TrainError::Corpus(format!("{path} has no row with an image and a caption"))),
        false => Ok(pairs),
    }
}

/// Contrastive features of all images `[n, Q, E]` and texts `[n, E]`.
fn encode(
    model: &QFormer,
    setup: &Setup,
    recipe: &Recipe,
    pairs: &[Pair],
    device: Device,
) -> Result<(Tensor, Tensor), TrainError> {
    let (mut images, mut texts) = (Vec::new(), Vec::new());
    for start in (0..pairs.len()).step_by(BATCH) {
        let batch = &pairs[Range { start, end: (start + BATCH).min(pairs.len()) }];
        let mut pixels = vec![0f32; batch.len() * setup.images.numbers()];
        for (pair, out) in batch.iter().zip(pixels.chunks_mut(setup.images.numbers())) {
            let image = pair.row.image.as_ref().expect("rows without an image were left out");
            let decoded = decode(image, &recipe.limits)
                .map_err(|source| TrainError::Image { row: pair.row.id.clone(), source })?;
            setup.images.evaluate(&decoded, out);
        }
        let captions: Vec<&str> = batch.iter().map(|pair| pair.caption.as_str()).collect();
        let (ids, mask) = setup.texts.encode(&captions);
        no_grad(|| {
            let frozen = setup.encoder.features(&setup.images.batch(&pixels)).to_kind(Kind::Float);
            let queries = model.queries(&model.image_memory(&frozen), &Dropout::OFF);
            images.push(model.image_features(&queries.hidden));
            let hidden = model.text(&ids.to_device(device), &mask.to_device(device), Outputs::Read, &Dropout::OFF);
            texts.push(model.text_features(&hidden));
        });
    }
    Ok((Tensor::cat(&images, 0), Tensor::cat(&texts, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_counts_what_scores_at_least_as_high() {
        let scores = Tensor::from_slice2(&[[0.9f32, 0.1, 0.2], [0.8, 0.5, 0.5], [0.3, 0.7, 0.1]]);
        assert_eq!(ranks(&scores), [1, 3, 3]);
        assert_eq!(ranks(&scores.transpose(0, 1)), [1, 2, 3]);
    }

    #[test]
    fn recalls_medians_and_errors() {
        let direction = Direction::of(vec![1, 2, 6, 11]);
        assert_eq!((direction.r1.value, direction.r5.value, direction.r10.value), (0.25, 0.5, 0.75));
        assert!((direction.r1.standard_error - (0.25f64 * 0.75 / 4.0).sqrt()).abs() < 1e-15);
        assert_eq!(direction.median_rank, 4.0);
        assert_eq!(direction.hits(5), [true, true, false, false]);
    }

    #[test]
    fn the_paired_gain_knows_its_error() {
        let (worse, better) = (Direction::of(vec![2, 1, 2, 2]), Direction::of(vec![1, 1, 1, 2]));
        let gain = paired_gain(&worse, &better, 1);
        assert_eq!(gain.value, 0.5);
        assert!((gain.standard_error - (1.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }
}
