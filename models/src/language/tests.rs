use std::cell::RefCell;

use super::*;
use crate::generate::{Constraints, Ends, greedy};
use crate::opt::OptConfig;
use crate::t5::T5Config;
use crate::testing::{Arbitrary, arbitrary};
use crate::weights::Scope;

const VOCABULARY: i64 = 23;

fn opt_config() -> OptConfig {
    OptConfig {
        vocab_size: VOCABULARY,
        hidden_size: 16,
        num_hidden_layers: 3,
        ffn_dim: 24,
        max_position_embeddings: 24,
        num_attention_heads: 2,
        ..OptConfig::default()
    }
}

fn opt(config: OptConfig) -> Opt {
    Opt::from_scope(&Scope::root(&Arbitrary::default()), config).unwrap()
}

/// As 350m: layer norms behind, embeddings narrower than the states.
fn narrow_opt() -> Opt {
    opt(OptConfig { do_layer_norm_before: false, word_embed_proj_dim: Some(12), ..opt_config() })
}

fn t5_config() -> T5Config {
    T5Config {
        vocab_size: VOCABULARY,
        d_model: 12,
        d_kv: 5,
        d_ff: 20,
        num_layers: 3,
        num_decoder_layers: Some(2),
        num_heads: 2,
        relative_attention_num_buckets: 8,
        relative_attention_max_distance: 12,
        ..T5Config::default()
    }
}

fn t5(config: T5Config) -> T5 {
    T5::from_scope(&Scope::root(&Arbitrary::default()), config, T5Gelu::Config).unwrap()
}

fn gated_t5() -> T5 {
    t5(T5Config { feed_forward_proj: "gated-gelu".into(), tie_word_embeddings: false, ..t5_config() })
}

fn models() -> Vec<Box<dyn LanguageModel>> {
    vec![Box::new(opt(opt_config())), Box::new(narrow_opt()), Box::new(t5(t5_config())), Box::new(gated_t5())]
}

fn visual(model: &dyn LanguageModel, images: i64) -> Tensor {
    arbitrary(7, &[images, 4, model.width()])
}

fn ids(rows: &[&[i64]]) -> Tensor {
    Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1])
}

/// Two texts, the second shorter by two.
fn texts() -> Texts {
    let text = ids(&[&[2, 7, 8, 9, 10], &[2, 11, 12, 1, 1]]);
    let mask = ids(&[&[1, 1, 1, 1, 1], &[1, 1, 1, 0, 0]]);
    let labels = text.masked_fill(&mask.eq(0), IGNORED);
    Texts { ids: text, mask, labels }
}

/// The prompts of different lengths, padded as the model's family wants it, and each alone.
fn prompts(family: Family) -> (Prompt, Vec<Prompt>) {
    let (long, short): (&[i64], &[i64]) = (&[2, 5, 6, 7], &[2, 9]);
    let padded: (&[i64], &[i64]) = match family {
        Family::Opt => (&[1, 1, 2, 9], &[0, 0, 1, 1]),
        Family::T5 => (&[2, 9, 0, 0], &[1, 1, 0, 0]),
    };
    let all = Prompt { ids: ids(&[long, padded.0]), mask: ids(&[&[1; 4], padded.1]) };
    let alone = |text: &[i64]| Prompt { ids: ids(&[text]), mask: ids(&[text]).ones_like() };
    (all, vec![alone(long), alone(short)])
}

fn close(a: &Tensor, b: &Tensor) -> bool {
    let scale = f64::try_from(b.abs().max()).unwrap();
    a.allclose(b, 1e-4, 1e-5 * scale, false)
}

#[test]
fn recomputing_layers_changes_neither_loss_nor_gradient() {
    for model in models() {
        let visual = visual(&*model, 2);
        let plain = model.loss(&visual, &texts(), LossOptions::default());
        let again = model.loss(&visual, &texts(), LossOptions { recompute: true, probes: false });
        assert!(plain.gradient.abs().max().double_value(&[]) > 1e-3);
        assert!(plain.sum.equal(&again.sum) && close(&again.gradient, &plain.gradient));
        assert_eq!((plain.targets, again.targets), (8, 8));
    }
}

