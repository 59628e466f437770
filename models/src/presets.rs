//! The public models of the paper: their configs, and how many parameters a model of a config has.
//!
//! `models/presets/NAME.json` holds a model's kind, where its checkpoint is to be had, and its config with the fields and
//! values of the public `config.json`. A file that is added there needs a line in `PRESETS`; a new kind of model, a
//! variant of [`Model`]. The parity script counts every file's parameters with transformers, on PyTorch's meta device.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::blip::{Blip, BlipConfig};
use crate::clip::{Clip, ClipConfig, ClipLayout};
use crate::config::config_value;
use crate::eva::{EvaConfig, EvaLayout};
use crate::opt::{Opt, OptConfig};
use crate::qformer::foreign::sizes_of_blip2;
use crate::qformer::{Bridge, BridgeConfig, Projection, QFormer};
use crate::t5::{T5, T5Config, T5Gelu};
use crate::tower::Tower;
use crate::vit::FrozenConfig;
use crate::weights::{WeightsError, parameter_count};

/// Every preset's file, by name.
const PRESETS: [(&str, &str); 21] = [
    ("blip-image-captioning-base", include_str!("../presets/blip-image-captioning-base.json")),
    ("blip-image-captioning-large", include_str!("../presets/blip-image-captioning-large.json")),
    ("blip2-flan-t5-xl-qformer", include_str!("../presets/blip2-flan-t5-xl-qformer.json")),
    ("blip2-itm-vit-g-qformer", include_str!("../presets/blip2-itm-vit-g-qformer.json")),
    ("blip2-opt-2.7b-qformer", include_str!("../presets/blip2-opt-2.7b-qformer.json")),
    ("blip2-pretrain-qformer-lavis", include_str!("../presets/blip2-pretrain-qformer-lavis.json")),
    ("clip-vit-base-patch32", include_str!("../presets/clip-vit-base-patch32.json")),
    ("clip-vit-large-patch14", include_str!("../presets/clip-vit-large-patch14.json")),
    ("clip-vit-large-patch14-336", include_str!("../presets/clip-vit-large-patch14-336.json")),
    ("clip-vit-large-patch14-encoder", include_str!("../presets/clip-vit-large-patch14-encoder.json")),
    ("eva-vit-g-14-224", include_str!("../presets/eva-vit-g-14-224.json")),
    ("eva-vit-g-14-224-lavis", include_str!("../presets/eva-vit-g-14-224-lavis.json")),
    ("eva-vit-g-14-364", include_str!("../presets/eva-vit-g-14-364.json")),
    ("flan-t5-base", include_str!("../presets/flan-t5-base.json")),
    ("flan-t5-xl", include_str!("../presets/flan-t5-xl.json")),
    ("flan-t5-xxl", include_str!("../presets/flan-t5-xxl.json")),
    ("opt-1.3b", include_str!("../presets/opt-1.3b.json")),
    ("opt-125m", include_str!("../presets/opt-125m.json")),
    ("opt-2.7b", include_str!("../presets/opt-2.7b.json")),
    ("opt-350m", include_str!("../presets/opt-350m.json")),
    ("opt-6.7b", include_str!("../presets/opt-6.7b.json")),
];

/// A public model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// What is built.
    pub model: Model,
    /// On the Hugging Face hub (`owner/name`), or LAVIS' file.
    pub repository: String,
    /// As the public `config.json` has it.
    pub config: Value,
}

/// A model that a config describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// The captioner.
    Blip,
    /// The ranker.
    Clip,
    /// CLIP's image tower without its last block.
    ClipEncoder,
    /// EVA-CLIP's image tower in Hugging Face's layout, whose keys have a bias (of zeros).
    EvaEncoder,
    /// The same in LAVIS' layout, without it.
    EvaEncoderLavis,
    /// A language model without encoder.
    Opt,
    /// A language model with one.
    T5,
    /// Stage 1's Q-Former in LAVIS' layout, with temperature and language-model head.
    QformerLavis,
    /// The same in Hugging Face's layout, without them; the image encoder is not counted.
    QformerRetrieval,
    /// Stage 2's: the query side and the projection to the language model.
    QformerGeneration,
}

