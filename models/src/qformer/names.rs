//! What the Q-Former's tensors are called: by LAVIS, whose names are quern's own, and by Hugging Face's `Blip2*` models.
//!
//! One table for both directions. Hugging Face has no place for LAVIS' `temp` and `Qformer.cls.*`, and calls the
//! projection to either language model `language_projection`.

/// LAVIS' name and Hugging Face's. `*` is one part of a name, a `**` at the end is all that follows; the first row that
/// fits counts.
const TABLE: [(&str, &str); 13] = [
    ("query_tokens", "query_tokens"),
    ("ln_vision.**", "vision_model.post_layernorm.**"),
    ("Qformer.bert.embeddings.LayerNorm.**", "qformer.layernorm.**"),
    ("Qformer.bert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight"),
    ("Qformer.bert.embeddings.position_embeddings.weight", "embeddings.position_embeddings.weight"),
    ("Qformer.bert.encoder.layer.*.attention.self.**", "qformer.encoder.layer.*.attention.attention.**"),
    ("Qformer.bert.encoder.layer.*.crossattention.self.**", "qformer.encoder.layer.*.crossattention.attention.**"),
    ("Qformer.bert.encoder.**", "qformer.encoder.**"),
    ("vision_proj.**", "vision_projection.**"),
    ("text_proj.**", "text_projection.**"),
    ("itm_head.**", "itm_head.**"),
    ("opt_proj.**", "language_projection.**"),
    ("t5_proj.**", "language_projection.**"),
];
/// LAVIS names the projection after the language model.
const PROJECTIONS: [&str; 2] = ["opt_proj", "t5_proj"];
/// LAVIS' names of the parts that are no part of the Q-Former: frozen encoder, language model.
const LAVIS_OTHERS: [&str; 3] = ["visual_encoder.", "opt_model.", "t5_model."];
/// Hugging Face's. (`vision_model.post_layernorm` is `ln_vision`.)
const HUGGING_FACE_OTHERS: [&str; 2] = ["vision_model.", "language_model."];
/// What only stage 1 has: heads, temperature, text side.
const STAGE1_ONLY: [&str; 7] = [
    "temp",
    "Qformer.cls.**",
    "Qformer.bert.embeddings.word_embeddings.weight",
    "Qformer.bert.embeddings.position_embeddings.weight",
    "vision_proj.**",
    "text_proj.**",
    "itm_head.**",
];
/// The text side's feed-forward layers.
const TEXT_FEED_FORWARD: [&str; 2] =
    ["Qformer.bert.encoder.layer.*.intermediate.**", "Qformer.bert.encoder.layer.*.output.**"];

/// Hugging Face's name of the Q-Former tensor that LAVIS calls `lavis`; none: there is no place for it.
pub fn to_hugging_face(lavis: &str) -> Option<String> {
    TABLE.iter().find_map(|(from, to)| translate(lavis, from, to))
}

/// LAVIS' name of the Q-Former tensor that Hugging Face calls `hugging_face`; none: it is no tensor of a Q-Former.
/// `projection` is what LAVIS calls the projection to the language model, `opt_proj` or `t5_proj`.
pub fn to_lavis(hugging_face: &str, projection: &str) -> Option<String> {
    let fits = |lavis: &str| !PROJECTIONS.iter().any(|other| *other != projection && lavis.starts_with(other));
    TABLE.iter().filter(|(lavis, _)| fits(lavis)).find_map(|(to, from)| translate(hugging_face, from, to))
}

/// Whether a checkpoint's tensor, in LAVIS' names, belongs to the frozen encoder or the language model.
pub fn is_other_part(lavis: &str) -> bool {
    LAVIS_OTHERS.iter().any(|prefix| lavis.starts_with(prefix))
}

/// The same in Hugging Face's names.
pub fn is_other_part_of_hugging_face(name: &str) -> bool {
    HUGGING_FACE_OTHERS.iter().any(|prefix| name.starts_with(prefix)) && to_lavis(name, PROJECTIONS[0]).is_none()
}

/// Whether only stage 1 has this tensor (LAVIS' name): LAVIS deletes the text side for stage 2 and makes no heads.
pub fn is_stage1_only(lavis: &str) -> bool {
    STAGE1_ONLY.iter().chain(&TEXT_FEED_FORWARD).any(|pattern| captures(lavis, pattern).is_some())
}