/// The derivative as the loss's slope, in a direction.
#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    for model in models() {
        let here = visual(&*model, 2);
        let gradient = model.loss(&here, &texts(), LossOptions::default()).gradient;
        let direction = &gradient / gradient.norm();
        let at = |step: f64| {
            let sum = model.loss(&(&here + &direction * step), &texts(), LossOptions::default()).sum;
            f64::try_from(sum).unwrap()
        };
        // a small step: a larger one meets the kinks of ReLU
        let slope = (at(1e-3) - at(-1e-3)) / 2e-3;
        let expected = f64::try_from(gradient.norm()).unwrap();
        assert!((slope / expected - 1.0).abs() < 0.05, "slope {slope}, gradient {expected}");
    }
}

#[test]
fn a_graph_ends_at_the_visual_tokens_and_works_without_gradient_mode() {
    for model in models() {
        let visual = visual(&*model, 2).set_requires_grad(true);
        let loss = tch::no_grad(|| model.loss(&visual, &texts(), LossOptions::default()));
        assert!(!visual.grad().defined() && !loss.sum.requires_grad() && !loss.gradient.requires_grad());
    }
}

#[test]
fn without_counted_targets_loss_and_gradient_are_zero() {
    for model in models() {
        let none = Texts { labels: texts().labels.fill(IGNORED), ..texts() };
        let loss = model.loss(&visual(&*model, 2), &none, LossOptions { recompute: true, probes: false });
        assert_eq!((loss.targets, f64::try_from(&loss.sum).unwrap()), (0, 0.0));
        assert_eq!(loss.gradient.abs().max().double_value(&[]), 0.0);
    }
}

#[test]
fn a_masked_prompt_is_not_counted_and_the_rest_is_as_the_logits_say() {
    for model in models() {
        let texts = texts();
        let some = texts.labels.copy();
        let _ = some.narrow(1, 0, 2).fill_(IGNORED);
        let masked = Texts { labels: some.shallow_clone(), ..texts };
        let visual = visual(&*model, 2);
        let loss = model.loss(&visual, &masked, LossOptions { recompute: false, probes: true });
        let logits = loss.logits.unwrap();
        let first = match model.family() {
            Family::Opt => visual.size()[1] - 1,
            Family::T5 => 0,
        };
        let log = logits.narrow(1, first, 5).log_softmax(-1, Kind::Float);
        let counted = some.ne(IGNORED);
        let picked = log.gather(2, &some.clamp_min(0).unsqueeze(2), false).squeeze_dim(2) * &counted;
        assert_eq!(loss.targets, 4);
        assert!(close(&loss.sum, &-picked.sum(Kind::Float)));
    }
}

/// A text of another kind of padding goes through the general mask; what counts must not show it.
#[test]
fn padding_on_the_left_gives_the_same_loss() {
    for model in [opt(opt_config()), narrow_opt()] {
        let right = texts();
        let left = |tensor: &Tensor, row: [i64; 5]| {
            let turned = tensor.copy();
            turned.get(1).copy_(&Tensor::from_slice(&row));
            turned
        };
        let left = Texts {
            ids: left(&right.ids, [1, 1, 2, 11, 12]),
            mask: left(&right.mask, [0, 0, 1, 1, 1]),
            // the first is not predicted from padding
            labels: left(&right.labels, [IGNORED, IGNORED, IGNORED, 11, 12]),
        };
        let _ = right.labels.get(1).get(0).fill_(IGNORED);
        let visual = visual(&model, 2);
        let a = model.loss(&visual, &right, LossOptions::default());
        let b = model.loss(&visual, &left, LossOptions::default());
        assert!(close(&a.sum, &b.sum) && close(&a.gradient, &b.gradient));
    }
}

const ENDS: Ends = Ends { eos: 3, pad: 1 };

