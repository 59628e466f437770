//! Captions from the stage-1 model: the language pass token by token (LAVIS `Blip2Qformer.generate`).
//!
//! The queries' keys and values are computed once; text follows them in the cache, as in training.

use tch::{Kind, Tensor};

use crate::generate::StepDecoder;

use super::bert::{KeyValues, Pass};
use super::{Dropout, ImageMemory, QFormer};

/// The language pass as a decoder that remembers what it was fed; one lane per image at first.
pub struct Captioning<'a> {
    model: &'a QFormer,
    past: Vec<KeyValues>,
    position: i64,
}

impl QFormer {
    /// A decoder over `images`; its sequences begin with `[DEC]` and end with `[SEP]`.
    pub fn captioning(&self, images: &ImageMemory) -> Captioning<'_> {
        let past = tch::no_grad(|| self.queries(images, &Dropout::OFF).past);
        Captioning { model: self, past, position: 0 }
    }
}

impl StepDecoder for Captioning<'_> {
    fn step(&mut self, ids: &Tensor) -> Tensor {
        let length = ids.size()[1];
        let queries = self.model.config.num_query_token;
        let seen = queries + self.position;
        let bools = (Kind::Bool, ids.device());
        let visible =
            Tensor::cat(&[Tensor::ones([length, seen], bools), Tensor::ones([length, length], bools).tril(0)], 1);
        let (bert, dropout) = (&self.model.bert, Dropout::OFF);
        let embedded = bert.embed(Some(ids), None, self.position, &dropout);
        let pass = Pass { visible: Some(&visible), past: Some(&self.past), ..Pass::new(&dropout) };
        let (hidden, past) = bert.encode(embedded, &pass);
        self.past = past;
        self.position += length;
        self.model.language_logits(&hidden.select(1, length - 1))
    }

    fn fork(&mut self, copies: i64) {
        if copies > 1 {
            let lanes = Tensor::arange(self.past[0].key.size()[0], (Kind::Int64, self.model.device()));
            self.reorder(&lanes.repeat_interleave_self_int(copies, 0, None));
        }
    }

    fn reorder(&mut self, lanes: &Tensor) {
        self.past = self.past.iter().map(|block| block.select(lanes)).collect();
    }
}
