//! Batches for one rank: read, decoded, transformed and tokenised in the background, so that training doesn't wait.
//!
//! Which rows, which caption of each and which crop are pure functions of (manifest, seed, step): the sample order
//! names the rows, a rank takes its slice, the caption and the crop are drawn by (row, epoch).

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use quern_collective::Collective;
use quern_corpus::images::{ImageError, decode};
use quern_corpus::order::{SampleOrder, slice};
use quern_corpus::store;
use quern_corpus::{Keyed, Purpose, RowId};
use quern_models::language::Texts;
use quern_recipes::{ImageLimits, Recipe};
use tch::{Device, Tensor};

use crate::error::TrainError;
use crate::language_texts::LanguageTexts;
use crate::samples::{SampleRow, Samples, ShardRows};
use crate::setup::TextEncoder;
use crate::step::Batch;
use crate::step::bridge::BridgeBatch;
use crate::training::{Batches, runtime};
use crate::vision::{FrozenEncoder, ImageTransform};

/// Batches that wait for training.
const PREFETCHED: usize = 3;
/// Threads that decode, at most.
const MAX_DECODERS: usize = 8;
/// Bytes of frozen features that are remembered where images are never augmented.
const REMEMBERED_BYTES: usize = 1 << 30;

/// How a batch's captions become what a model is fed.
pub trait Captions: Send + 'static {
    /// What they become.
    type Encoded: Send + 'static;

    /// Tokenises the captions of a batch.
    fn encode(&self, captions: &[Caption]) -> Self::Encoded;
}

/// A caption of a batch.
pub struct Caption<'a> {
    /// As the corpus has it.
    pub text: &'a str,
    /// What is drawn about it in this epoch.
    pub split: Keyed,
}

/// What batches are made with.
pub struct Feed<C> {
    /// How captions become ids.
    pub texts: C,
    /// How images become pixels.
    pub images: ImageTransform,
    /// How pixels become features.
    pub encoder: FrozenEncoder,
    /// Rows of the global batch.
    pub batch: u32,
}

/// The production source of batches.
pub struct Loader<C: Captions> {
    prepared: Receiver<Result<Prepared<C::Encoded>, TrainError>>,
    encoder: FrozenEncoder,
    remembered: HashMap<u64, Tensor>,
    device: Device,
}

/// A batch before the encoder.
struct Prepared<E> {
    step: u64,
    rows: Vec<u64>,
    /// Rows of the batch whose features are not remembered, and their pixels `[_, 3, H, W]`.
    fresh: Vec<usize>,
    pixels: Option<Tensor>,
    /// Whether the features of the fresh rows are to be remembered.
    remember: bool,
    texts: E,
}

/// A batch behind the encoder.
struct Encoded<E> {
    /// Frozen features, `[B, N, V]`.
    features: Tensor,
    texts: E,
    rows: Vec<u64>,
}

impl<C: Captions> Loader<C> {
    /// Starts to prepare this rank's slices of `steps`.
    ///
    /// # Errors
    /// When the thread can't be started; what fails inside it comes out of [`Batches::next`].
    pub fn start(
        recipe: &Recipe,
        feed: Feed<C>,
        steps: Range<u64>,
        collective: &dyn Collective,
        device: Device,
    ) -> Result<Self, TrainError> {
        let (sender, prepared) = sync_channel(PREFETCHED);
        let Feed { texts, images, encoder, batch } = feed;
        let preparing = Preparing {
            recipe: recipe.clone(),
            texts,
            images,
            batch,
            rank: collective.rank(),
            ranks: collective.size(),
        };
        let work = move || {
            if let Err(error) = preparing.prepare_all(steps, &sender) {
                let _ = sender.send(Err(error)); // nobody listens any more: training has ended
            }
        };
        let spawned = thread::Builder::new().name("loader".into()).spawn(work);
        spawned.map_err(|error| TrainError::System(format!("can't start the loader's thread: {error}")))?;
        Ok(Loader { prepared, encoder, remembered: HashMap::new(), device })
    }

