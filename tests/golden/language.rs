//! `opt_lm`, `t5_lm`: a frozen language model after visual tokens, from its folder: loss with its gradient, computed both
//! ways, and what it says after prompts of different lengths.

use quern_models::generate::{BeamOptions, BeamScore, Constraints, Ends, beam, greedy};
use quern_models::language::{self, Family, IGNORED, LanguageModel, LossOptions, Prompt, Texts};
use quern_models::t5::T5Gelu;
use tch::{Device, Kind, Tensor};

use crate::case::Case;
use crate::checks::{Checks, Tolerance};

/// Beam scores sum some ten log-probabilities.
const SCORES: Tolerance = Tolerance::Elements { rel: 1e-4, abs: 1e-4 };

/// How far logits and gradient may be off in fp32: as in the stage-2 goldens.
fn tolerances(family: Family) -> [(&'static str, Tolerance); 2] {
    let (logits, gradient) = match family {
        Family::Opt => (2e-4, 1e-4),
        Family::T5 => (1e-3, 5e-4),
    };
    [
        ("logits", Tolerance::Elements { rel: 0.0, abs: logits }),
        ("gradient", Tolerance::Norm { rel: gradient, abs: 0.0 }),
    ]
}

/// Checks a case.
pub fn check(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let kind = case.kind()?;
    let model = language::load(&case.folder.join("model"), Device::Cpu, kind, T5Gelu::Config)?;
    loss(case, checks, &*model)?;
    if kind == Kind::Float { searches(case, checks, &*model) } else { Ok(()) }
}

fn loss(case: &Case, checks: &mut Checks, model: &dyn LanguageModel) -> anyhow::Result<()> {
    let input = |name: &str| case.input(name).map(Tensor::shallow_clone);
    let texts = Texts { ids: input("ids")?, mask: input("mask")?, labels: input("labels")? };
    let visual = input("visual")?;
    let (batch, queries, ints) = (visual.size()[0], visual.size()[1], (Kind::Int64, Device::Cpu));
    // what stands in padding's place means nothing, and is left out there too
    let real = match model.family() {
        Family::Opt => Tensor::cat(&[Tensor::ones([batch, queries], ints), texts.mask.shallow_clone()], 1),
        Family::T5 => texts.labels.ne(IGNORED).to_kind(Kind::Int64),
    };
    for recompute in [false, true] {
        let found = model.loss(&visual, &texts, LossOptions { recompute, probes: true });
        let logits = found.logits.expect("asked for") * real.unsqueeze(-1);
        checks.loss("loss", &(found.sum / found.targets as f64))?;
        let values = [logits, found.gradient / found.targets as f64];
        for ((name, tolerance), value) in tolerances(model.family()).into_iter().zip(&values) {
            match model.kind() {
                Kind::Float => checks.compare(name, value, tolerance)?,
                _ => checks.states(name, value)?,
            }
        }
    }
    Ok(())
}

fn searches(case: &Case, checks: &mut Checks, model: &dyn LanguageModel) -> anyhow::Result<()> {
    let visual = case.input("visual")?;
    let prompt =
        Prompt { ids: case.input("prompt")?.shallow_clone(), mask: case.input("prompt_mask")?.shallow_clone() };
    let (new_tokens, shortest): (i64, i64) = (case.value("new_tokens")?, case.value("min_new_tokens")?);
    // the first id is counted, but not said
    let constraints = Constraints { min_length: shortest + 1, max_length: new_tokens + 1, repetition_penalty: 1.0 };
    let ends = Ends { eos: case.value("eos_token_id")?, pad: model.pad() };
    let start = Tensor::full([visual.size()[0], 1], model.start(), (Kind::Int64, Device::Cpu));
    let said = |ids: Tensor| ids.narrow(1, 1, ids.size()[1] - 1);
    let found = greedy(&mut *model.decoder(visual, &prompt, new_tokens), &start, ends, &constraints);
    checks.compare("greedy_ids", &said(found), Tolerance::Exact)?;
    let options = BeamOptions {
        beams: case.value("num_beams")?,
        length_penalty: case.value("length_penalty")?,
        early_stopping: false,
        score: BeamScore::Generated,
        constraints,
    };
    let found = beam(&mut *model.decoder(visual, &prompt, new_tokens), &start, ends, &options);
    checks.compare("beam_ids", &said(found.padded(ends.pad)), Tolerance::Exact)?;
    checks.compare("beam_scores", &Tensor::from_slice(&found.scores), SCORES)
}
