//! `text`: caption clean-up and the ids of four tokenisers, each from every kind of file that the case has for it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use quern_models::caption_text::pre_caption;
use quern_models::tokenize::{Padding, Tokenizer};
use serde::Deserialize;
use tch::Tensor;

use crate::case::Case;
use crate::checks::{Checks, Tolerance};

/// The raw and the cleaned captions.
const FORMS: [&str; 2] = ["raw", "pre"];
/// `<extra_id_…>` tokens of the cases' T5 tokenizers (a public one has 100).
const T5_EXTRA_IDS: usize = 10;

#[derive(Deserialize)]
struct Config {
    captions: Vec<String>,
    pre_caption: Vec<String>,
    pre_caption_with_prompt: Vec<String>,
    prompt: String,
    max_words: usize,
    bert: Limits,
    clip: Limits,
    opt: Limits,
    #[serde(default)]
    t5: Limits,
    /// Form -> implementation -> rows on which the originals' own implementations differ.
    implementations_disagree_on_rows: BTreeMap<String, BTreeMap<String, Vec<i64>>>,
}

#[derive(Deserialize, Default, Clone, Copy)]
struct Limits {
    max_length: usize,
}

/// Checks a case.
pub fn check(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let config: Config = case.config()?;
    let cleaned: Vec<String> = config.captions.iter().map(|text| pre_caption(text, config.max_words)).collect();
    for (index, expected) in config.pre_caption.iter().enumerate() {
        ensure!(cleaned[index] == *expected, "caption {index}: {:?} instead of {expected:?}", cleaned[index]);
        let prompted = format!("{}{}", config.prompt, cleaned[index]);
        let expected = &config.pre_caption_with_prompt[index];
        ensure!(prompted == *expected, "prompted caption {index}: {prompted:?} instead of {expected:?}");
    }
    let file = |name: &str| case.folder.join(name);
    let json = |name: &str| Tokenizer::from_json_file(&file(&format!("{name}_tokenizer.json")));
    let mut bert = Tokenizer::bert(&file("bert_vocab.txt"), true)?;
    bert.add_special_token("[DEC]");
    let clip = Tokenizer::clip(&file("clip_vocab.json"), &file("clip_merges.txt"))?;
    let opt = Tokenizer::opt(&file("opt_vocab.json"), &file("opt_merges.txt"))?;
    let t5 = Tokenizer::t5(&file("t5_spiece.model"), T5_EXTRA_IDS)?;
    let with_newline = |texts: &[String]| texts.iter().map(|text| format!("{text}\n")).collect::<Vec<_>>();
    let plain = |texts: &[String]| texts.to_vec();
    for (form, texts) in FORMS.into_iter().zip([&config.captions, &cleaned]) {
        let mut check = |name: &str, tokenizer: &Tokenizer, limits: Limits, texts: Vec<String>, padding| {
            tokens(checks, &config, name, form, tokenizer, &texts, limits.max_length, padding)
        };
        for tokenizer in [&bert, &json("bert")?] {
            check("bert", tokenizer, config.bert, plain(texts), Padding::MaxLength)?;
        }
        for tokenizer in [&clip, &json("clip")?] {
            check("clip", tokenizer, config.clip, plain(texts), Padding::MaxLength)?;
        }
        for tokenizer in [&opt, &json("opt")?] {
            check("opt", tokenizer, config.opt, with_newline(texts), Padding::Longest)?;
        }
        for tokenizer in [&t5, &json("t5")?] {
            check("t5", tokenizer, config.t5, plain(texts), Padding::Longest)?;
        }
    }
    Ok(())
}

/// Compares ids and mask on the rows on which the original implementations agree.
#[expect(clippy::too_many_arguments, reason = "one flat comparison")]
fn tokens(
    checks: &mut Checks,
    config: &Config,
    name: &str,
    form: &str,
    tokenizer: &Tokenizer,
    texts: &[String],
    max_length: usize,
    padding: Padding,
) -> anyhow::Result<()> {
    let disputed: BTreeSet<i64> = (config.implementations_disagree_on_rows.get(form).into_iter().flatten())
        .filter(|(implementation, _)| implementation.starts_with(name))
        .flat_map(|(_, rows)| rows.iter().copied())
        .collect();
    let rows: Vec<i64> = (0..texts.len() as i64).filter(|row| !disputed.contains(row)).collect();
    let rows = Tensor::from_slice(&rows);
    let (ids, mask) = tokenizer.encode_padded(texts, max_length, padding);
    for (part, actual) in [("ids", ids), ("mask", mask)] {
        let tensor = format!("{name}_{form}_{part}");
        let expected = checks.expected(&tensor)?;
        ensure!(
            actual.size() == expected.size(),
            "{tensor} has shape {:?}, expected {:?}",
            actual.size(),
            expected.size()
        );
        let agreed = |tensor: &Tensor| tensor.index_select(0, &rows);
        checks.compare_with(&tensor, &agreed(&actual), &agreed(expected), Tolerance::Exact)?;
    }
    Ok(())
}
