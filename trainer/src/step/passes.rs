//! The language pass and the matching pass's rows.

use quern_models::qformer::{Dropout, ImageMemory, KeyValues, Outputs, QFormer};
use tch::{Kind, Tensor};

use crate::objectives::language;

use super::Batch;
use super::groups::{Group, Lanes};
use super::mining::Mining;
use super::texts::GlobalTexts;

/// ITG's pass over the local texts. States, logits and labels are those of the last group: of all, if it is one.
pub struct LanguagePass {
    /// Cross-entropy, summed over the tokens that count, `[]`.
    pub loss_sum: Tensor,
    /// Last hidden states, `[b, l, D]`.
    pub hidden: Tensor,
    /// Logits: `[b, l - 1, vocabulary]` if all positions are computed, else `[tokens that count, vocabulary]`.
    pub logits: Tensor,
    /// Their targets.
    pub labels: Tensor,
}

impl LanguagePass {
    pub fn run(model: &QFormer, texts: &Lanes, past: &[KeyValues], decoder_start: i64, dropout: &Dropout) -> Self {
        let passes = texts.groups().iter().map(|group| {
            let input = language::decoder_input(&group.ids, decoder_start);
            let past: Vec<KeyValues> = past.iter().map(|block| block.select(&group.index)).collect();
            let hidden = model.language(&input, &group.mask, &past, &dropout.select(&group.lanes));
            Self::of(model, group, hidden, texts.is_whole())
        });
        let add = |sum: Self, next: Self| LanguagePass { loss_sum: sum.loss_sum + &next.loss_sum, ..next };
        passes.reduce(add).expect("at least one group")
    }

    /// Logits are the widest tensor of a step: where not all are wanted, only those of tokens that count are computed.
    fn of(model: &QFormer, group: &Group, hidden: Tensor, all_logits: bool) -> Self {
        let predicting = hidden.narrow(1, 0, group.ids.size()[1] - 1);
        let labels = language::labels(&group.ids, &group.mask);
        let (predicting, labels) = match all_logits {
            true => (predicting, labels),
            false => {
                let labels = labels.flatten(0, 1);
                let counting = labels.ne(language::IGNORED).nonzero().squeeze_dim(1);
                (predicting.flatten(0, 1).index_select(0, &counting), labels.index_select(0, &counting))
            }
        };
        let logits = model.language_logits(&predicting);
        LanguagePass { loss_sum: language::loss_sum(&logits, &labels), hidden, logits, labels }
    }
}

/// Which image each lane of the matching pass looks at.
pub struct Shown {
    /// The local images, then their texts' negatives: `2 B`.
    images: ImageMemory,
    /// For every lane, an index into them, `[3 B]`.
    choice: Tensor,
}

impl Shown {
    /// The images that the lanes of `group` look at.
    pub fn of(&self, group: &Group) -> ImageMemory {
        self.images.select(&self.choice.index_select(0, &group.index))
    }
}

/// The matching pass's lanes: pairs, then texts with a negative image, then images with a negative text.
pub fn matching_lanes(
    batch: &Batch,
    own: ImageMemory,
    negative: ImageMemory,
    texts: &GlobalTexts,
    mining: &Mining,
    outputs: Outputs,
) -> (Lanes, Shown) {
    let rows = batch.rows.len() as i64;
    let device = batch.ids.device();
    let chosen = Tensor::from_slice(&mining.texts).to_device(device);
    let tripled = |own: &Tensor, all: &Tensor| Tensor::cat(&[own, own, &all.index_select(0, &chosen)], 0);
    let own_lengths = &texts.lengths[texts.place.rows()];
    let drawn_lengths = mining.texts.iter().map(|&text| texts.lengths[text as usize]);
    let lengths: Vec<i64> = own_lengths.iter().chain(own_lengths).copied().chain(drawn_lengths).collect();
    let (ids, mask) = (tripled(&batch.ids, &texts.ids), tripled(&batch.mask, &texts.mask));
    let local = Tensor::arange(rows, (Kind::Int64, device));
    let choice = Tensor::cat(&[&local, &(&local + rows), &local], 0);
    let shown = Shown { images: ImageMemory::cat(&[&own, &negative]), choice };
    (Lanes::new(&ids, &mask, &lengths, outputs), shown)
}
