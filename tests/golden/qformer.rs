//! `qformer_stage1`: a training step on as many ranks as the case has, over the TCP collective;
//! `qformer_itm_masks`: the self-attention masks; `qformer_generate`: captions from the stage-1 model.

use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use quern_collective::{Collective, local_world};
use quern_models::generate::{BeamOptions, BeamScore, Constraints, Ends, StepDecoder, beam, greedy};
use quern_models::qformer::{Dropout, Parameters, QFormer, QFormerConfig, masks};
use quern_trainer::objectives::matching;
use quern_trainer::step::{Batch, LanguageMean, Negatives, Semantics, StepOptions, StepOutput, train_step};
use tch::{Device, Kind, Tensor, no_grad};

use crate::case::Case;
use crate::checks::{Checks, STATES, Tolerance};

/// Gradients: relative L2 per tensor.
const GRADIENTS: Tolerance = Tolerance::Norm { rel: 1e-4, abs: 0.0 };
/// The gradient of a key's bias is analytically zero: absolutely.
const ZERO_GRADIENTS: Tolerance = Tolerance::Elements { rel: 0.0, abs: 1e-5 };
/// Logits of the generation case (its README).
const LOGITS: Tolerance = Tolerance::Elements { rel: 1e-4, abs: 1e-4 };
/// What the generation case stores for the score of a forbidden token.
const FORBIDDEN: f64 = -1e30;
/// At and below this an additive mask blocks.
const BLOCKED: f64 = -1e4;
/// Worlds of up to so many ranks share a case's batch.
const OTHER_WORLDS: usize = 4;
/// No operation of a case takes long.
const DEADLINE: Duration = Duration::from_secs(60);

const LAVIS: Semantics = Semantics { gathered_side_detached: true, language_mean: LanguageMean::Ranks };
const EXACT_RANK_MEAN: Semantics = Semantics { gathered_side_detached: false, language_mean: LanguageMean::Ranks };
const EXACT: Semantics = Semantics { gathered_side_detached: false, language_mean: LanguageMean::Tokens };

/// Checks a `qformer_stage1` case.
pub fn check_stage1(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let model = model(case)?;
    let ranks: usize = case.value("world_size")?;
    let inputs = || (0..ranks).map(|rank| inputs(case, rank)).collect::<anyhow::Result<Vec<_>>>();
    let lavis = step_on_all_ranks(case, inputs()?, LAVIS)?;
    for (rank, output) in lavis.iter().enumerate() {
        probes(checks, rank, output)?;
    }
    gradients(case, checks, "grad_lavis", Names::Every, &of(&model, &lavis[0]))?;
    let exact = step_on_all_ranks(case, inputs()?, EXACT_RANK_MEAN)?;
    gradients(case, checks, "grad_exact", Names::Every, &of(&model, &exact[0]))?;
    losses(checks, &exact[0], "exact/loss", Some("exact/loss_itm"), "exact/loss_lm_rank_mean")?;
    let tokens = step_on_all_ranks(case, inputs()?, EXACT)?;
    // On one rank it is `grad_exact`.
    let (folder, names) =
        if ranks > 1 { ("grad_exact_tokmean", Names::AtLeastOne) } else { ("grad_exact", Names::Any) };
    gradients(case, checks, "grad_exact_tokmean", names, &of(&model, &tokens[0]))?;
    losses(checks, &tokens[0], "exact/loss_token_mean", None, "exact/loss_lm_token_mean")?;
    // The global batch's gradient is the same however many ranks share it, also in parts of unequal size.
    for ranks in (1..=OTHER_WORLDS).filter(|&other| other != ranks) {
        let Some(parts) = shared_among(&inputs()?, ranks) else { continue };
        let shared = step_on_all_ranks(case, parts, EXACT)?;
        for (name, gradient) in model.parameters().iter().map(|(name, _)| name).zip(&shared[0].gradients) {
            let tolerance = if name.ends_with("key.bias") { ZERO_GRADIENTS } else { GRADIENTS };
            if let Some(expected) = case.expected.get(&format!("{folder}/{name}")) {
                checks.compare_with(&format!("{folder} on {ranks} ranks/{name}"), gradient, expected, tolerance)?;
            }
        }
    }
    Ok(())
}

