//! BLIP-2's instructed generation (arXiv 2301.12597 §4.1): a frozen language model goes on from an image's visual tokens
//! and a prompt, as `generate` of LAVIS' `blip2_opt.py` and `blip2_t5.py`.
//!
//! Prompts of different lengths share a batch: OPT's are padded on the left, so that every text begins right behind its
//! prompt; T5's stand in the encoder, padded on the right.

use tch::{Kind, Tensor};

use crate::generate::{Ends, GenerationOptions};
use crate::language::{Family, LanguageModel, Prompt};
use crate::tokenize::{Padding, Tokenizer};

/// Ends a caption that an OPT writes.
const NEWLINE: &str = "\n";

/// A prompt that the model has no room for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the prompt {prompt:?} has {tokens} tokens; with {visual} visual tokens and up to {generated} generated ones that \
     exceeds the language model's {longest} positions: shorten the prompt or lower the longest text"
)]
pub struct PromptTooLong {
    /// Its beginning.
    pub prompt: String,
    /// Its tokens.
    pub tokens: i64,
    /// Visual tokens per image.
    pub visual: i64,
    /// Tokens that may be generated.
    pub generated: i64,
    /// The language model's positions.
    pub longest: i64,
}

/// A frozen language model with its tokenizer, which writes about images.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    /// The language model.
    pub language_model: &'a dyn LanguageModel,
    /// Its own tokenizer.
    pub tokenizer: &'a Tokenizer,
}

impl Writer<'_> {
    /// What the model says about each image, given its `visual` tokens `[B, Q, W]` and its prompt; `uniforms` is as
    /// [`nucleus`](crate::generate::nucleus) asks.
    ///
    /// # Errors
    /// When a prompt is too long.
    pub fn write(
        &self,
        visual: &Tensor,
        prompts: &[&str],
        options: &GenerationOptions,
        uniforms: &mut dyn FnMut(usize, usize) -> f64,
    ) -> Result<Vec<String>, PromptTooLong> {
        let texts = self.ids(visual, prompts, options, uniforms)?;
        Ok(texts.iter().map(|ids| self.tokenizer.decode(ids).trim().to_string()).collect())
    }

    /// As [`write`](Writer::write), in token ids without the end.
    ///
    /// # Errors
    /// When a prompt is too long.
    pub fn ids(
        &self,
        visual: &Tensor,
        prompts: &[&str],
        options: &GenerationOptions,
        uniforms: &mut dyn FnMut(usize, usize) -> f64,
    ) -> Result<Vec<Vec<i64>>, PromptTooLong> {
        let model = self.language_model;
        prompts.iter().try_for_each(|prompt| self.check(visual.size()[1], prompt, options))?;
        let padding = match model.family() {
            Family::Opt => Padding::LongestLeft,
            Family::T5 => Padding::Longest,
        };
        let (ids, mask) = self.tokenizer.encode_padded(prompts, usize::MAX, padding);
        let prompt = Prompt { ids: ids.to_device(model.device()), mask: mask.to_device(model.device()) };
        let generated = self.generated(options);
        let mut decoder = model.decoder(visual, &prompt, generated);
        let start = Tensor::full([prompts.len() as i64, 1], model.start(), (Kind::Int64, model.device()));
        let options = GenerationOptions { max_length: generated + 1, ..*options };
        Ok(options.generate(&mut *decoder, &start, self.ends(), uniforms))
    }

    /// OPT's captions end with a newline, T5's with its own end.
    pub fn ends(&self) -> Ends {
        let model = self.language_model;
        let eos = match model.family() {
            Family::Opt => *self.tokenizer.encode(NEWLINE, usize::MAX).last().expect("a newline is a token"),
            Family::T5 => model.eos(),
        };
        Ends { eos, pad: model.pad() }
    }

    /// Whether a prompt has room beside `queries` visual tokens and what is generated.
    ///
    /// # Errors
    /// When it has not.
    pub fn check(&self, queries: i64, prompt: &str, options: &GenerationOptions) -> Result<(), PromptTooLong> {
        let Some(longest) = self.language_model.longest() else { return Ok(()) };
        let tokens = self.tokenizer.encode(prompt, usize::MAX).len() as i64;
        let generated = self.generated(options);
        // the last token is never fed
        match queries + tokens + (generated - 1).max(0) > longest {
            true => {
                let prompt = prompt.chars().take(40).collect();
                Err(PromptTooLong { prompt, tokens, visual: queries, generated, longest })
            }
            false => Ok(()),
        }
    }

    /// The most tokens that are generated: LAVIS gives OPT a `max_length`, which counts BOS, and T5 a number of new
    /// tokens.
    fn generated(&self, options: &GenerationOptions) -> i64 {
        match self.language_model.family() {
            Family::Opt => options.max_length - 1,
            Family::T5 => options.max_length,
        }
    }
}
