//! The step's keyed dropout: a key per lane, by (seed, row, pass, step).

use quern_corpus::{Keyed, Purpose};
use quern_models::qformer::{Dropout, QFormer};

use super::mining::Mining;
use super::texts::GlobalTexts;
use super::{Batch, StepOptions};

/// The step's keyed dropout.
pub struct Noise<'a> {
    pub model: &'a QFormer,
    pub batch: &'a Batch,
    pub options: &'a StepOptions,
}

/// What a dropout key is for; distinct passes never share a mask.
#[derive(Clone, Copy)]
pub enum Stream {
    Queries = 0,
    Text = 1,
    Language = 2,
    Pair = 3,
    NegativeImage = 4,
    NegativeText = 5,
    /// Stage 2's one pass.
    Visual = 6,
}

impl Noise<'_> {
    fn key(&self, row: u64, stream: Stream) -> u64 {
        Keyed::new(self.options.seed, row, Purpose::Dropout, self.options.step).bits(stream as u64)
    }

    /// One key per row of the batch.
    pub fn of_rows(&self, stream: Stream) -> Dropout {
        Dropout::keyed(&self.model.config, self.batch.rows.iter().map(|&row| self.key(row, stream)).collect())
    }

    /// A matching example is known by its image's and its text's row.
    pub fn of_pairs(&self, texts: &GlobalTexts, mining: &Mining) -> Dropout {
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