/// The case's rows on `ranks` ranks, as evenly as they go; none if a rank would have no row.
fn shared_among(inputs: &[(Batch, Negatives)], ranks: usize) -> Option<Vec<(Batch, Negatives)>> {
    let whole = |part: fn(&Batch) -> &Tensor| {
        Tensor::cat(&inputs.iter().map(|(batch, _)| part(batch).shallow_clone()).collect::<Vec<_>>(), 0)
    };
    let (features, ids, mask) = (whole(|batch| &batch.features), whole(|batch| &batch.ids), whole(|batch| &batch.mask));
    let rows: Vec<u64> = inputs.iter().flat_map(|(batch, _)| batch.rows.clone()).collect();
    let given = |(_, negatives): &(Batch, Negatives)| match negatives {
        Negatives::Given { images, texts } => images.iter().copied().zip(texts.iter().copied()).collect(),
        Negatives::Keyed => Vec::new(),
    };
    let negatives: Vec<(i64, i64)> = inputs.iter().flat_map(given).collect();
    let part = |rank: usize| {
        let (first, end) = (rank * rows.len() / ranks, (rank + 1) * rows.len() / ranks);
        let narrow = |tensor: &Tensor| tensor.narrow(0, first as i64, (end - first) as i64);
        let batch = Batch {
            features: narrow(&features),
            ids: narrow(&ids),
            mask: narrow(&mask),
            rows: rows[first..end].to_vec(),
        };
        let (images, texts) = negatives[first..end].iter().copied().unzip();
        (batch, Negatives::Given { images, texts })
    };
    (rows.len() >= ranks).then(|| (0..ranks).map(part).collect())
}

fn losses(
    checks: &mut Checks,
    output: &StepOutput,
    total: &str,
    matching: Option<&str>,
    language: &str,
) -> anyhow::Result<()> {
    let losses = &output.losses;
    checks.compare(total, &Tensor::from(losses.total()), STATES)?;
    checks.compare(language, &Tensor::from(losses.itg), STATES)?;
    if let Some(matching) = matching {
        checks.compare(matching, &Tensor::from(losses.itm), STATES)?;
        checks.compare("exact/loss_itc", &Tensor::from(losses.itc), STATES)?;
    }
    Ok(())
}

fn probes(checks: &mut Checks, rank: usize, output: &StepOutput) -> anyhow::Result<()> {
    let probes = output.probes.as_ref().context("the step was asked for probes")?;
    let local = output.local;
    let mut compare =
        |name: &str, actual: &Tensor, tolerance| checks.compare(&format!("rank{rank}/{name}"), actual, tolerance);
    compare("loss", &Tensor::from(local.total()), STATES)?;
    compare("loss_itc", &Tensor::from(local.itc), STATES)?;
    compare("loss_itm", &Tensor::from(local.itm), STATES)?;
    compare("loss_lm", &Tensor::from(local.itg), STATES)?;
    compare("sim_i2t", &probes.similarities.image_to_text, STATES)?;
    compare("sim_t2i", &probes.similarities.text_to_image, STATES)?;
    compare("itc_targets", &probes.contrastive_targets, Tolerance::Exact)?;
    compare("weights_i2t", &probes.text_weights, STATES)?;
    compare("weights_t2i", &probes.image_weights, STATES)?;
    compare("query_last_hidden_state", &probes.query_hidden, STATES)?;
    compare("text_last_hidden_state", &probes.text_hidden, STATES)?;
    compare("lm_last_hidden_state", &probes.language_hidden, STATES)?;
    compare("lm_logits_shifted", &probes.language_logits, STATES)?;
    compare("lm_labels_shifted", &probes.language_labels, Tolerance::Exact)?;
    compare("itm_last_hidden_state", &probes.matching_hidden, STATES)?;
    compare("itm_logits", &probes.matching_logits, STATES)?;
    compare("itm_labels", &probes.matching_labels, Tolerance::Exact)
}

