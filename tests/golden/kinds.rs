//! Which check a case gets.

use std::path::Path;

use anyhow::bail;

use crate::case::Case;
use crate::checks::Checks;
use crate::{
    blip, blip2, captions, clip, exchange, language, optimiser, parameters, preprocess, qformer, stage2, text, vit,
};

/// Compares what quern computes from a case's inputs with what is expected.
pub type Check = fn(&Case, &mut Checks) -> anyhow::Result<()>;

/// Every kind by its stem; one file each.
const KINDS: &[(&str, Check)] = &[
    ("blip2_prompted", blip2::check),
    ("blip_caption", blip::check),
    ("caption_metrics", captions::check),
    ("clip_rank", clip::check),
    ("clip_vit", vit::check_clip),
    ("eva_vit", vit::check_eva),
    ("export_generation", exchange::check_generation),
    ("export_retrieval", exchange::check_retrieval),
    ("opt_lm", language::check),
    ("optimiser_schedule", optimiser::check),
    ("parameter_count", parameters::check),
    ("preprocess", preprocess::check),
    ("qformer_bert_init", exchange::check_bert_init),
    ("qformer_generate", qformer::check_generate),
    ("qformer_hf", exchange::check_hugging_face),
    ("qformer_itm_masks", qformer::check_masks),
    ("qformer_stage1", qformer::check_stage1),
    ("stage2_opt", stage2::check_opt),
    ("stage2_t5", stage2::check_t5),
    ("t5_lm", language::check),
    ("text", text::check),
];

/// The check of a case folder: its name is a kind's stem, alone or followed by `_…`, or its parent's name is a stem.
pub fn of(folder: &Path) -> anyhow::Result<Check> {
    let folder = folder.canonicalize()?;
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let own = name(&folder);
    let parent = folder.parent().map(name).unwrap_or_default();
    let begins = |stem: &str| own == stem || own.strip_prefix(stem).is_some_and(|rest| rest.starts_with('_'));
    let by_name = KINDS.iter().filter(|(stem, _)| begins(stem)).max_by_key(|(stem, _)| stem.len());
    match by_name.or_else(|| KINDS.iter().find(|(stem, _)| parent == *stem)) {
        Some((_, check)) => Ok(*check),
        None => {
            let known: Vec<&str> = KINDS.iter().map(|(stem, _)| *stem).collect();
            bail!("no kind of case is called {own:?} (nor {parent:?}); known: {}", known.join(", "))
        }
    }
}