/// Whether this tensor (LAVIS' name) is one of a projection to a language model.
pub fn is_projection(lavis: &str) -> bool {
    PROJECTIONS.iter().any(|projection| lavis.starts_with(projection))
}

/// `name`, which `from` fits, in the form of `to`.
fn translate(name: &str, from: &str, to: &str) -> Option<String> {
    let mut found = captures(name, from)?.into_iter();
    let parts = to.split('.').map(|part| if part.starts_with('*') { found.next().unwrap_or(part) } else { part });
    Some(parts.collect::<Vec<_>>().join("."))
}

/// What the stars of `pattern` stand for in `name`; none where it doesn't fit.
fn captures<'a>(name: &'a str, pattern: &str) -> Option<Vec<&'a str>> {
    let mut found = Vec::new();
    let mut rest = Some(name);
    for expected in pattern.split('.') {
        let remaining = rest?;
        if expected == "**" {
            found.push(remaining);
            return Some(found);
        }
        let (part, after) = remaining.split_once('.').map_or((remaining, None), |(part, after)| (part, Some(after)));
        match expected {
            "*" => found.push(part),
            _ if expected == part => {}
            _ => return None,
        }
        rest = after;
    }
    rest.is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_translate_there_and_back() {
        for (lavis, hugging_face) in [
            ("query_tokens", "query_tokens"),
            ("ln_vision.bias", "vision_model.post_layernorm.bias"),
            ("Qformer.bert.embeddings.LayerNorm.weight", "qformer.layernorm.weight"),
            ("Qformer.bert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight"),
            (
                "Qformer.bert.encoder.layer.10.attention.self.key.bias",
                "qformer.encoder.layer.10.attention.attention.key.bias",
            ),
            (
                "Qformer.bert.encoder.layer.0.crossattention.self.value.weight",
                "qformer.encoder.layer.0.crossattention.attention.value.weight",
            ),
            (
                "Qformer.bert.encoder.layer.0.crossattention.output.LayerNorm.bias",
                "qformer.encoder.layer.0.crossattention.output.LayerNorm.bias",
            ),
            (
                "Qformer.bert.encoder.layer.3.output_query.dense.weight",
                "qformer.encoder.layer.3.output_query.dense.weight",
            ),
            ("vision_proj.weight", "vision_projection.weight"),
            ("itm_head.bias", "itm_head.bias"),
            ("t5_proj.bias", "language_projection.bias"),
        ] {
            assert_eq!(to_hugging_face(lavis).as_deref(), Some(hugging_face));
            assert_eq!(to_lavis(hugging_face, "t5_proj").as_deref(), Some(lavis));
        }
        assert_eq!(to_lavis("language_projection.bias", "opt_proj").as_deref(), Some("opt_proj.bias"));
    }

    #[test]
    fn what_the_other_side_does_not_have_has_no_name() {
        for lavis in ["temp", "Qformer.cls.predictions.bias", "visual_encoder.cls_token", "opt_model.lm_head.weight"] {
            assert_eq!(to_hugging_face(lavis), None);
        }
        for hugging_face in ["vision_model.embeddings.class_embedding", "language_model.lm_head.weight", "pooler.x"] {
            assert_eq!(to_lavis(hugging_face, "opt_proj"), None);
        }
    }

    #[test]
    fn other_parts_and_the_text_side_are_known_by_name() {
        assert!(is_other_part("visual_encoder.blocks.0.attn.q_bias") && !is_other_part("ln_vision.weight"));
        assert!(is_other_part_of_hugging_face("vision_model.encoder.layers.0.mlp.fc1.bias"));
        assert!(!is_other_part_of_hugging_face("vision_model.post_layernorm.bias"));
        let layer = "Qformer.bert.encoder.layer.1";
        for (name, expected) in [
            (format!("{layer}.output.LayerNorm.bias"), true),
            (format!("{layer}.intermediate.dense.bias"), true),
            (format!("{layer}.output_query.dense.bias"), false),
            (format!("{layer}.attention.output.dense.bias"), false),
            ("Qformer.bert.embeddings.LayerNorm.bias".into(), false),
            ("Qformer.cls.predictions.bias".into(), true),
            ("temp".into(), true),
        ] {
            assert_eq!(is_stage1_only(&name), expected, "{name}");
        }
    }
}