#[test]
fn cached_steps_choose_what_the_logits_of_the_whole_say() {
    for model in models() {
        let visual = visual(&*model, 2);
        let (prompt, _) = prompts(model.family());
        let start = Tensor::full([2, 1], model.start(), (Kind::Int64, Device::Cpu));
        let constraints = Constraints { min_length: 6, max_length: 6, repetition_penalty: 1.0 };
        let said = greedy(&mut *model.decoder(&visual, &prompt, 5), &start, ENDS, &constraints).narrow(1, 1, 5);
        let (texts, first) = match model.family() {
            Family::Opt => {
                let ids = Tensor::cat(&[&prompt.ids, &said], 1);
                let mask = Tensor::cat(&[&prompt.mask, &said.ones_like()], 1);
                (Texts { labels: ids.shallow_clone(), ids, mask }, 4 + 4 - 1)
            }
            Family::T5 => (Texts { ids: prompt.ids, mask: prompt.mask, labels: said.shallow_clone() }, 0),
        };
        let whole = model.loss(&visual, &texts, LossOptions { recompute: false, probes: true });
        let ends = Tensor::from_slice(&[ENDS.eos]);
        let best = whole.logits.unwrap().narrow(1, first, 5).index_fill(-1, &ends, f64::NEG_INFINITY);
        let best = best.argmax(-1, false);
        assert!(best.narrow(1, 0, 4).equal(&said.narrow(1, 0, 4)), "{best} {said}");
    }
}

#[test]
fn prompts_of_other_lengths_in_the_batch_do_not_show() {
    for model in models() {
        let visual = visual(&*model, 2);
        let (together, alone) = prompts(model.family());
        let constraints = Constraints { min_length: 0, max_length: 7, repetition_penalty: 1.0 };
        let start = |lanes: i64| Tensor::full([lanes, 1], model.start(), (Kind::Int64, Device::Cpu));
        let all = greedy(&mut *model.decoder(&visual, &together, 6), &start(2), ENDS, &constraints);
        for (image, prompt) in alone.iter().enumerate() {
            let own = visual.narrow(0, image as i64, 1);
            let said = greedy(&mut *model.decoder(&own, prompt, 6), &start(1), ENDS, &constraints);
            let length = said.size()[1];
            assert!(said.equal(&all.narrow(0, image as i64, 1).narrow(1, 0, length)), "image {image}: {said} {all}");
        }
    }
}

/// Lanes forked and reordered go on as what they are copies of.
#[test]
fn lanes_go_on_as_what_they_were() {
    for model in models() {
        let visual = visual(&*model, 2);
        let (prompt, _) = prompts(model.family());
        let start = Tensor::full([2, 1], model.start(), (Kind::Int64, Device::Cpu));
        let feed = |rows: &[i64]| Tensor::from_slice(rows).unsqueeze(1);
        let mut plain = model.decoder(&visual, &prompt, 4);
        let _ = plain.step(&start);
        let _ = plain.step(&feed(&[5, 6]));
        let expected = plain.step(&feed(&[8, 9]));
        let mut forked = model.decoder(&visual, &prompt, 4);
        let _ = forked.step(&start);
        forked.fork(2);
        let _ = forked.step(&feed(&[4, 5, 6, 7]));
        forked.reorder(&Tensor::from_slice(&[1i64, 1, 2, 2]));
        let found = forked.step(&feed(&[8, 3, 9, 3]));
        for image in 0..2 {
            assert!(close(&found.get(2 * image), &expected.get(image)));
        }
    }
}

