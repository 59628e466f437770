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
use quern_recipes::{ImageLimits, Recipe};
use tch::{Device, Tensor};

use crate::error::TrainError;
use crate::samples::{SampleRow, Samples, ShardRows};
use crate::setup::{FrozenEncoder, ImageTransform, Setup, TextEncoder, section};
use crate::stage1::{Batches, runtime};
use crate::step::Batch;

/// Batches that wait for training.
const PREFETCHED: usize = 3;
/// Threads that decode, at most.
const MAX_DECODERS: usize = 8;
/// Bytes of frozen features that are remembered where images are never augmented.
const REMEMBERED_BYTES: usize = 1 << 30;

/// The production source of batches.
pub struct Loader {
    prepared: Receiver<Result<Prepared, TrainError>>,
    encoder: FrozenEncoder,
    remembered: HashMap<u64, Tensor>,
    device: Device,
}

/// A batch before the encoder.
struct Prepared {
    step: u64,
    rows: Vec<u64>,
    /// Rows of the batch whose features are not remembered, and their pixels `[_, 3, H, W]`.
    fresh: Vec<usize>,
    pixels: Option<Tensor>,
    /// Whether the features of the fresh rows are to be remembered.
    remember: bool,
    ids: Tensor,
    mask: Tensor,
}

impl Loader {
    /// Starts to prepare this rank's slices of `steps`.
    ///
    /// # Errors
    /// When the thread can't be started; what fails inside it comes out of [`Batches::next`].
    pub fn start(
        recipe: &Recipe,
        setup: Setup,
        steps: Range<u64>,
        collective: &dyn Collective,
        device: Device,
    ) -> Result<Self, TrainError> {
        let (sender, prepared) = sync_channel(PREFETCHED);
        let Setup { texts, images, encoder, .. } = setup;
        let recipe = recipe.clone();
        let (rank, ranks) = (collective.rank(), collective.size());
        let work = move || {
            if let Err(error) = prepare_all(&recipe, &texts, &images, steps, (rank, ranks), &sender) {
                let _ = sender.send(Err(error)); // nobody listens any more: training has ended
            }
        };
        let spawned = thread::Builder::new().name("loader".into()).spawn(work);
        spawned.map_err(|error| TrainError::System(format!("can't start the loader's thread: {error}")))?;
        Ok(Loader { prepared, encoder, remembered: HashMap::new(), device })
    }

    /// Features `[B, N, V]` of a batch's rows: of the fresh ones from their pixels, of the others from memory.
    fn features(&mut self, prepared: &Prepared) -> Tensor {
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

impl Batches for Loader {
    fn next(&mut self, step: u64) -> Result<Batch, TrainError> {
        let ended = |_| TrainError::System("the loader's thread died; its panic is in the log".into());
        let prepared = self.prepared.recv().map_err(ended)??;
        assert_eq!(prepared.step, step, "steps are asked for in order");
        let features = self.features(&prepared);
        let Prepared { rows, ids, mask, .. } = prepared;
        Ok(Batch { features, ids: ids.to_device(self.device), mask: mask.to_device(self.device), rows })
    }
}

fn prepare_all(
    recipe: &Recipe,
    texts: &TextEncoder,
    images: &ImageTransform,
    steps: Range<u64>,
    (rank, ranks): (usize, usize),
    sender: &SyncSender<Result<Prepared, TrainError>>,
) -> Result<(), TrainError> {
    let runtime = runtime()?;
    let batch = section(recipe)?.batch;
    let mut samples = runtime.block_on(Samples::open(recipe, store::open(&recipe.output)?))?;
    let order = SampleOrder::new(samples.shard_sizes(), recipe.seed);
    let mut memory = Memory::new(images);
    for step in steps {
        let global = order.batch(step, batch);
        let mut drawn = Vec::new();
        for sample in &global[slice(global.len(), rank, ranks)] {
            let rows = runtime.block_on(samples.shard(sample.shard))?;
            drawn.push(Drawn { rows, ordinal: sample.ordinal as usize, epoch: sample.epoch });
        }
        let prepared = prepare(recipe, texts, images, step, drawn, &mut memory)?;
        if sender.send(Ok(prepared)).is_err() {
            return Ok(());
        }
    }
    Ok(())
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

    fn caption(&self, seed: u64) -> &str {
        let captions = &self.row().captions;
        &captions[self.keyed(seed, Purpose::CaptionChoice).below(0, captions.len() as u64) as usize]
    }
}

/// Tokenises, decodes and transforms. A row whose image can't be decoded leaves its lane empty: it is left out of the
/// batch, which is that much smaller on every number of ranks.
fn prepare(
    recipe: &Recipe,
    texts: &TextEncoder,
    images: &ImageTransform,
    step: u64,
    mut drawn: Vec<Drawn>,
    memory: &mut Memory,
) -> Result<Prepared, TrainError> {
    loop {
        drawn.retain(|row| !memory.broken.contains(&row.row().id.key()));
        if drawn.is_empty() {
            return Err(TrainError::Corpus(format!("no image of this rank's slice of step {step} can be decoded")));
        }
        let rows: Vec<u64> = drawn.iter().map(|row| row.row().id.key()).collect();
        let (fresh, remember) = memory.fresh(&rows);
        let chosen: Vec<&Drawn> = fresh.iter().map(|&index| &drawn[index]).collect();
        let pixels = match pixels(&chosen, images, &recipe.limits, recipe.seed) {
            Ok(pixels) => (!chosen.is_empty()).then(|| images.batch(&pixels)),
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
        let captions: Vec<&str> = drawn.iter().map(|row| row.caption(recipe.seed)).collect();
        let (ids, mask) = texts.encode(&captions);
        return Ok(Prepared { step, rows, fresh, pixels, remember, ids, mask });
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