    fn encoded(&mut self, step: u64) -> Result<Encoded<C::Encoded>, TrainError> {
        let ended = |_| TrainError::System("the loader's thread died; its panic is in the log".into());
        let prepared = self.prepared.recv().map_err(ended)??;
        assert_eq!(prepared.step, step, "steps are asked for in order");
        let features = self.features(&prepared);
        Ok(Encoded { features, texts: prepared.texts, rows: prepared.rows })
    }

    /// Features `[B, N, V]` of a batch's rows: of the fresh ones from their pixels, of the others from memory.
    fn features(&mut self, prepared: &Prepared<C::Encoded>) -> Tensor {
        let fresh = prepared.pixels.as_ref().map(|pixels| self.encoder.features(pixels));
        let all_fresh = prepared.fresh.len() == prepared.rows.len();
        if let (Some(fresh), true) = (&fresh, prepared.remember) {
            for (index, &row) in prepared.fresh.iter().enumerate() {
                self.remembered.insert(prepared.rows[row], fresh.get(index as i64).copy());
            }
        }
        match fresh {
            Some(fresh) if all_fresh => fresh,
            _ => Tensor::stack(&prepared.rows.iter().map(|row| &self.remembered[row]).collect::<Vec<_>>(), 0),
        }
    }
}

impl Batches<Batch> for Loader<TextEncoder> {
    fn next(&mut self, step: u64) -> Result<Batch, TrainError> {
        let Encoded { features, texts, rows } = self.encoded(step)?;
        let (ids, mask) = (texts.ids.to_device(self.device), texts.mask.to_device(self.device));
        Ok(Batch { features, ids, mask, rows })
    }
}

impl Batches<BridgeBatch> for Loader<LanguageTexts> {
    fn next(&mut self, step: u64) -> Result<BridgeBatch, TrainError> {
        let Encoded { features, texts, rows } = self.encoded(step)?;
        let moved = |tensor: Tensor| tensor.to_device(self.device);
        let texts = Texts { ids: moved(texts.ids), mask: moved(texts.mask), labels: moved(texts.labels) };
        Ok(BridgeBatch { features, texts, rows })
    }
}

/// The loader's thread.
struct Preparing<C> {
    recipe: Recipe,
    texts: C,
    images: ImageTransform,
    batch: u32,
    rank: usize,
    ranks: usize,
}

