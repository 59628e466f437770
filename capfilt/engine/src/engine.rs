//! A shard's rows through captioner and ranker, chunk by chunk.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use quern_capfilt::{Candidate, PartRow, RowOutcome, Source, Stage, distinct, model_digests, select};
use quern_corpus::reader::RawRow;
use quern_models::preprocessor::PreprocessorConfig;
use quern_recipes::{CapFilt, ImageLimits};
use tch::{Device, Tensor};
use tracing::info_span;

use crate::EngineError;
use crate::captioner::{Captioner, Written};
use crate::pixels::{decode_rows, evaluation};
use crate::ranker::Ranker;

/// Captioner and ranker on a device. It may be shared between threads; they take turns.
pub struct Engine {
    models: Mutex<Models>,
    config: CapFilt,
    limits: ImageLimits,
    seed: u64,
    device: Device,
    digests: BTreeMap<String, String>,
}

struct Models {
    captioner: Captioner,
    ranker: Ranker,
}

/// An image as the two models see it: `[3, S, S]` each.
struct Pixels {
    captioner: Vec<f32>,
    ranker: Vec<f32>,
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
        })
    }

    /// BLAKE3 of the models' files, as [`quern_capfilt::model_digests`] gives them.
    pub fn model_digests(&self) -> &BTreeMap<String, String> {
        &self.digests
    }

    /// How much was written since the models were loaded.
    pub fn written(&self) -> Written {
        self.models.lock().unwrap_or_else(PoisonError::into_inner).captioner.written()
    }

    /// What becomes of the rows, in order. `rows` are a shard's rows from the first one or from a multiple of
    /// `batch_images` on: they are cut into chunks of that many, and a row's result may depend on its place in its chunk
    /// and on the chunk's length, but not on what the other rows hold.
    ///
    /// # Errors
    /// Only when the device fails. A row that fails is quarantined.
    pub fn run_rows(&self, rows: Vec<RawRow>) -> Result<Vec<PartRow>, EngineError> {
        let chunk_rows = (self.config.batch_images as usize).max(1);
        // The models are only read: a panic in another thread leaves them as they were.
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = Vec::with_capacity(rows.len());
        for chunk in rows.chunks(chunk_rows) {
            let outcomes = catch_unwind(AssertUnwindSafe(|| self.run_chunk(&models, chunk)));
            let outcomes = outcomes.map_err(|panic| {
                let device = format!("{:?}", self.device);
                EngineError::Device { device, reason: panic_message(&*panic) }
            })?;
            done.extend(chunk.iter().zip(outcomes).map(|(row, outcome)| self.part_row(row, outcome)));
        }
        Ok(done)
    }

    fn part_row(&self, row: &RawRow, outcome: RowOutcome) -> PartRow {
        let is_kept = matches!(outcome, RowOutcome::Kept { .. });
        let image = row.image.clone().filter(|_| is_kept && self.config.embed_images);
        PartRow { id: row.id.clone(), key: row.key.clone(), outcome, image }
    }

    /// A chunk's outcomes. Every row has a lane, whether it can be decoded or not.
    fn run_chunk(&self, models: &Models, rows: &[RawRow]) -> Vec<RowOutcome> {
        let Models { captioner, ranker } = models;
        let (for_captioner, for_ranker) = (evaluation(&captioner.preprocessor), evaluation(&ranker.preprocessor));
        let decoding = info_span!("decode", rows = rows.len() as i64).entered();
        let decoded = decode_rows(rows, &self.limits, |image| Pixels {
            captioner: for_captioner.apply(image).1,
            ranker: for_ranker.apply(image).1,
        });
        drop(decoding);
        if decoded.iter().all(Result::is_err) {
            return decoded.into_iter().filter_map(Result::err).collect();
        }
        let lanes = |of: fn(&Pixels) -> &[f32]| decoded.iter().map(move |pixels| pixels.as_ref().ok().map(of));
        let captioner_pixels = self.batch(&captioner.preprocessor, lanes(|pixels| &pixels.captioner));
        let ranker_pixels = self.batch(&ranker.preprocessor, lanes(|pixels| &pixels.ranker));
        let key = |(row, pixels): (&RawRow, &Result<Pixels, _>)| pixels.is_ok().then(|| row.id.key());
        let keys: Vec<Option<u64>> = rows.iter().zip(&decoded).map(key).collect();

        let captions = info_span!("caption", rows = rows.len() as i64)
            .in_scope(|| captioner.caption(&captioner_pixels, &keys, self.seed));
        let _ranking = info_span!("rank", rows = rows.len() as i64).entered();
        let image_embeds = ranker.embed_images(&ranker_pixels); // [B, E]
        let lanes = decoded.into_iter().zip(captions).zip(rows).zip(0..);
        lanes
            .map(|(((decoded, written), row), lane)| match decoded {
                Ok(_) => self.rank(ranker, &image_embeds.narrow(0, lane, 1), written, row.caption.as_deref()),
                Err(failed) => failed,
            })
            .collect()
    }

    /// Images as one tensor, `[B, 3, S, S]`; an empty lane is zeros.
    fn batch<'a>(&self, preprocessor: &PreprocessorConfig, lanes: impl Iterator<Item = Option<&'a [f32]>>) -> Tensor {
        let (width, height) = preprocessor.output_size();
        let lane_len = 3 * width as usize * height as usize;
        let mut pixels = Vec::new();
        for lane in lanes {
            match lane {
                Some(lane) => pixels.extend_from_slice(lane),
                None => pixels.resize(pixels.len() + lane_len, 0.0),
            }
        }
        Tensor::from_slice(&pixels).view([-1, 3, i64::from(height), i64::from(width)]).to_device(self.device)
    }

    /// Ranks the written captions and the web caption of one image, `image_embed [1, E]`.
    fn rank(&self, ranker: &Ranker, image_embed: &Tensor, written: Vec<String>, web: Option<&str>) -> RowOutcome {
        let named = candidates(written, web);
        if named.is_empty() {
            let detail = "every written caption is empty, and so is the web caption";
            return RowOutcome::quarantined(Stage::Caption, "no_caption", detail);
        }
        let texts: Vec<&str> = named.iter().map(|(text, ..)| text.as_str()).collect();
        let scores = ranker.similarities(image_embed, &texts);
        if let Some((text, score)) = texts.iter().zip(&scores).find(|(_, score)| !score.is_finite()) {
            let detail = format!("the similarity of “{text}” is {score}");
            return RowOutcome::quarantined(Stage::Rank, "score_not_finite", detail);
        }
        let scored = |((text, source, index), score)| Candidate { text, source, score, index };
        let candidates: Vec<Candidate> = named.into_iter().zip(scores).map(scored).collect();
        let kept = select(&candidates, self.config.keep as usize);
        RowOutcome::Kept { candidates, kept }
    }
}