/// What [`Walk`] promises: on the way forward nothing records a graph, on the way back one layer at a time does.
#[test]
fn with_recompute_each_layer_records_its_graph_on_the_way_back_only() {
    let calls = RefCell::new(Vec::new());
    let layer = |index: usize, x: &Tensor, memory: Option<&Tensor>| {
        let y = x * (index as f64 + 2.0) + memory.unwrap();
        calls.borrow_mut().push((index, y.requires_grad()));
        y
    };
    let (x, memory) = (Tensor::from_slice(&[1.0, 2.0]), Tensor::from_slice(&[3.0, 5.0]));
    let walk = |recompute| {
        let walk = Walk::forward(3, &x, Some(&memory), &layer, recompute);
        assert!(walk.output().equal(&(&x * 24.0 + &memory * 17.0)) && !walk.output().requires_grad());
        let forward = calls.take();
        let derivative = walk.backward(Tensor::from_slice(&[1.0, 10.0]));
        assert!(derivative.input.equal(&Tensor::from_slice(&[24.0, 240.0])));
        assert!(derivative.memory.unwrap().equal(&Tensor::from_slice(&[17.0, 170.0])));
        (forward, calls.take())
    };
    assert_eq!(walk(true), (vec![(0, false), (1, false), (2, false)], vec![(2, true), (1, true), (0, true)]));
    assert_eq!(walk(false), (vec![(0, true), (1, true), (2, true)], vec![]));
}

#[test]
#[should_panic(expected = "a sequence of 25 tokens, but the model's longest is 24")]
fn a_sequence_beyond_the_position_table_is_refused() {
    let model = opt(opt_config());
    let text = Tensor::full([1, 21], 5i64, (Kind::Int64, Device::Cpu));
    let texts = Texts { mask: text.ones_like(), labels: text.shallow_clone(), ids: text };
    let _ = model.loss(&visual(&model, 1), &texts, LossOptions::default());
}

/// The error for a folder with this `config.json`.
fn refusal(config: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    load(folder.path(), Device::Cpu, Kind::Float, T5Gelu::Config).err().unwrap().to_string()
}

#[test]
fn what_is_no_supported_language_model_is_named() {
    assert!(
        refusal(r#"{"model_type": "bert"}"#)
            .contains("model_type of the language model should be opt or t5, found bert")
    );
    assert!(refusal("{}").contains("should be opt or t5, found none"));
    let error = refusal(r#"{"model_type": "opt", "activation_function": "swish"}"#);
    assert!(
        error.contains("config.json: the activation should be one of gelu, ") && error.contains("found swish"),
        "{error}"
    );
    let silu = T5Config { feed_forward_proj: "gated-silu".into(), ..t5_config() };
    let error = T5::from_scope(&Scope::root(&Arbitrary::default()), silu, T5Gelu::Config).err().unwrap().to_string();
    assert!(error.contains("feed_forward_proj \"gated-silu\": the activation should be one of gelu, "), "{error}");
    let affine = OptConfig { layer_norm_elementwise_affine: false, ..opt_config() };
    let error = Opt::from_scope(&Scope::root(&Arbitrary::default()), affine).err().unwrap().to_string();
    assert!(error.contains("layer_norm_elementwise_affine is false"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"model_type": "t5"}"#).unwrap();
    let error = load(folder.path(), Device::Cpu, Kind::Half, T5Gelu::Config).err().unwrap().to_string();
    assert!(error.contains("bfloat16"), "{error}");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("merges.txt", "");
    let tokenizer = |vocabulary: &str| {
        write("vocab.json", vocabulary);
        Tokenizer::load(folder.path()).unwrap()
    };
    let model = opt(opt_config());
    let right = tokenizer(r#"{"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3}"#);
    assert_eq!(check_tokenizer(&right, &model), Ok(()));
    let refused = |vocabulary: &str, model: &dyn LanguageModel| {
        check_tokenizer(&tokenizer(vocabulary), model).unwrap_err().to_string()
    };
    assert!(refused(r#"{"<pad>": 0, "</s>": 1, "a": 2}"#, &model).contains("padding is id 0"));
    assert!(refused(r#"{"a": 0, "<pad>": 1, "</s>": 3}"#, &model).contains("ends with 2"));
    let small = opt(OptConfig { vocab_size: 3, ..opt_config() });
    assert!(refused(r#"{"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3}"#, &small).contains("4 tokens, but 3 embeddings"));
}
