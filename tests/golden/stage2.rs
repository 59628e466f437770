//! `stage2_opt`, `stage2_t5`: a training step of stage 2 towards a frozen language model, and what that model says of the
//! images (LAVIS `Blip2OPT`, `Blip2T5`).

use anyhow::Context;
use quern_collective::Solo;
use quern_models::generate::{BeamOptions, BeamScore, Constraints, Ends, beam, greedy};
use quern_models::language::{IGNORED, LanguageModel, Prompt, Texts, with_visual};
use quern_models::opt::Opt;
use quern_models::qformer::{Bridge, BridgeConfig, Dropout};
use quern_models::t5::{T5, T5Gelu};
use quern_trainer::language_texts::targets;
use quern_trainer::step::LanguageMean;
use quern_trainer::step::bridge::{BridgeBatch, BridgeOptions, BridgeProbes, bridge_step};
use tch::{Device, Kind, Tensor, no_grad};

use crate::case::Case;
use crate::checks::{Checks, STATES, Tolerance};
use crate::qformer::{self, Computed, Names, gradients};

/// How far logits and gradients may be off, by the cases' READMEs.
struct Tolerances {
    logits: Tolerance,
    gradients: Tolerance,
}

const OPT: Tolerances = Tolerances {
    logits: Tolerance::Elements { rel: 0.0, abs: 2e-4 },
    gradients: Tolerance::Norm { rel: 1e-4, abs: 0.0 },
};
const T5_GATED: Tolerances = Tolerances {
    logits: Tolerance::Elements { rel: 0.0, abs: 1e-3 },
    gradients: Tolerance::Norm { rel: 5e-4, abs: 0.0 },
};

/// Checks a `stage2_opt` case: one step without and one with a prompt.
pub fn check_opt(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let weights = case.weights()?.rename(|name| name.strip_prefix("opt_model.").map(str::to_string))?;
    let model = Opt::from_scope(&weights.root(), case.value("opt_config")?)?;
    weights.finish()?;
    let bridge = bridge(case, &model)?;
    checks.compare("inputs_opt", &visual_tokens(case, &bridge)?, STATES)?;
    for mode in ["noprompt", "prompt"] {
        let input = |name: &str| case.input(&format!("{mode}/{name}")).map(Tensor::shallow_clone);
        let (ids, mask) = (input("opt_input_ids")?, input("opt_attention_mask")?);
        let labels = targets(&ids, &mask, input("prompt_length")?.int64_value(&[0]));
        let texts = Texts { ids: ids.shallow_clone(), mask: mask.shallow_clone(), labels: labels.shallow_clone() };
        let seen = step(case, checks, &bridge, &model, texts, (mode, &OPT))?;

        let visible = with_visual(&mask, seen.visual_tokens.size()[1]);
        let mut compare =
            |name: &str, actual: &Tensor, tolerance| checks.compare(&format!("{mode}/{name}"), actual, tolerance);
        compare("attention_mask", &visible, Tolerance::Exact)?;
        let embedded = Tensor::cat(&[&seen.visual_tokens, &model.embeddings(&ids)], 1);
        compare("inputs_embeds", &embedded, STATES)?;
        let untold = Tensor::full([ids.size()[0], seen.visual_tokens.size()[1]], IGNORED, (Kind::Int64, Device::Cpu));
        compare("targets", &Tensor::cat(&[untold, labels], 1), Tolerance::Exact)?;
        // What stands at padding's places means nothing.
        let told = visible.unsqueeze(2);
        let name = format!("{mode}/logits");
        let expected = checks.expected(&name)? * &told;
        checks.compare_with(&name, &(seen.logits * told), &expected, OPT.logits)?;

        let ids = input("generate_prompt_ids")?;
        let prompt = Prompt { mask: ids.ne(model.pad()).to_kind(Kind::Int64), ids };
        let ends = Ends { eos: case.value("generate_eos_token_id")?, pad: model.pad() };
        let search = Search { case, model: &model, ends, max_length: case.value("generate_max_length")? };
        search.check(checks, &format!("{mode}/generate_"), &seen.visual_tokens, &prompt)?;
    }
    Ok(())
}

