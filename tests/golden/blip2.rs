//! `blip2_prompted`: what an OPT or a T5 says about images after prompts of different lengths in one batch.

use std::collections::BTreeMap;

use anyhow::ensure;
use quern_models::blip2::Writer;
use quern_models::generate::{BeamScore, GenerationOptions, Strategy};
use quern_models::language;
use quern_models::qformer::{Bridge, BridgeConfig, Dropout, Projection, QFormerConfig};
use quern_models::t5::T5Gelu;
use quern_models::tokenize::Tokenizer;
use tch::{Device, Kind, Tensor};

use crate::case::Case;
use crate::checks::{Checks, Tolerance};

/// What follows the end in the expected ids.
const OVER: i64 = -1;

/// Checks a case.
pub fn check(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let config = BridgeConfig {
        qformer: case.value::<QFormerConfig>("qformer")?,
        projection: case.value::<Projection>("projection")?,
        language_width: case.value("language_width")?,
    };
    let bridge = Bridge::from_weights(&case.weights()?, &config)?;
    let folder = case.folder.join("language_model");
    let language_model = language::load(&folder, Device::Cpu, Kind::Float, T5Gelu::Config)?;
    let writer = Writer { language_model: &*language_model, tokenizer: &Tokenizer::load(&folder)? };
    let visual = tch::no_grad(|| Ok::<_, anyhow::Error>(bridge.visual_tokens(case.input("features")?, &Dropout::OFF)))?;
    let prompts: Vec<String> = case.value("prompts")?;
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let texts: BTreeMap<String, Vec<String>> = case.value("texts")?;
    let beam = Strategy::Beam { beams: case.value("num_beams")?, length_penalty: 1.0, score: BeamScore::Generated };
    for (name, strategy) in [("greedy", Strategy::Greedy), ("beam", beam)] {
        let options =
            GenerationOptions { strategy, max_length: case.value("max_length")?, ..GenerationOptions::default() };
        let tensor = format!("{name}_ids");
        let expected = checks.expected(&tensor)?;
        let ids = writer.ids(&visual, &prompts, &options, &mut |_, _| 0.0)?;
        checks.compare_with(&tensor, &padded(&ids, expected.size()[1]), expected, Tolerance::Exact)?;
        let written = writer.write(&visual, &prompts, &options, &mut |_, _| 0.0)?;
        ensure!(texts.get(name) == Some(&written), "{name}: {written:?} instead of {:?}", texts.get(name));
    }
    Ok(())
}

/// Rows of ids filled up to `length` (or to the longest, if that is longer).
fn padded(rows: &[Vec<i64>], length: i64) -> Tensor {
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0).max(length as usize);
    let filled: Vec<i64> =
        rows.iter().flat_map(|row| row.iter().copied().chain([OVER].repeat(longest - row.len()))).collect();
    Tensor::from_slice(&filled).view([rows.len() as i64, longest as i64])
}
