//! Nucleus sampling on the processor: tokens are drawn lane by lane, and sequences that have ended leave the batch.

use tch::{Kind, Tensor};

use super::draw::draw_all;
use super::process::{SamplingOptions, probabilities};
use super::{Ends, StepDecoder};

/// Lanes that have ended leave once they are this share of those that are computed: leaving costs a copy of the caches.
const LEAVING: f64 = 0.2;

/// As [`nucleus`](super::nucleus), for tensors on the processor.
pub(super) fn nucleus(
    decoder: &mut dyn StepDecoder,
    prompt: &Tensor,
    copies: i64,
    ends: Ends,
    options: &SamplingOptions,
    uniforms: &mut dyn FnMut(usize, usize) -> f64,
) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let prompts: Vec<Vec<i64>> = Vec::try_from(prompt).expect("ids [B, P]");
    let prompt_length = prompt.size()[1] as usize;
    let mut sequences: Vec<Vec<i64>> =
        prompts.into_iter().flat_map(|ids| std::iter::repeat_n(ids, copies as usize)).collect();
    let capacity = (options.max_length as usize).max(prompt_length);
    // Top-p is the drawing's part.
    let before_top_p = SamplingOptions { top_p: 1.0, ..*options };
    // The sequences that the decoder holds, in its order, and whether each goes on.
    let mut held: Vec<(usize, bool)> = (0..sequences.len()).map(|sequence| (sequence, true)).collect();
    let mut logits = None;
    for length in prompt_length..capacity {
        if held.iter().all(|(_, open)| !open) {
            break;
        }
        let next = logits.take().unwrap_or_else(|| {
            let first = decoder.step(prompt);
            decoder.fork(copies);
            first.repeat_interleave_self_int(copies, 0, None)
        });
        let scores = options.constraints().apply(&next, &rows(&sequences, &held, length, ends), ends.eos);
        let open = || held.iter().enumerate().filter(|(_, (_, open))| *open);
        let step = length - prompt_length;
        let draws: Vec<_> = open().map(|(lane, (sequence, _))| (lane, uniforms(*sequence, step))).collect();
        let ids = draw_all(&probabilities(&before_top_p.filter(&scores)), &draws, options.top_p);
        for ((lane, _), id) in draws.into_iter().zip(ids) {
            sequences[held[lane].0].push(id);
            held[lane].1 = id != ends.eos;
        }
        if length + 1 < capacity {
            let_go(decoder, &mut held);
            let last = rows(&sequences, &held, length + 1, ends).narrow(1, length as i64, 1);
            logits = (!held.is_empty()).then(|| decoder.step(&last));
        }
    }
    let length = sequences.iter().map(Vec::len).max().unwrap_or(prompt_length);
    let all: Vec<_> = (0..sequences.len()).map(|sequence| (sequence, true)).collect();
    rows(&sequences, &all, length, ends)
}

/// The ids of the held sequences, padded: `[held, length]`.
fn rows(sequences: &[Vec<i64>], held: &[(usize, bool)], length: usize, ends: Ends) -> Tensor {
    let mut ids = Vec::with_capacity(held.len() * length);
    for (row, (sequence, _)) in held.iter().enumerate() {
        ids.extend(&sequences[*sequence]);
        ids.resize((row + 1) * length, ends.pad);
    }
    Tensor::from_slice(&ids).to_kind(Kind::Int64).view([held.len() as i64, length as i64])
}

/// Lets the sequences that have ended leave, where they are many and the decoder can go on without them.
fn let_go(decoder: &mut dyn StepDecoder, held: &mut Vec<(usize, bool)>) {
    let open: Vec<i64> = (0..).zip(&*held).filter(|(_, (_, open))| *open).map(|(lane, _)| lane).collect();
    let ended = held.len() - open.len();
    let is_worth_it = ended as f64 >= LEAVING * held.len() as f64 && ended > 0;
    if is_worth_it && (open.is_empty() || decoder.keep(&open)) {
        held.retain(|(_, open)| *open);
    }
}
