//! Autoregressive generation over any step decoder: greedy, nucleus and beam search.
//!
//! Semantics are Hugging Face `generate`'s (transformers 5.17; beam search also as 4.31 scores it): lengths count BOS
//! and prompt, processors run in the order repetition penalty, minimum length, temperature, top-k, top-p, and finished
//! sequences are padded. A draw is the inverse of the filtered distribution's cumulative sum, taken in id order, at a
//! uniform that the caller keys; so a sequence depends on its own draws alone, not on what else is in the batch.

use tch::{Device, Kind, Tensor};

mod beam;
mod cache;
mod draw;
mod lanes;
mod process;
mod slots;
mod strategy;

pub use beam::{BeamOptions, BeamScore, Beams, beam};
pub use cache::{KvCache, LaneCache};
pub use lanes::Lanes;
pub use process::{Constraints, SamplingOptions, probabilities};
pub use slots::{SlotDecoder, SlotSampler, SlotShape};
pub use strategy::{GenerationOptions, Strategy};

/// A model that continues sequences. A lane is one sequence; the lanes of an image are adjacent.
pub trait StepDecoder {
    /// Feeds `ids [lanes, L]`, which follow what was fed before, and gives the logits after the last: `[lanes, vocab]`.
    /// The first call may feed many; later ones feed one.
    fn step(&mut self, ids: &Tensor) -> Tensor;
    /// Makes `copies` adjacent lanes of each lane.
    fn fork(&mut self, copies: i64);
    /// Lane `i` goes on as what was lane `lanes[i]`, a lane of the same image; `lanes` is `[lanes]` of int64.
    fn reorder(&mut self, lanes: &Tensor);
}

/// The ids that end and pad sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Ends a sequence.
    pub eos: i64,
    /// Fills a finished one; an id of the vocabulary.
    pub pad: i64,
}

impl Ends {
    /// Cuts a sequence at its first `eos`, which is dropped along with what follows.
    pub fn trim<'a>(&self, sequence: &'a [i64]) -> &'a [i64] {
        let end = sequence.iter().position(|&id| id == self.eos).unwrap_or(sequence.len());
        &sequence[..end]
    }
}

/// The most likely continuation of every prompt: `prompt [B, P] -> [B, L]`, padded, with the prompt.
pub fn greedy(decoder: &mut dyn StepDecoder, prompt: &Tensor, ends: Ends, constraints: &Constraints) -> Tensor {
    extend(decoder, prompt, 1, ends, constraints, |scores, _| scores.argmax(-1, false))
}

/// `copies` sampled continuations of every prompt: `prompt [B, P] -> [B · copies, L]`, padded, with the prompt.
///
/// `uniforms(lane, step)` is the draw in [0, 1) for the `step`-th generated token of `lane`; it must be a pure function
/// of the two, and may be asked for tokens that an early end makes unnecessary.
pub fn nucleus(
    decoder: &mut dyn StepDecoder,
    prompt: &Tensor,
    copies: i64,
    ends: Ends,
    options: &SamplingOptions,
    uniforms: &mut dyn FnMut(usize, usize) -> f64,
) -> Tensor {
    let (batch, prompt_length) = prompt.size2().expect("prompt [B, P]");
    let steps = (options.max_length - prompt_length).max(0);
    let draws = draws(uniforms, batch * copies, steps).to_device(prompt.device());
    extend(decoder, prompt, copies, ends, &options.constraints(), |scores, step| {
        draw::draw(scores, &draws.get(step), options)
    })
}

/// `[steps, lanes]`
fn draws(uniforms: &mut dyn FnMut(usize, usize) -> f64, lanes: i64, steps: i64) -> Tensor {
    let mut draws = Vec::with_capacity((steps * lanes) as usize);
    for step in 0..steps as usize {
        for lane in 0..lanes as usize {
            draws.push(uniforms(lane, step));
        }
    }
    Tensor::from_slice(&draws).view([steps, lanes])
}

/// The loop that greedy and nucleus share. `choose(scores [lanes, vocab], step) -> ids [lanes]`.
fn extend(
    decoder: &mut dyn StepDecoder,
    prompt: &Tensor,
    copies: i64,
    ends: Ends,
    constraints: &Constraints,
    choose: impl Fn(&Tensor, i64) -> Tensor,
) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let (batch, prompt_length) = prompt.size2().expect("prompt [B, P]");
    let (lanes, device) = (batch * copies, prompt.device());
    let capacity = constraints.max_length.max(prompt_length);
    let history = Tensor::full([lanes, capacity], ends.pad, (Kind::Int64, device));
    history.narrow(1, 0, prompt_length).copy_(&prompt.repeat_interleave_self_int(copies, 0, None));
    let mut open = Tensor::ones([lanes], (Kind::Bool, device));
    let mut length = prompt_length;
    let mut logits: Option<Tensor> = None;
    while length < capacity && lanes > 0 {
        let scores = match logits.take() {
            None => {
                let first = decoder.step(prompt);
                decoder.fork(copies);
                first.repeat_interleave_self_int(copies, 0, None)
            }
            Some(logits) => logits,
        };
        let scores = constraints.apply(&scores, &history.narrow(1, 0, length), ends.eos);
        let chosen = choose(&scores, length - prompt_length);
        let ids = chosen.where_scalarother(&open, ends.pad); // [lanes]
        history.select(1, length).copy_(&ids);
        length += 1;
        open = open.logical_and(&ids.ne(ends.eos));
        if length < capacity {
            if !bool::try_from(open.any()).expect("one flag") {
                break;
            }
            logits = Some(decoder.step(&ids.unsqueeze(1)));
        }
    }
    history.narrow(1, 0, length)
}

/// Indices as tensors take them: `[of]`.
pub(crate) fn indices(of: &[usize], device: Device) -> Tensor {
    Tensor::from_slice(&of.iter().map(|index| *index as i64).collect::<Vec<_>>()).to_device(device)
}

#[cfg(test)]
mod tests;