/// Which parameters' gradients a case must hold.
#[derive(Clone, Copy, PartialEq)]
pub enum Names {
    /// All that the model has.
    Every,
    /// At least one.
    AtLeastOne,
    /// Those that are there.
    Any,
}

/// What a step computed, and how far that may be off.
pub struct Computed<'a> {
    /// The parameters.
    pub parameters: &'a Parameters,
    /// Their gradients, in their order.
    pub gradients: &'a [Tensor],
    /// Of every gradient that isn't zero.
    pub tolerance: Tolerance,
}

fn of<'a>(model: &'a QFormer, output: &'a StepOutput) -> Computed<'a> {
    Computed { parameters: model.parameters(), gradients: &output.gradients, tolerance: GRADIENTS }
}

/// Every expected gradient below `folder`.
pub fn gradients(
    case: &Case,
    checks: &mut Checks,
    folder: &str,
    names: Names,
    computed: &Computed,
) -> anyhow::Result<()> {
    let named = computed.parameters.iter().map(|(name, _)| format!("{folder}/{name}"));
    let mut compared = 0;
    for (name, gradient) in named.zip(computed.gradients) {
        if names == Names::Every || case.expected.contains_key(&name) {
            let tolerance = if name.ends_with("key.bias") { ZERO_GRADIENTS } else { computed.tolerance };
            checks.compare(&name, gradient, tolerance)?;
            compared += 1;
        }
    }
    ensure!(compared > 0 || names == Names::Any, "no expected tensor is called {folder}/…");
    Ok(())
}

/// The production step on a rank for each of `inputs`, a thread with its own weights and its end of a TCP world.
fn step_on_all_ranks(
    case: &Case,
    inputs: Vec<(Batch, Negatives)>,
    semantics: Semantics,
) -> anyhow::Result<Vec<StepOutput>> {
    let options = StepOptions {
        semantics,
        seed: 0,
        step: 0,
        decoder_start: case.value("bos_token_id")?,
        negatives: Negatives::Keyed,
        probes: true,
    };
    thread::scope(|scope| {
        let running: Vec<_> = (local_world(inputs.len(), DEADLINE)?.into_iter().zip(inputs))
            .map(|(collective, (batch, negatives))| {
                let options = StepOptions { negatives, ..options.clone() };
                let model = model(case);
                scope.spawn(move || {
                    let output = train_step(&model?, &batch, &collective, &options);
                    if output.is_err() {
                        collective.abort();
                    }
                    anyhow::Ok(output?)
                })
            })
            .collect();
        running.into_iter().map(|rank| rank.join().map_err(|_| anyhow!("a rank panicked"))?).collect()
    })
}

fn inputs(case: &Case, rank: usize) -> anyhow::Result<(Batch, Negatives)> {
    let input = |name: &str| case.input(&format!("rank{rank}/{name}"));
    let ids = input("input_ids")?;
    let rows = ids.size()[0] as u64;
    let batch = Batch {
        features: input("image_embeds_raw")?.shallow_clone(),
        ids: ids.shallow_clone(),
        mask: input("attention_mask")?.shallow_clone(),
        rows: (0..rows).map(|row| rank as u64 * 1_000_000 + row).collect(),
    };
    let drawn = |name: &str| anyhow::Ok(Vec::<i64>::try_from(input(name)?)?);
    Ok((batch, Negatives::Given { images: drawn("neg_image_idx")?, texts: drawn("neg_text_idx")? }))
}

/// The Q-Former's sizes.
pub fn config(case: &Case) -> anyhow::Result<QFormerConfig> {
    Ok(QFormerConfig { vocab_size: case.value("vocab_size_after_resize")?, ..case.config()? })
}

fn model(case: &Case) -> anyhow::Result<QFormer> {
    Ok(QFormer::from_weights(&case.weights()?, &config(case)?)?)
}

