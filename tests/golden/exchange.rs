//! `qformer_hf`: a Q-Former read from a Hugging Face folder, with its queries, texts, ITC scores and ITM logits;
//! `qformer_bert_init`: a Q-Former before its first step, from a BERT's folder; the case's folder is the model's folder.
//!
//! `export_retrieval`, `export_generation`: what quern computes with a checkpoint, against what transformers computes with
//! the export of it, which must also read back to the bit. `checkpoint/`, `encoder/` and `export/` lie in the case's folder.

use anyhow::{Context, ensure};
use quern_models::generate::{Constraints, Ends, greedy};
use quern_models::language::{self, Family, LanguageModel, LossOptions, Prompt, Texts};
use quern_models::qformer::foreign::{Absent, Checkpoint};
use quern_models::qformer::{Bridge, BridgeConfig, Dropout, Outputs, Parameters, Projection, QFormer, QFormerConfig};
use quern_models::t5::T5Gelu;
use quern_models::tokenize::Tokenizer;
use quern_models::vit::FrozenVit;
use quern_models::weights::{Weights, read_json};
use quern_trainer::objectives::contrastive::pairwise;
use serde_json::Value;
use tch::{Device, Kind, Tensor, no_grad};

use crate::case::Case;
use crate::checks::{Checks, STATES, Tolerance};

/// Where the original computes image features, embeddings and heads in bfloat16 (and the blocks in single precision, as
/// `_keep_in_fp32_modules` says): 8 bits of mantissa, whose roundings the blocks carry on.
const BFLOAT16: Tolerance = Tolerance::Norm { rel: 3e-2, abs: 0.0 };

/// Of a whole BLIP-2, from pixels on.
const LOGITS: Tolerance = Tolerance::Elements { rel: 1e-4, abs: 1e-4 };

/// Checks a `qformer_hf` case.
pub fn check_hugging_face(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let tolerance = match case.value::<String>("dtype")?.as_str() {
        "bfloat16" => BFLOAT16,
        _ => STATES,
    };
    let checkpoint = Checkpoint::open(&case.folder, Device::Cpu)?;
    let config = checkpoint.config().context("a Hugging Face folder states its sizes")?;
    let model = checkpoint.stage1(&config, Absent::Untrained)?;
    stage1_outputs(case, checks, &model, case.input("image_embeds_raw")?, tolerance)
}

/// Compares what a stage-1 model makes of `features [B, N, V]` and the case's texts.
fn stage1_outputs(
    case: &Case,
    checks: &mut Checks,
    model: &QFormer,
    features: &Tensor,
    tolerance: Tolerance,
) -> anyhow::Result<()> {
    let (ids, mask) = (case.input("input_ids")?, case.input("attention_mask")?);
    no_grad(|| {
        let images = model.image_memory(features);
        let queries = model.queries(&images, &Dropout::OFF).hidden;
        let text = model.text(ids, mask, Outputs::All, &Dropout::OFF);
        let matched = model.matching(&images, ids, mask, Outputs::All, &Dropout::OFF);
        let (image_features, text_features) = (model.image_features(&queries), model.text_features(&text));
        // What stands in padding's place means nothing.
        let visible = Tensor::cat(&[&queries.select(2, 0).ones_like().to_kind(Kind::Int64), mask], 1);
        checks.compare("query_last_hidden_state", &queries, tolerance)?;
        checks.compare("text_last_hidden_state", &(text * mask.unsqueeze(-1)), tolerance)?;
        checks.compare("itm_last_hidden_state", &(&matched * visible.unsqueeze(-1)), tolerance)?;
        checks.compare("image_embeds", &image_features, tolerance)?;
        checks.compare("text_embeds", &text_features, tolerance)?;
        checks.compare("itc_logits_per_image", &pairwise(&image_features, &text_features), tolerance)?;
        checks.compare("itm_logits", &model.matching_logits(&matched), tolerance)
    })
}

/// Checks an `export_retrieval` case.
pub fn check_retrieval(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let (state, weights) = checkpoint(case)?;
    let config: QFormerConfig = serde_json::from_value(state["qformer"].clone())?;
    let model = QFormer::from_weights(&weights, &config)?;
    let read = Checkpoint::open(&case.folder.join("export"), Device::Cpu)?;
    ensure!(read.config().as_ref() == Some(&config), "the export states other sizes: {:?}", read.config());
    same(model.parameters(), read.stage1(&config, Absent::Refused)?.parameters())?;
    let encoder = FrozenVit::load(&case.folder.join("encoder"), Device::Cpu, Kind::Float)?;
    stage1_outputs(case, checks, &model, &encoder.features(case.input("pixel_values")?), STATES)
}