impl Preset {
    /// Every preset's name.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, _)| *name)
    }

    /// The preset of this name.
    pub fn find(name: &str) -> Option<Self> {
        let (_, json) = PRESETS.iter().find(|(known, _)| *known == name)?;
        Some(serde_json::from_str(json).unwrap_or_else(|error| panic!("presets/{name}.json: {error}")))
    }

    /// Its number of parameters.
    pub fn parameters(&self) -> Result<i64, WeightsError> {
        self.model.parameters(&self.config)
    }
}

impl Model {
    /// The number of parameters of this model with `config`. Nothing of its size is allocated.
    pub fn parameters(self, config: &Value) -> Result<i64, WeightsError> {
        match self {
            Model::Blip => {
                let config: BlipConfig = value(config)?;
                parameter_count(|scope| Blip::from_scope(scope, config))
            }
            Model::Clip => {
                let config: ClipConfig = value(config)?;
                parameter_count(|scope| Clip::from_scope(scope, config, ClipLayout::HuggingFace.qkv()))
            }
            Model::ClipEncoder => {
                let shape = FrozenConfig::Clip(value::<ClipConfig>(config)?.vision_config).shape();
                parameter_count(|scope| Tower::load(scope, &shape))
            }
            Model::EvaEncoder => {
                let shape = FrozenConfig::Eva(value(config)?).shape();
                parameter_count(|scope| Tower::load(scope, &shape))
            }
            Model::EvaEncoderLavis => {
                let config: EvaConfig = value(config)?;
                parameter_count(|scope| Tower::load(scope, &config.tower(EvaLayout::Lavis)))
            }
            Model::Opt => {
                let config: OptConfig = value(config)?;
                parameter_count(|scope| Opt::from_scope(scope, config))
            }
            Model::T5 => {
                let config: T5Config = value(config)?;
                parameter_count(|scope| T5::from_scope(scope, config, T5Gelu::Config))
            }
            Model::QformerLavis => QFormer::parameter_count(&sizes_of_blip2(config)?),
            Model::QformerRetrieval => QFormer::retrieval_parameter_count(&sizes_of_blip2(config)?),
            Model::QformerGeneration => {
                let Sections { text_config: LanguageWidth { width } } = value(config)?;
                // the projection's name does not touch its size
                let projection = Projection::Opt;
                let qformer = sizes_of_blip2(config)?;
                Bridge::parameter_count(&BridgeConfig { qformer, projection, language_width: width })
            }
        }
    }
}

/// What of a `Blip2Config` concerns the projection.
#[derive(Deserialize)]
struct Sections {
    text_config: LanguageWidth,
}

#[derive(Deserialize)]
struct LanguageWidth {
    /// OPT's name and T5's.
    #[serde(alias = "word_embed_proj_dim", alias = "d_model")]
    width: i64,
}

fn value<T: DeserializeOwned>(config: &Value) -> Result<T, WeightsError> {
    config_value("the config", config.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the parity script counts them with transformers, and LAVIS' names, on the meta device.
    const COUNTS: [(&str, i64); 21] = [
        ("blip-image-captioning-base", 223_971_644),
        ("blip-image-captioning-large", 446_290_492),
        ("blip2-flan-t5-xl-qformer", 106_739_968),
        ("blip2-itm-vit-g-qformer", 186_082_818),
        ("blip2-opt-2.7b-qformer", 107_133_696),
        ("blip2-pretrain-qformer-lavis", 186_705_470),
        ("clip-vit-base-patch32", 151_277_313),
        ("clip-vit-large-patch14", 427_616_513),
        ("clip-vit-large-patch14-336", 427_944_193),
        ("clip-vit-large-patch14-encoder", 290_581_504),
        ("eva-vit-g-14-224", 985_949_440),
        ("eva-vit-g-14-224-lavis", 985_894_528),
        ("eva-vit-g-14-364", 986_540_800),
        ("flan-t5-base", 247_577_856),
        ("flan-t5-xl", 2_849_757_184),
        ("flan-t5-xxl", 11_135_332_352),
        ("opt-1.3b", 1_315_758_080),
        ("opt-125m", 125_239_296),
        ("opt-2.7b", 2_651_596_800),
        ("opt-350m", 331_196_416),
        ("opt-6.7b", 6_658_473_984),
    ];

    #[test]
    fn presets_have_as_many_parameters_as_the_originals() {
        assert_eq!(COUNTS.map(|(name, _)| name), PRESETS.map(|(name, _)| name));
        for (name, parameters) in COUNTS {
            assert_eq!(Preset::find(name).expect("a name of the list").parameters().unwrap(), parameters, "{name}");
        }
    }
}
