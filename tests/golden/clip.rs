//! `clip_rank`: embeddings, cosines, and which captions of an image are kept.

use quern_capfilt::{Candidate, Source, select};
use quern_models::clip::{Clip, cosine};
use tch::{Kind, Tensor};

use crate::case::Case;
use crate::checks::{Checks, Tolerance};

/// Captions kept per image, in these cases as in the paper.
const KEEP: usize = 2;

/// Checks a case.
pub fn check(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let clip = Clip::from_weights(case.weights()?, case.config()?)?;
    let images = clip.image_embeds(case.input("pixel_values")?);
    let (ids, mask) = (case.input("input_ids")?, case.input("attention_mask")?); // [B, captions, L]
    let texts = clip.text_embeds(&ids.flatten(0, 1), &mask.flatten(0, 1));
    let padded_with_0 = clip.text_embeds(&case.input("input_ids_pad0")?.flatten(0, 1), &mask.flatten(0, 1));
    checks.states("image_embeds", &images)?;
    checks.states("text_embeds", &texts)?;
    checks.states("text_embeds", &padded_with_0)?;
    if case.has_file("weights_openai.safetensors") {
        let openai = Clip::from_weights(case.weights_file("weights_openai.safetensors")?, case.config()?)?;
        checks.states("image_embeds", &openai.image_embeds(case.input("pixel_values")?))?;
        checks.states("text_embeds", &openai.text_embeds(&ids.flatten(0, 1), &mask.flatten(0, 1)))?;
    }
    let cosines = cosine(&images, &texts);
    checks.states("cosine", &cosines)?;
    if case.kind()? != Kind::Float {
        return Ok(()); // which of two near captions is better depends on the rounding
    }
    let own = own_cosines(&cosines, ids.size()[1]);
    checks.states("own_cosine", &own)?;
    let rows: Vec<Vec<f32>> = Vec::try_from(&own)?;
    let sequences: Vec<Vec<String>> = rows_of_texts(ids)?;
    let mut apart = Vec::new();
    let mut distinct = Vec::new();
    for (scores, texts) in rows.iter().zip(&sequences) {
        let numbered: Vec<String> = (0..scores.len()).map(|index| index.to_string()).collect();
        apart.push(kept(scores, &numbered));
        distinct.push(kept(scores, texts));
    }
    checks.compare("top2", &table(&apart), Tolerance::Exact)?;
    checks.compare("top2_dedup", &table(&distinct), Tolerance::Exact)
}

/// Of `[B, B · captions]`, each image's own block: `[B, captions]`.
fn own_cosines(cosines: &Tensor, captions: i64) -> Tensor {
    let images = cosines.size()[0];
    let own: Vec<Tensor> = (0..images).map(|image| cosines.get(image).narrow(0, image * captions, captions)).collect();
    Tensor::stack(&own, 0)
}

/// Each caption's ids, written out: captions are the same text if these are.
fn rows_of_texts(ids: &Tensor) -> anyhow::Result<Vec<Vec<String>>> {
    let rows: Vec<Vec<Vec<i64>>> = Vec::try_from(ids)?;
    Ok(rows.iter().map(|row| row.iter().map(|ids| format!("{ids:?}")).collect()).collect())
}

/// The indices that CapFilt's selection keeps; the last caption plays the web's.
fn kept(scores: &[f32], texts: &[String]) -> Vec<i64> {
    let last = scores.len() - 1;
    let candidate = |(index, (text, score)): (usize, (&String, &f32))| Candidate {
        text: text.clone(),
        source: if index == last { Source::Web } else { Source::Synthetic },
        score: *score,
        index: index as u32,
    };
    let candidates: Vec<Candidate> = texts.iter().zip(scores).enumerate().map(candidate).collect();
    select(&candidates, KEEP).into_iter().map(|index| index as i64).collect()
}

fn table(rows: &[Vec<i64>]) -> Tensor {
    Tensor::from_slice2(rows)
}