/// Checks a `qformer_itm_masks` case.
pub fn check_masks(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let queries: i64 = case.value("query_length")?;
    let mask = case.input("attention_mask")?;
    let (batch, length) = mask.size2()?;
    let both = queries + length;
    let negative = mask.index_select(0, case.input("neg_text_idx")?);
    ensure!(matching::EXAMPLES_PER_ROW == 3, "pairs, negative images, negative texts");
    let matched = masks::bidirectional(&Tensor::cat(&[mask, mask, &negative], 0), queries);
    let causal = masks::multimodal_causal(mask, queries);
    let bools = (Kind::Bool, Device::Cpu);
    // The query pass takes no mask: everything is visible.
    visible(checks, "raw/itc_query", &Tensor::ones([batch, 1, 1, queries], bools))?;
    visible(checks, "full/itc_query", &Tensor::ones([batch, queries, queries], bools))?;
    visible(checks, "raw/itc_text", &masks::text(mask))?;
    visible(checks, "full/itc_text", &full(&masks::text(mask), length))?;
    visible(checks, "raw/itg", &causal.narrow(2, queries, length))?;
    visible(checks, "raw/itg_unilm", &causal)?;
    visible(checks, "full/itg", &full(&causal, both))?;
    visible(checks, "raw/itm", &matched)?;
    visible(checks, "full/itm", &full(&matched, both))
}

fn visible(checks: &mut Checks, name: &str, actual: &Tensor) -> anyhow::Result<()> {
    let expected = checks.expected(name)?.gt(BLOCKED);
    checks.compare_with(name, actual, &expected, Tolerance::Exact)
}

/// `[B, 1, 1 or T, T] -> [B, T, T]`
fn full(mask: &Tensor, positions: i64) -> Tensor {
    mask.squeeze_dim(1).expand([mask.size()[0], positions, positions], false)
}

/// Checks a `qformer_generate` case.
pub fn check_generate(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    no_grad(|| {
        let model = model(case)?;
        let images = model.image_memory(case.input("image_embeds_raw")?);
        let start: i64 = case.value("bos_token_id")?;
        let prompt = Tensor::full([images.batch(), 1], start, (Kind::Int64, Device::Cpu));
        let ends = Ends { eos: case.value("sep_token_id")?, pad: case.value("pad_token_id")? };
        let max_length = case.value("max_length")?;
        let limits = |min_length| Constraints { min_length, max_length, repetition_penalty: 1.0 };
        let constraints = limits(case.value("min_length")?);
        for (name, constraints) in [("greedy", constraints), ("greedy_min1", limits(1))] {
            let ids = greedy(&mut model.captioning(&images), &prompt, ends, &constraints);
            checks.compare_ids(&format!("{name}_ids"), &ids, ends.pad)?;
            let first = constraints.apply(&model.captioning(&images).step(&prompt), &prompt, ends.eos);
            checks.compare(&format!("{name}_step0_scores"), &first.clamp_min(FORBIDDEN), LOGITS)?;
        }
        let path = checks.expected("greedy_ids")?;
        let past = model.queries(&images, &Dropout::OFF).past;
        let hidden = model.language(path, &path.ones_like(), &past, &Dropout::OFF); // fed pads are seen
        checks.compare("greedy_path_logits", &model.language_logits(&hidden), LOGITS)?;
        let beams: usize = case.value("num_beams_beam")?;
        for (suffix, score) in [("", BeamScore::FullLength), ("_gennorm", BeamScore::Generated)] {
            let options = BeamOptions {
                beams,
                length_penalty: case.value("length_penalty")?,
                early_stopping: case.value("early_stopping")?,
                score,
                constraints,
            };
            let found = beam(&mut model.captioning(&images), &prompt, ends, &options);
            checks.compare_ids(&format!("beam{beams}{suffix}_ids"), &found.padded(ends.pad), ends.pad)?;
            if score == BeamScore::FullLength {
                let scores = Tensor::from_slice(&found.scores);
                checks.compare(&format!("beam{beams}_sequences_scores"), &scores, LOGITS)?;
            }
        }
        Ok(())
    })
}
