//! Batches before the encoder: rows of a step drawn, decoded, transformed and tokenised by a thread of their own.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use quern_corpus::images::{ImageError, decode};
use quern_corpus::order::slice;
use quern_corpus::store;
use quern_corpus::{Keyed, Purpose, RowId};
use quern_recipes::Recipe;
use tch::Tensor;

use super::{Caption, Captions};
use crate::error::TrainError;
use crate::samples::{SampleRow, Samples, ShardRows};
use crate::training::runtime;
use crate::vision::ImageTransform;

/// Batches that wait for training.
const PREFETCHED: usize = 3;
/// Batches whose rows are read and wait to be decoded.
const DRAWN: usize = 2;
/// Bytes of frozen features that are remembered where images are never augmented.
const REMEMBERED_BYTES: usize = 1 << 30;

/// A batch before the encoder.
pub struct Prepared<E> {
    /// Global step.
    pub step: u64,
    /// The rows' keys.
    pub rows: Vec<u64>,
    /// Rows of the batch whose features are not remembered.
    pub fresh: Vec<usize>,
    /// Their pixels `[_, 3, H, W]`.
    pub pixels: Option<Tensor>,
    /// Whether the features of the fresh rows are to be remembered.
    pub remember: bool,
    /// The captions, encoded.
    pub texts: E,
}

/// Batches in order, as they are ready; after an error there is none.
pub type PreparedBatches<E> = Receiver<Result<Prepared<E>, TrainError>>;

/// How a rank's slices are prepared.
pub struct Preparation<C> {
    /// Names data sets, captions and the seed.
    pub recipe: Recipe,
    /// How captions become ids.
    pub texts: C,
    /// How images become pixels.
    pub images: ImageTransform,
    /// Rows of the global batch.
    pub batch: u32,
    /// This rank.
    pub rank: usize,
    /// Of so many.
    pub ranks: usize,
    /// Threads that decode.
    pub decoders: usize,
}

impl<C: Captions> Preparation<C> {
    /// Starts to prepare this rank's slices of `steps`, a few batches ahead of whoever receives them.
    ///
    /// # Errors
    /// When the thread can't be started; what fails inside it is received.
    pub fn start(self, steps: Range<u64>) -> Result<PreparedBatches<C::Encoded>, TrainError> {
        let (sender, prepared) = sync_channel(PREFETCHED);
        let work = move || {
            if let Err(error) = self.prepare_all(steps, &sender) {
                let _ = sender.send(Err(error)); // nobody listens any more: training has ended
            }
        };
        let spawned = thread::Builder::new().name("loader".into()).spawn(work);
        spawned.map_err(|error| TrainError::System(format!("can't start the loader's thread: {error}")))?;
        Ok(prepared)
    }

    fn prepare_all(
        &self,
        steps: Range<u64>,
        sender: &SyncSender<Result<Prepared<C::Encoded>, TrainError>>,
    ) -> Result<(), TrainError> {
        thread::scope(|scope| {
            let (drawing, drawn) = sync_channel(DRAWN);
            let reader = scope.spawn(move || self.draw_all(steps, &drawing));
            let mut memory = Memory::new(&self.images);
            for (step, drawn) in &drawn {
                let prepared = self.prepare(step, drawn, &mut memory)?;
                if sender.send(Ok(prepared)).is_err() {
                    break; // training has ended
                }
            }
            // Else the reader would wait for ever for someone to take what it has drawn.
            drop(drawn);
            reader.join().expect("readers don't panic")
        })
    }

    /// Draws the rows of every step and reads their shards, while those before are decoded.
    fn draw_all(&self, steps: Range<u64>, drawing: &SyncSender<(u64, Vec<Drawn>)>) -> Result<(), TrainError> {
        let runtime = runtime()?;
        let recipe = &self.recipe;
        let mut samples = runtime.block_on(Samples::open(recipe, store::open(recipe.captioned())?))?;
        let order = samples.order(recipe.seed);
        for step in steps {
            let global = order.batch(step, self.batch);
            let mut drawn = Vec::new();
            for sample in &global[slice(global.len(), self.rank, self.ranks)] {
                let rows = runtime.block_on(samples.shard(sample.shard))?;
                drawn.push(Drawn { rows, ordinal: sample.ordinal as usize, epoch: sample.epoch });
            }
            if drawing.send((step, drawn)).is_err() {
                break;
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
            let pixels = match self.pixels(&chosen) {
                Ok(pixels) => pixels,
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

    /// Decoded and transformed images, `[_, 3, H, W]`, if there are any.
    fn pixels(&self, drawn: &[&Drawn]) -> Result<Option<Tensor>, Broken> {
        let (images, limits, seed) = (&self.images, &self.recipe.limits, self.recipe.seed);
        let decode_row = |row: &Drawn, out: &mut [f32]| {
            let SampleRow { id, image, .. } = row.row();
            match decode(image, limits) {
                Ok(decoded) => {
                    images.train(&decoded, &row.keyed(seed, Purpose::Augment), out);
                    None
                }
                Err(error) => Some((id.clone(), error)),
            }
        };
        if drawn.is_empty() {
            return Ok(None);
        }
        let (pixels, broken): (Tensor, Broken) = images.filled(drawn.len(), |out| {
            // One at a time, to whoever is free: images differ in size.
            let left = Mutex::new(drawn.iter().zip(out.chunks_mut(images.numbers())));
            let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
            let decode_some =
                || -> Broken { std::iter::from_fn(next).filter_map(|(row, out)| decode_row(row, out)).collect() };
            thread::scope(|scope| {
                let threads = self.decoders.clamp(1, drawn.len());
                let decoders: Vec<_> = (0..threads).map(|_| scope.spawn(decode_some)).collect();
                decoders.into_iter().flat_map(|decoder| decoder.join().expect("decoders don't panic")).collect()
            })
        });
        if broken.is_empty() { Ok(Some(pixels)) } else { Err(broken) }
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
