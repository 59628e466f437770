//! Batches for one rank: read, decoded, transformed and tokenised in the background, so that training doesn't wait.
//!
//! Which rows, which caption of each and which crop are pure functions of (manifest, seed, step): the sample order
//! names the rows, a rank takes its slice, the caption and the crop are drawn by (row, epoch).

use std::collections::HashMap;
use std::ops::Range;
use std::thread;

use quern_collective::Collective;
use quern_corpus::Keyed;
use quern_models::language::Texts;
use quern_recipes::Recipe;
use tch::{Device, Tensor};

use crate::error::TrainError;
use crate::language_texts::LanguageTexts;
use crate::setup::TextEncoder;
use crate::step::Batch;
use crate::step::bridge::BridgeBatch;
use crate::training::Batches;
use crate::vision::{FrozenEncoder, ImageTransform};

mod preparation;

pub use preparation::{Preparation, Prepared, PreparedBatches};

/// Threads that decode beside a training that takes the other half of the cores, at most.
const MAX_DECODERS: usize = 8;

/// How a batch's captions become what a model is fed.
pub trait Captions: Send + Sync + 'static {
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
    prepared: PreparedBatches<C::Encoded>,
    encoder: FrozenEncoder,
    remembered: HashMap<u64, Tensor>,
    device: Device,
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
        let Feed { texts, images, encoder, batch } = feed;
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let preparation = Preparation {
            recipe: recipe.clone(),
            texts,
            images,
            batch,
            rank: collective.rank(),
            ranks: collective.size(),
            decoders: (cores / 2).clamp(1, MAX_DECODERS),
        };
        let prepared = preparation.start(steps)?;
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
