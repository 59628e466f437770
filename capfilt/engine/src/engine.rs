//! Captioner and ranker on a device, for the rows of shards.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use quern_capfilt::{PartRow, RowOutcome, model_digests, panic_message};
use quern_corpus::reader::RawRow;
use quern_recipes::{CapFilt, ImageLimits};
use tch::Device;

use crate::EngineError;
use crate::captioner::Captioner;
use crate::flow::Flow;
use crate::pixels::Trial;
use crate::ranker::Ranker;

/// Captioner and ranker on a device. It may be shared between threads; they take turns.
pub struct Engine {
    models: Mutex<Models>,
    pub(crate) config: CapFilt,
    pub(crate) limits: ImageLimits,
    pub(crate) seed: u64,
    pub(crate) device: Device,
    digests: BTreeMap<String, String>,
    captions: AtomicU64,
    tokens: AtomicU64,
}

/// What is loaded.
pub(crate) struct Models {
    pub captioner: Captioner,
    pub ranker: Ranker,
}

/// How much was written so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Captions.
    pub captions: u64,
    /// Their tokens, without BOS, prompt and end.
    pub tokens: u64,
}

impl Engine {
    /// Loads the recipe's models, each in its precision.
    ///
    /// # Errors
    /// When a file of a model is missing or broken, or a model and the recipe don't fit together.
    pub fn load(config: &CapFilt, limits: &ImageLimits, seed: u64, device: Device) -> Result<Self, EngineError> {
        let captioner = Captioner::load(config, device)?;
        let ranker = Ranker::load(config, device)?;
        Ok(Engine {
            digests: model_digests(&captioner.folder, &ranker.folder)?,
            models: Mutex::new(Models { captioner, ranker }),
            config: config.clone(),
            limits: *limits,
            seed,
            device,
            captions: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
        })
    }

    /// BLAKE3 of the models' files, as [`quern_capfilt::model_digests`] gives them.
    pub fn model_digests(&self) -> &BTreeMap<String, String> {
        &self.digests
    }

    /// How much was written since the models were loaded.
    pub fn written(&self) -> Written {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Written { captions: read(&self.captions), tokens: read(&self.tokens) }
    }

    /// What becomes of a shard's rows, shown to `each` in their order. `rows` are all of the shard's `count` rows: images are
    /// decoded on threads of their own, some groups of `batch_images` rows ahead, and a row's result may depend on what
    /// else is in the shard, but for rounding not on more than the row.
    ///
    /// Each image is first put to `trial`. Once `stop` is raised, it returns without the rest.
    ///
    /// # Errors
    /// Only when the device fails. A row that fails is quarantined.
    pub fn run_shard(
        &self,
        rows: impl Iterator<Item = RawRow> + Send,
        count: usize,
        trial: Trial<'_>,
        stop: &AtomicBool,
        mut each: impl FnMut(PartRow),
    ) -> Result<(), EngineError> {
        // The models are only read: a panic in another thread leaves them as they were.
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let flow = Flow::new(self, &models, count);
        let run = || flow.run(rows, trial, stop, &mut each);
        catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
            let device = format!("{:?}", self.device);
            EngineError::Device { device, reason: panic_message(&*panic) }
        })
    }

    /// As [`run_shard`](Engine::run_shard), of rows that are all there.
    ///
    /// # Errors
    /// As there.
    pub fn run_rows(&self, rows: Vec<RawRow>) -> Result<Vec<PartRow>, EngineError> {
        let mut done = Vec::with_capacity(rows.len());
        let count = rows.len();
        self.run_shard(rows.into_iter(), count, &|_| Ok(()), &AtomicBool::new(false), |row| done.push(row))?;
        Ok(done)
    }

    /// Counts an image's captions.
    pub(crate) fn count(&self, captions: &[Vec<i64>]) {
        self.captions.fetch_add(captions.len() as u64, Ordering::Relaxed);
        self.tokens.fetch_add(captions.iter().map(|ids| ids.len() as u64).sum(), Ordering::Relaxed);
    }

    pub(crate) fn part_row(&self, row: RawRow, outcome: RowOutcome) -> PartRow {
        let is_kept = matches!(outcome, RowOutcome::Kept { .. });
        let image = row.image.filter(|_| is_kept && self.config.embed_images.is_on());
        PartRow { id: row.id, key: row.key, outcome, image }
    }
}
