//! `blip_caption`: vision states, teacher forcing, greedy and beam ids, and the sampling filters one by one.

use std::collections::BTreeSet;

use anyhow::ensure;
use quern_models::blip::Blip;
use quern_models::generate::{BeamOptions, BeamScore, Constraints, SamplingOptions, probabilities};
use tch::{Kind, Tensor};

use crate::case::Case;
use crate::checks::{Checks, STATES, Tolerance};

/// Scores of beams sum some ten log-probabilities.
const SCORES: Tolerance = Tolerance::Elements { rel: 1e-4, abs: 1e-4 };

/// Samples without a filter; each check names what it turns on.
const PLAIN: SamplingOptions = SamplingOptions {
    top_p: 1.0,
    top_k: None,
    temperature: 1.0,
    min_length: 0,
    max_length: 0,
    repetition_penalty: 1.0,
};

/// Checks a case.
pub fn check(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let blip = Blip::from_weights(&case.weights()?, case.config()?)?;
    let pixels = case.input("pixel_values")?;
    let images = blip.encode_images(pixels);
    checks.states("vision_embeddings", &blip.vision_model.embed(pixels))?;
    checks.states("vision_last_hidden_state", &images)?;
    teacher_forcing(case, checks, &blip, &images)?;
    if case.kind()? != Kind::Float {
        return Ok(()); // which of two near tokens comes next depends on the rounding
    }
    searches(case, checks, &blip, &images)?;
    filters(case, checks, &blip)
}

fn teacher_forcing(case: &Case, checks: &mut Checks, blip: &Blip, images: &Tensor) -> anyhow::Result<()> {
    let (ids, mask) = (case.input("input_ids")?, case.input("attention_mask")?);
    let logits = blip.logits(images, ids, mask);
    checks.states("logits", &logits)?;
    checks.loss("loss_prompt_masked", &blip.loss(&logits, case.input("labels")?))?;
    let all_labels = ids.masked_fill(&mask.eq(0), -100);
    checks.loss("loss_no_prompt_mask", &blip.loss(&logits, &all_labels))
}

fn searches(case: &Case, checks: &mut Checks, blip: &Blip, images: &Tensor) -> anyhow::Result<()> {
    let max_length = case.value("max_length")?;
    let plain = Constraints { min_length: case.value("min_length")?, max_length, repetition_penalty: 1.0 };
    let free = Constraints { min_length: 0, ..plain };
    let penalised = Constraints { repetition_penalty: 1.1, ..plain };
    let prompt = prompt(case)?;
    for (name, prompt, constraints) in [
        ("greedy_ids", &[][..], plain),
        ("greedy_no_min_length_ids", &[], free),
        ("greedy_rep1.1_ids", &[], penalised),
        ("greedy_prompt_ids", &prompt, plain),
    ] {
        checks.compare(name, &blip.greedy(images, prompt, &constraints), Tolerance::Exact)?;
    }
    let beams: usize = case.value("num_beams")?;
    for (suffix, score) in beam_generations(case)? {
        for (infix, prompt) in [("", &[][..]), ("_prompt", &prompt)] {
            let options = BeamOptions {
                beams,
                length_penalty: case.value("length_penalty")?,
                early_stopping: case.value("early_stopping")?,
                score,
                constraints: plain,
            };
            let found = blip.beam(images, prompt, &options);
            let ids = format!("beam{beams}{suffix}{infix}_ids");
            checks.compare(&ids, &found.padded(blip.ends().pad), Tolerance::Exact)?;
            let scores = format!("beam{beams}{suffix}{infix}_scores");
            checks.compare(&scores, &Tensor::from_slice(&found.scores), SCORES)?;
        }
    }
    Ok(())
}

/// Which transformers' beam search the case holds, with the suffix of its tensors: both, unless the config says that
/// it was made where only one could be run.
fn beam_generations(case: &Case) -> anyhow::Result<Vec<(&'static str, BeamScore)>> {
    let both = vec![("", BeamScore::Generated), ("_tf431", BeamScore::FullLength)];
    match case.value::<Option<Vec<String>>>("beam_generations") {
        Ok(Some(only)) => {
            ensure!(only == ["5.x"], "beam_generations is {only:?}; [\"5.x\"] is the only restriction known");
            Ok(both[..1].to_vec())
        }
        _ => Ok(both),
    }
}

/// The prompt's ids out of `prompt_tok`, whose rows are `[CLS] prompt [SEP]`, all alike.
fn prompt(case: &Case) -> anyhow::Result<Vec<i64>> {
    let rows: Vec<Vec<i64>> = Vec::try_from(case.input("prompt_tok")?)?;
    ensure!(!rows.is_empty() && rows.iter().all(|row| *row == rows[0]), "the rows of prompt_tok differ");
    Ok(rows[0][1..rows[0].len() - 1].to_vec())
}

fn filters(case: &Case, checks: &mut Checks, blip: &Blip) -> anyhow::Result<()> {
    let (logits, prefix) = (case.input("proc_logits")?, case.input("proc_prefix")?);
    let eos = blip.ends().eos;
    let penalised = SamplingOptions { repetition_penalty: 1.1, ..PLAIN }.constraints();
    checks.compare("repetition_penalty_1.1/logits", &penalised.apply(logits, prefix, eos), STATES)?;

    let mut tops: BTreeSet<String> = ["0.5", "0.9"].map(String::from).into();
    let named = case.expected.keys().filter_map(|name| name.strip_prefix("top_p_")?.split('/').next());
    tops.extend(named.map(str::to_string));
    for top in tops {
        let options = SamplingOptions { top_p: top.parse()?, ..PLAIN };
        filtered(checks, &format!("top_p_{top}"), logits, logits, &options)?;
    }
    let without_k = SamplingOptions { top_p: 0.9, min_length: 8, repetition_penalty: 1.1, ..PLAIN };
    let whole = SamplingOptions { top_k: Some(50), temperature: 0.7, ..without_k };
    for (name, options) in [("pipeline_no_topk", without_k), ("pipeline", whole)] {
        let scores = options.constraints().apply(logits, prefix, eos);
        filtered(checks, name, logits, &scores, &options)?;
    }
    Ok(())
}

/// Compares the ids kept and their probabilities. Where logits tie, which of them goes is the sort's business: there
/// the number kept and the multiset of probabilities count.
fn filtered(
    checks: &mut Checks,
    name: &str,
    logits: &Tensor,
    scores: &Tensor,
    options: &SamplingOptions,
) -> anyhow::Result<()> {
    let (keep, probs) = (format!("{name}/keep"), format!("{name}/probs"));
    let (expected_keep, expected_probs) = (checks.expected(&keep)?, checks.expected(&probs)?);
    let kept = options.filter(scores);
    let (actual_keep, actual_probs) = (kept.isfinite(), probabilities(&kept));
    for row in 0..logits.size()[0] {
        let distinct = logits.get(row).unique_dim(0, true, false, false).0.numel() == logits.get(row).numel();
        let view = |tensor: &Tensor| {
            let values = tensor.get(row).to_kind(Kind::Float);
            if distinct { values } else { values.sort(-1, true).0 }
        };
        checks.compare_with(&format!("{keep}[{row}]"), &view(&actual_keep), &view(expected_keep), Tolerance::Exact)?;
        checks.compare_with(&format!("{probs}[{row}]"), &view(&actual_probs), &view(expected_probs), STATES)?;
    }
    Ok(())
}