impl<C: Captions> Preparing<C> {
    fn prepare_all(
        &self,
        steps: Range<u64>,
        sender: &SyncSender<Result<Prepared<C::Encoded>, TrainError>>,
    ) -> Result<(), TrainError> {
        let runtime = runtime()?;
        let recipe = &self.recipe;
        let mut samples = runtime.block_on(Samples::open(recipe, store::open(recipe.captioned())?))?;
        let order = SampleOrder::new(samples.shard_sizes(), recipe.seed);
        let mut memory = Memory::new(&self.images);
        for step in steps {
            let global = order.batch(step, self.batch);
            let mut drawn = Vec::new();
            for sample in &global[slice(global.len(), self.rank, self.ranks)] {
                let rows = runtime.block_on(samples.shard(sample.shard))?;
                drawn.push(Drawn { rows, ordinal: sample.ordinal as usize, epoch: sample.epoch });
            }
            let prepared = self.prepare(step, drawn, &mut memory)?;
            if sender.send(Ok(prepared)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Tokenises, decodes and transforms. A row whose image can't be decoded leaves its lane empty: it is left out of the
    /// batch, which is that much smaller on every number of ranks.
    fn prepare(
        &self,
        step: u64,
        mut drawn: Vec<Drawn>,
        memory: &mut Memory,
    ) -> Result<Prepared<C::Encoded>, TrainError> {
        let seed = self.recipe.seed;
        loop {
            drawn.retain(|row| !memory.broken.contains(&row.row().id.key()));
            if drawn.is_empty() {
                return Err(TrainError::Corpus(format!("no image of this rank's slice of step {step} can be decoded")));
            }
            let rows: Vec<u64> = drawn.iter().map(|row| row.row().id.key()).collect();
            let (fresh, remember) = memory.fresh(&rows);
            let chosen: Vec<&Drawn> = fresh.iter().map(|&index| &drawn[index]).collect();
            let pixels = match pixels(&chosen, &self.images, &self.recipe.limits, seed) {
                Ok(pixels) => (!chosen.is_empty()).then(|| self.images.batch(&pixels)),
                Err(broken) => {
                    for (row, error) in broken {
                        tracing::warn!(%row, %error, "left out of training: its image can't be decoded");
                        memory.broken.insert(row.key());
                    }
                    continue;
                }
            };
            if remember {
                memory.known.get_or_insert_default().extend(&rows);
            }
            let captions: Vec<Caption> = drawn.iter().map(|row| row.caption(seed)).collect();
            return Ok(Prepared { step, rows, fresh, pixels, remember, texts: self.texts.encode(&captions) });
        }
    }
}

/// A row of a batch, at the epoch that it is drawn in.
struct Drawn {
    rows: ShardRows,
    ordinal: usize,
    epoch: u64,
}

impl Drawn {
    fn row(&self) -> &SampleRow {
        &self.rows[self.ordinal]
    }

    fn keyed(&self, seed: u64, purpose: Purpose) -> Keyed {
        Keyed::new(seed, self.row().id.key(), purpose, self.epoch)
    }

    fn caption(&self, seed: u64) -> Caption<'_> {
        let captions = &self.row().captions;
        let text = &captions[self.keyed(seed, Purpose::CaptionChoice).below(0, captions.len() as u64) as usize];
        Caption { text, split: self.keyed(seed, Purpose::PrefixSplit) }
    }
}

/// Rows whose images are none, and why.
type Broken = Vec<(RowId, ImageError)>;

/// Decoded and transformed images, one after the other, by as many threads as there is use for.
fn pixels(drawn: &[&Drawn], images: &ImageTransform, limits: &ImageLimits, seed: u64) -> Result<Vec<f32>, Broken> {
    let mut out = vec![0f32; drawn.len() * images.numbers()];
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    let per_thread = drawn.len().div_ceil((cores / 2).clamp(1, MAX_DECODERS)).max(1);
    let decode_piece = |rows: &[&Drawn], out: &mut [f32]| -> Broken {
        let decode_row = |(row, out): (&&Drawn, &mut [f32])| {
            let SampleRow { id, image, .. } = row.row();
            match decode(image, limits) {
                Ok(decoded) => {
                    images.train(&decoded, &row.keyed(seed, Purpose::Augment), out);
                    None
                }
                Err(error) => Some((id.clone(), error)),
            }
        };
        rows.iter().zip(out.chunks_mut(images.numbers())).filter_map(decode_row).collect()
    };
    let broken: Broken = thread::scope(|scope| {
        let pieces = drawn.chunks(per_thread).zip(out.chunks_mut(per_thread * images.numbers()));
        let decoders: Vec<_> = pieces.map(|(rows, out)| scope.spawn(move || decode_piece(rows, out))).collect();
        decoders.into_iter().flat_map(|decoder| decoder.join().expect("decoders don't panic")).collect()
    });
    if broken.is_empty() { Ok(out) } else { Err(broken) }
}

/// What is known of rows from earlier batches.
struct Memory {
    /// Rows that the consumer has features of: both ends see the batches in the same order, so they agree. None where
    /// images are augmented: then every epoch sees other pixels.
    known: Option<HashSet<u64>>,
    bytes_per_row: usize,
    /// Rows whose images can't be decoded.
    broken: HashSet<u64>,
}

impl Memory {
    fn new(images: &ImageTransform) -> Self {
        // What is known here are the pixels; features are about as many numbers (CLIP ViT-L/14: 1.7 times).
        let bytes_per_row = images.numbers() * size_of::<f32>();
        Memory { known: images.is_constant().then(HashSet::new), bytes_per_row, broken: HashSet::new() }
    }

    /// Indices of the rows that must be encoded, and whether they are to be remembered from now on.
    fn fresh(&self, rows: &[u64]) -> (Vec<usize>, bool) {
        let all = 0..rows.len();
        let Some(known) = &self.known else { return (all.collect(), false) };
        let fresh: Vec<usize> = all.clone().filter(|&index| !known.contains(&rows[index])).collect();
        match (known.len() + fresh.len()) * self.bytes_per_row <= REMEMBERED_BYTES {
            true => (fresh, true),
            false => (all.collect(), false),
        }
    }
}