/// Checks a `stage2_t5` case.
pub fn check_t5(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let weights = case.weights()?.rename(|name| name.strip_prefix("t5_model.").map(str::to_string))?;
    let model = T5::from_scope(&weights.root(), case.value("t5_config")?, T5Gelu::Lavis)?;
    weights.finish()?;
    let bridge = bridge(case, &model)?;
    checks.compare("inputs_t5", &visual_tokens(case, &bridge)?, STATES)?;
    let input = |name: &str| case.input(name).map(Tensor::shallow_clone);
    let (ids, mask) = (input("prefix_input_ids")?, input("prefix_attention_mask")?);
    let labels = targets(&input("suffix_input_ids")?, &input("suffix_attention_mask")?, 0);
    let texts = Texts { ids: ids.shallow_clone(), mask: mask.shallow_clone(), labels: labels.shallow_clone() };
    let seen = step(case, checks, &bridge, &model, texts, ("", &T5_GATED))?;

    let embedded = Tensor::cat(&[&seen.visual_tokens, &model.embeddings(&ids)], 1);
    checks.compare("inputs_embeds", &embedded, STATES)?;
    checks.compare("encoder_attention_mask", &with_visual(&mask, seen.visual_tokens.size()[1]), Tolerance::Exact)?;
    checks.compare("decoder_input_ids", &model.shifted(&labels), Tolerance::Exact)?;
    checks.compare("decoder_attention_mask", &labels.ne(IGNORED).to_kind(Kind::Int64), Tolerance::Exact)?;
    checks.compare("targets", &labels, Tolerance::Exact)?;
    checks.compare("logits", &seen.logits, T5_GATED.logits)?;

    let ends = Ends { eos: model.eos(), pad: model.pad() };
    let new_tokens: i64 = case.value("generate_max_new_tokens")?;
    let search = Search { case, model: &model, ends, max_length: new_tokens + 1 };
    search.check(checks, "generate_prefix_", &seen.visual_tokens, &Prompt { ids, mask })?;
    let ids = input("generate_prompt_ids")?;
    let prompt = Prompt { mask: ids.ne(model.pad()).to_kind(Kind::Int64), ids };
    search.check(checks, "generate_", &seen.visual_tokens, &prompt)
}

fn bridge(case: &Case, model: &dyn LanguageModel) -> anyhow::Result<Bridge> {
    let prefixes = ["query_tokens", "ln_vision.", "Qformer.", "opt_proj.", "t5_proj."];
    let own = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix)).then(|| name.to_string());
    let config = BridgeConfig {
        qformer: qformer::config(case)?,
        projection: model.family().into(),
        language_width: model.width(),
    };
    Ok(Bridge::from_weights(&case.weights()?.rename(own)?, &config)?)
}

fn visual_tokens(case: &Case, bridge: &Bridge) -> anyhow::Result<Tensor> {
    let features = case.input("image_embeds_raw")?;
    Ok(no_grad(|| bridge.visual_tokens(features, &Dropout::OFF)))
}

/// The production step; its loss and gradients are compared with what is expected below `folder`.
fn step(
    case: &Case,
    checks: &mut Checks,
    bridge: &Bridge,
    model: &dyn LanguageModel,
    texts: Texts,
    (folder, tolerances): (&str, &Tolerances),
) -> anyhow::Result<BridgeProbes> {
    let features = case.input("image_embeds_raw")?.shallow_clone();
    let rows = (0..features.size()[0] as u64).collect();
    let batch = BridgeBatch { features, texts, rows };
    let options = BridgeOptions { mean: LanguageMean::Tokens, seed: 0, step: 0, recompute: false, probes: true };
    let output = bridge_step(bridge, model, &batch, &Solo::new(), &options)?;
    let below = |name: &str| if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") };
    checks.compare(&below("loss"), &Tensor::from(output.loss), STATES)?;
    let computed =
        Computed { parameters: bridge.parameters(), gradients: &output.gradients, tolerance: tolerances.gradients };
    gradients(case, checks, &below("grad"), Names::Every, &computed)?;
    output.probes.context("the step was asked for probes")
}

/// What a case's model says after its images.
struct Search<'a> {
    case: &'a Case,
    model: &'a dyn LanguageModel,
    ends: Ends,
    /// Ids at most, the first, which is only counted, among them.
    max_length: i64,
}

impl Search<'_> {
    /// `{prefix}ids` (greedy), and every expected `{prefix}beamN_ids` and `{prefix}beamN_gennorm_ids`.
    fn check(&self, checks: &mut Checks, prefix: &str, visual: &Tensor, prompt: &Prompt) -> anyhow::Result<()> {
        let constraints = Constraints {
            min_length: self.case.value("generate_min_length")?,
            max_length: self.max_length,
            repetition_penalty: 1.0,
        };
        let start = Tensor::full([visual.size()[0], 1], self.model.start(), (Kind::Int64, Device::Cpu));
        let decoder = || self.model.decoder(visual, prompt, self.max_length);
        let ids = greedy(&mut *decoder(), &start, self.ends, &constraints);
        checks.compare_ids(&format!("{prefix}ids"), &ids, self.ends.pad)?;
        let beams_of = |name: &String| {
            let beams = name.strip_prefix(prefix)?.strip_prefix("beam")?.strip_suffix("_ids")?;
            Some((name.clone(), beams.to_string()))
        };
        let searches: Vec<(String, String)> = self.case.expected.keys().filter_map(beams_of).collect();
        for (name, beams) in searches {
            let (beams, score) = match beams.strip_suffix("_gennorm") {
                Some(beams) => (beams, BeamScore::Generated),
                None => (beams.as_str(), BeamScore::FullLength),
            };
            let beams = beams.parse().with_context(|| format!("{name} names no number of beams"))?;
            let options = BeamOptions { beams, length_penalty: 1.0, early_stopping: false, score, constraints };
            let found = beam(&mut *decoder(), &start, self.ends, &options);
            checks.compare_ids(&name, &found.padded(self.ends.pad), self.ends.pad)?;
        }
        Ok(())
    }
}