/// The distinct captions of an image with source and index: the written ones, and the web caption as the last. Blank ones
/// are no captions.
fn candidates(written: Vec<String>, web: Option<&str>) -> Vec<(String, Source, u32)> {
    let web_index = written.len() as u32;
    let written = written.into_iter().zip(0..).map(|(text, index)| (text, Source::Synthetic, index));
    let web = web.map(|text| (text.to_owned(), Source::Web, web_index));
    let all: Vec<_> = written.chain(web).filter(|(text, ..)| !text.trim().is_empty()).collect();
    let texts: Vec<&str> = all.iter().map(|(text, ..)| text.as_str()).collect();
    distinct(&texts).into_iter().map(|at| all[at].clone()).collect()
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_web_caption_is_the_last_candidate() {
        let written = vec!["a".to_owned(), "b".to_owned()];
        let with_web = candidates(written.clone(), Some("c"));
        assert_eq!(with_web.last(), Some(&("c".to_owned(), Source::Web, 2)));
        for none in [None, Some(""), Some(" \n")] {
            assert_eq!(candidates(written.clone(), none).len(), 2);
        }
    }

    #[test]
    fn equal_texts_are_one_candidate_under_the_first_index() {
        let written = vec!["a".to_owned(), "b".to_owned(), "a".to_owned(), String::new(), "c".to_owned()];
        let found = candidates(written, Some("b"));
        let synthetic = |text: &str, index| (text.to_owned(), Source::Synthetic, index);
        assert_eq!(found, [synthetic("a", 0), synthetic("b", 1), synthetic("c", 4)]);
    }
}