/// Checks an `export_generation` case.
pub fn check_generation(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let (state, weights) = checkpoint(case)?;
    let language = language::load(&case.folder.join("language"), Device::Cpu, Kind::Float, T5Gelu::Config)?;
    let projection = match language.family() {
        Family::Opt => Projection::Opt,
        Family::T5 => Projection::T5,
    };
    let qformer = serde_json::from_value(state["qformer"].clone())?;
    let config = BridgeConfig { qformer, projection, language_width: language.width() };
    let bridge = Bridge::from_weights(&weights, &config)?;
    let read = Checkpoint::open(&case.folder.join("export"), Device::Cpu)?;
    same(bridge.parameters(), read.bridge(&config, 0)?.parameters())?;
    let encoder = FrozenVit::load(&case.folder.join("encoder"), Device::Cpu, Kind::Float)?;
    let features = encoder.features(case.input("pixel_values")?);
    let visual = no_grad(|| bridge.visual_tokens(&features, &Dropout::OFF));
    checks.compare("visual_tokens", &visual, STATES)?;
    let input = |name: &str| case.input(name).map(Tensor::shallow_clone);
    let texts = Texts { ids: input("input_ids")?, mask: input("attention_mask")?, labels: input("labels")? };
    let options = LossOptions { recompute: false, probes: true };
    let logits = language.loss(&visual, &texts, options).logits.context("asked for")?;
    // Texts are of one length, so nothing is padding. The export may have a row for <image> behind the vocabulary.
    let expected = checks.expected("logits")?.narrow(-1, 0, language.vocabulary());
    checks.compare_with("logits", &logits, &expected, LOGITS)?;
    let ids = said(&*language, &visual, input("prompt_ids")?, case.value("eos")?, case.value("max_new_tokens")?);
    checks.compare("greedy_ids", &ids, Tolerance::Exact)
}

/// The case's checkpoint: its state, and its tensors.
fn checkpoint(case: &Case) -> anyhow::Result<(Value, Weights)> {
    let folder = case.folder.join("checkpoint");
    let weights = Weights::open(&folder.join("model.safetensors"), Device::Cpu, Kind::Float)?;
    Ok((read_json(&folder.join("state.json"))?, weights))
}

/// Every tensor must be the other's, to the bit.
fn same(one: &Parameters, other: &Parameters) -> anyhow::Result<()> {
    ensure!(one.len() == other.len(), "{} tensors, but {} were read back", one.len(), other.len());
    for ((name, tensor), (read, back)) in one.iter().zip(other.iter()) {
        ensure!(name == read && tensor.equal(back), "{name} is not the same when it is read back");
    }
    Ok(())
}

/// Greedily said after `visual` and `prompt [B, P]`: `[B, max_new_tokens]`.
fn said(language: &dyn LanguageModel, visual: &Tensor, prompt: Tensor, eos: i64, max_new_tokens: i64) -> Tensor {
    let ints = (Kind::Int64, Device::Cpu);
    let start = Tensor::full([prompt.size()[0], 1], language.start(), ints);
    let prompt = Prompt { mask: prompt.ones_like(), ids: prompt };
    let limits = Constraints { min_length: 0, max_length: max_new_tokens + 1, repetition_penalty: 1.0 };
    let ends = Ends { eos, pad: language.pad() };
    let mut decoder = language.decoder(visual, &prompt, max_new_tokens);
    let ids = no_grad(|| greedy(&mut *decoder, &start, ends, &limits));
    let said = ids.narrow(1, 1, ids.size()[1] - 1);
    let filler = Tensor::full([said.size()[0], max_new_tokens - said.size()[1]], ends.pad, ints);
    Tensor::cat(&[said, filler], 1)
}

/// Checks a `qformer_bert_init` case.
pub fn check_bert_init(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let mut tokenizer = Tokenizer::load(&case.folder)?;
    let entries: i64 = case.value("vocab_size")?;
    ensure!(tokenizer.add_special_token("[DEC]") == entries, "[DEC] stands behind the BERT's vocabulary");
    let config = QFormerConfig { vocab_size: entries + 1, ..case.config()? };
    let start = |seed| QFormer::from_bert_folder(&case.folder, &tokenizer, &config, seed, Device::Cpu);
    let model = start(7)?;
    for (name, tensor) in model.parameters().iter().filter(|(name, _)| name.contains("_query.")) {
        checks.compare(&format!("parameters/{name}"), tensor, Tolerance::Exact)?;
    }
    let has_head = !case.value::<Vec<String>>("architectures")?.iter().any(|class| class == "BertModel");
    no_grad(|| {
        let (ids, mask) = (case.input("input_ids")?, case.input("attention_mask")?);
        let text = model.text(ids, mask, Outputs::All, &Dropout::OFF);
        checks.compare("text_last_hidden_state", &(&text * mask.unsqueeze(-1)), STATES)?;
        if has_head {
            let logits = model.language_logits(&text).narrow(-1, 0, entries);
            checks.compare("prediction_logits", &(logits * mask.unsqueeze(-1)), STATES)?;
        }
        Ok(())
    })
}
