//! How texts are generated, as it is said at the terminal. Defaults are those of LAVIS' `generate`.

use clap::Args;
use quern_models::generate::{BeamScore, GenerationOptions, Strategy};

/// Options of generation.
#[derive(Debug, Clone, Copy, PartialEq, Args)]
#[command(next_help_heading = "Generation")]
pub struct GenerationArguments {
    /// Beams of the beam search.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=64))]
    beams: u16,
    /// Takes the most likely token each time, without beams.
    #[arg(long, conflicts_with_all = ["beams", "sample"])]
    greedy: bool,
    /// Draws tokens (nucleus sampling), without beams.
    #[arg(long, conflicts_with = "beams")]
    sample: bool,
    /// With --sample: from the likeliest tokens that together reach this probability.
    #[arg(long, default_value_t = 0.9, value_parser = probability)]
    top_p: f64,
    /// With --sample: from this many tokens at most; none: no limit (transformers silently takes 50).
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    top_k: Option<i64>,
    /// With --sample: scores are divided by this.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    temperature: f64,
    /// Exponent of the length that a beam's score is divided by (LAVIS answers questions with 0 for OPT, -1 for T5).
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    length_penalty: f64,
    /// Divides beams' scores by the length that LAVIS' transformers 4.31 takes, start counted and end not; without it by
    /// the generated tokens, as transformers 5 does.
    #[arg(long)]
    full_length_score: bool,
    /// Tokens at most. OPT's BOS counts, T5's start does not, as in LAVIS.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(i64).range(2..=4096))]
    max_length: i64,
    /// Tokens at least, the start counted.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i64).range(0..=4096))]
    min_length: i64,
    /// Scores of tokens that already occur are divided by this where positive, multiplied where negative.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    repetition_penalty: f64,
    /// Seed of what --sample draws; each image's draws are keyed by its name or row.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl GenerationArguments {
    /// What they mean.
    pub fn options(&self) -> GenerationOptions {
        let GenerationArguments { top_p, top_k, temperature, length_penalty, .. } = *self;
        let strategy = if self.sample {
            Strategy::Nucleus { top_p, top_k, temperature }
        } else if self.greedy {
            Strategy::Greedy
        } else {
            let score = if self.full_length_score { BeamScore::FullLength } else { BeamScore::Generated };
            Strategy::Beam { beams: self.beams.into(), length_penalty, score }
        };
        GenerationOptions {
            strategy,
            min_length: self.min_length,
            max_length: self.max_length,
            repetition_penalty: self.repetition_penalty,
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (number.is_finite() && number > 0.0).then_some(number).ok_or_else(|| "not above 0".to_owned())
}

fn probability(text: &str) -> Result<f64, String> {
    positive(text).and_then(|number| if number <= 1.0 { Ok(number) } else { Err("above 1".to_owned()) })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        generation: GenerationArguments,
    }

    fn options(line: &[&str]) -> Result<GenerationOptions, clap::Error> {
        Ok(Line::try_parse_from([&["caption"], line].concat())?.generation.options())
    }

    #[test]
    fn nothing_said_is_lavis_default() {
        assert_eq!(options(&[]).unwrap(), GenerationOptions::default());
    }

    #[test]
    fn strategies_are_chosen_and_exclude_each_other() {
        assert_eq!(options(&["--greedy"]).unwrap().strategy, Strategy::Greedy);
        let nucleus = options(&["--sample", "--top-p", "0.5", "--top-k", "7"]).unwrap().strategy;
        assert_eq!(nucleus, Strategy::Nucleus { top_p: 0.5, top_k: Some(7), temperature: 1.0 });
        let answers = options(&["--beams", "3", "--length-penalty", "-1", "--full-length-score"]).unwrap().strategy;
        assert_eq!(answers, Strategy::Beam { beams: 3, length_penalty: -1.0, score: BeamScore::FullLength });
        for wrong in
            [&["--greedy", "--sample"][..], &["--greedy", "--beams", "2"], &["--top-p", "1.5"], &["--beams", "0"]]
        {
            assert!(options(wrong).is_err(), "{wrong:?}");
        }
    }
}
