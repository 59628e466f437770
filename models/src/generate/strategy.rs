//! One choice of how texts are searched or drawn, with LAVIS' defaults.

use tch::{Device, Tensor};

use super::{BeamOptions, BeamScore, Constraints, Ends, SamplingOptions, StepDecoder, beam, greedy, nucleus};

/// How a text is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strategy {
    /// The most likely token, one after the other.
    Greedy,
    /// The most likely text among those that beams meet.
    Beam {
        /// Beams per image.
        beams: usize,
        /// Exponent of the length that a score is divided by.
        length_penalty: f64,
        /// Which length.
        score: BeamScore,
    },
    /// Drawn from the likely tokens.
    Nucleus {
        /// The smallest set of tokens whose probability reaches this; 1 = all.
        top_p: f64,
        /// Of these many tokens at most.
        top_k: Option<i64>,
        /// Scores are divided by this.
        temperature: f64,
    },
}

/// How texts are generated. Lengths count the id that every text begins with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerationOptions {
    /// How a text is found.
    pub strategy: Strategy,
    /// The end is forbidden before this many tokens.
    pub min_length: i64,
    /// No text grows beyond this many tokens.
    pub max_length: i64,
    /// See [`Constraints::repetition_penalty`].
    pub repetition_penalty: f64,
}

impl Default for GenerationOptions {
    /// LAVIS' `Blip2OPT.generate`: 5 beams, up to 30 tokens. (Its beam search is transformers 4.31's; here it is 5.x's,
    /// see [`BeamScore`].)
    fn default() -> Self {
        GenerationOptions {
            strategy: Strategy::Beam { beams: 5, length_penalty: 1.0, score: BeamScore::default() },
            min_length: 1,
            max_length: 30,
            repetition_penalty: 1.0,
        }
    }
}

impl GenerationOptions {
    /// The texts that follow `start [B, 1]`, without it and without their end. `uniforms` is as
    /// [`nucleus`](super::nucleus) asks; other strategies draw nothing.
    pub fn generate(
        &self,
        decoder: &mut dyn StepDecoder,
        start: &Tensor,
        ends: Ends,
        uniforms: &mut dyn FnMut(usize, usize) -> f64,
    ) -> Vec<Vec<i64>> {
        let GenerationOptions { min_length, max_length, repetition_penalty, .. } = *self;
        let constraints = Constraints { min_length, max_length, repetition_penalty };
        let rows = |ids: Tensor| Vec::<Vec<i64>>::try_from(ids.to_device(Device::Cpu)).expect("ids [B, L]");
        let sequences = match self.strategy {
            Strategy::Greedy => rows(greedy(decoder, start, ends, &constraints)),
            Strategy::Beam { beams, length_penalty, score } => {
                let options = BeamOptions { beams, length_penalty, early_stopping: false, score, constraints };
                beam(decoder, start, ends, &options).sequences
            }
            Strategy::Nucleus { top_p, top_k, temperature } => {
                let options = SamplingOptions { top_p, top_k, temperature, min_length, max_length, repetition_penalty };
                rows(nucleus(decoder, start, 1, ends, &options, uniforms))
            }
        };
        sequences.iter().map(|sequence| ends.trim(&sequence[1..]).to_vec()).collect()
    }
}
