//! What a model wants done to an image. No pixel is touched here.
//!
//! Read from Hugging Face's `preprocessor_config.json` or `processor_config.json` (`CLIPImageProcessor`,
//! `BlipImageProcessor`, which BLIP-2 uses too), or from the `preprocess_cfg` of open_clip's config. LAVIS' files come
//! without any: then it is what its `blip_image_eval` does, see [`PreprocessorConfig::lavis`].

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::clip::open_clip;
use crate::config::{CONFIG_FILE, config_error, read_config};
use crate::weights::WeightsError;

/// OpenAI's statistics, which every model of the paper uses.
pub const CLIP_MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
/// See [`CLIP_MEAN`].
#[expect(clippy::excessive_precision, reason = "the digits that OpenAI gives")]
pub const CLIP_STD: [f32; 3] = [0.26862954, 0.26130258, 0.27577711];
/// LAVIS' `blip_image_eval` for the encoders of its stage 1.
const LAVIS_IMAGE_SIZE: u32 = 224;
/// The families whose image processors are reproduced, by how their names begin.
const PROCESSORS: [&str; 2] = ["CLIP", "Blip"];

/// Pillow's number for the bicubic filter.
const BICUBIC: u32 = 3;

/// How images are prepared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreprocessorConfig {
    /// Subtracted from each channel, of pixels in [0, 1].
    pub mean: [f32; 3],
    /// Each channel is divided by.
    pub std: [f32; 3],
    /// The geometry.
    pub resize: Resize,
}

/// The geometry; always bicubic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// The shortest side becomes `size`, then a square of side `crop` is cut from the centre (CLIP).
    ShortestSide {
        /// Of the resized image.
        size: u32,
        /// Side of the square.
        crop: u32,
    },
    /// Both sides are set, whatever the aspect ratio (BLIP).
    Squash {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
}

#[derive(Deserialize)]
struct File {
    #[serde(alias = "feature_extractor_type")]
    image_processor_type: Option<String>,
    image_mean: [f32; 3],
    image_std: [f32; 3],
    size: Size,
    crop_size: Option<Size>,
    #[serde(default = "bicubic")]
    resample: u32,
    do_resize: Option<bool>,
    do_center_crop: Option<bool>,
    do_normalize: Option<bool>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
}

/// A whole processor's file, as transformers 5 writes it.
#[derive(Deserialize)]
struct ProcessorFile {
    image_processor: File,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(untagged)]
enum Size {
    Shortest { shortest_edge: u32 },
    Both { height: u32, width: u32 },
    One(u32),
}

fn bicubic() -> u32 {
    BICUBIC
}

impl PreprocessorConfig {
    /// Reads what lies at `path`, the folder or file of a model.
    ///
    /// # Errors
    /// When a file is damaged or asks for what quern does not do, and when a folder in Hugging Face's layout has none.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let [own, whole, open_clip] =
            ["preprocessor_config.json", "processor_config.json", open_clip::CONFIG_FILE].map(|name| path.join(name));
        if own.is_file() {
            Self::from_file(read_config(&own)?, &own)
        } else if whole.is_file() {
            let file: ProcessorFile = read_config(&whole)?;
            Self::from_file(file.image_processor, &whole)
        } else if open_clip.is_file() {
            open_clip::read_preprocessing(&open_clip)
        } else if path.join(CONFIG_FILE).is_file() || !path.exists() {
            let reason = "no preprocessor_config.json (nor processor_config.json) there, which says how images are \
                          prepared; take it from where the model comes from";
            Err(config_error(path, reason))
        } else {
            Ok(Self::lavis(LAVIS_IMAGE_SIZE))
        }
    }

    /// What LAVIS' `blip_image_eval` does: both sides become `side` pixels, OpenAI's statistics.
    pub fn lavis(side: u32) -> Self {
        let resize = Resize::Squash { width: side, height: side };
        PreprocessorConfig { mean: CLIP_MEAN, std: CLIP_STD, resize }
    }

    /// The same for images of another size: the model receives squares of `side` pixels.
    pub fn with_size(self, side: u32) -> Self {
        let resize = match self.resize {
            Resize::ShortestSide { size, crop } => {
                Resize::ShortestSide { size: (u64::from(size) * u64::from(side) / u64::from(crop)) as u32, crop: side }
            }
            Resize::Squash { .. } => Resize::Squash { width: side, height: side },
        };
        PreprocessorConfig { resize, ..self }
    }

    fn from_file(file: File, path: &Path) -> Result<Self, WeightsError> {
        let refuse = |reason: &str| Err(config_error(path, reason));
        if let Some(name) = file.image_processor_type.filter(|name| !PROCESSORS.iter().any(|own| name.starts_with(own)))
        {
            return refuse(&format!("image_processor_type should be CLIP's or BLIP's image processor, found {name}"));
        }
        if file.resample != BICUBIC {
            return refuse("resample is not 3 (bicubic), the only filter that quern has");
        }
        if [file.do_resize, file.do_normalize, file.do_rescale].contains(&Some(false)) {
            return refuse("do_resize, do_normalize and do_rescale must be true");
        }
        if file.rescale_factor.is_some_and(|factor| (factor * 255.0 - 1.0).abs() > 1e-6) {
            return refuse("rescale_factor is not 1/255");
        }
        let crop = file.crop_size.filter(|_| file.do_center_crop != Some(false));
        let resize = match (file.size, crop) {
            (Size::Shortest { shortest_edge: size } | Size::One(size), Some(crop)) => match crop {
                Size::One(crop) => Resize::ShortestSide { size, crop },
                Size::Both { height, width } if height == width => Resize::ShortestSide { size, crop: height },
                _ => return refuse("crop_size is not a square"),
            },
            (Size::Both { height, width }, None) => Resize::Squash { width, height },
            (Size::One(side), None) => Resize::Squash { width: side, height: side },
            _ => return refuse("size and crop_size fit neither CLIP (shortest_edge, crop) nor BLIP (height, width)"),
        };
        Ok(PreprocessorConfig { mean: file.image_mean, std: file.image_std, resize })
    }

    /// The same as Hugging Face's `preprocessor_config.json`.
    pub fn to_hugging_face(&self) -> Value {
        let (name, size, crop) = match self.resize {
            Resize::ShortestSide { size, crop } => (
                "CLIPImageProcessor",
                json!({ "shortest_edge": size }),
                json!({ "do_center_crop": true, "crop_size": { "height": crop, "width": crop } }),
            ),
            Resize::Squash { width, height } => {
                ("BlipImageProcessor", json!({ "height": height, "width": width }), json!({}))
            }
        };
        let mut fields = json!({
            "image_processor_type": name,
            "do_convert_rgb": true,
            "do_resize": true, "size": size, "resample": BICUBIC,
            "do_rescale": true, "rescale_factor": 1.0 / 255.0,
            "do_normalize": true, "image_mean": self.mean, "image_std": self.std,
        });
        if let (Some(fields), Value::Object(crop)) = (fields.as_object_mut(), crop) {
            fields.extend(crop);
        }
        fields
    }

    /// Width and height of what the model receives.
    pub fn output_size(&self) -> (u32, u32) {
        match self.resize {
            Resize::ShortestSide { crop, .. } => (crop, crop),
            Resize::Squash { width, height } => (width, height),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, json: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), json).unwrap();
        folder
    }

    fn read(name: &str, json: &str) -> Result<PreprocessorConfig, WeightsError> {
        PreprocessorConfig::read(folder(name, json).path())
    }

    const STATISTICS: &str = r#""image_mean": [0.5, 0.25, 0.125], "image_std": [1, 2, 3]"#;

    #[test]
    fn clips_file_means_shortest_side_and_crop() {
        let json = format!(
            r#"{{{STATISTICS}, "size": {{"shortest_edge": 256}}, "crop_size": {{"height": 224, "width": 224}}, "resample": 3}}"#
        );
        let config = read("preprocessor_config.json", &json).unwrap();
        assert_eq!(config.resize, Resize::ShortestSide { size: 256, crop: 224 });
        assert_eq!(config.mean, [0.5, 0.25, 0.125]);
        assert_eq!(config.output_size(), (224, 224));
    }

    #[test]
    fn old_clip_files_give_plain_numbers() {
        let json = format!(r#"{{{STATISTICS}, "size": 224, "crop_size": 224, "do_center_crop": true}}"#);
        let config = read("preprocessor_config.json", &json).unwrap();
        assert_eq!(config.resize, Resize::ShortestSide { size: 224, crop: 224 });
    }

    #[test]
    fn blips_file_means_squash_also_inside_a_processors_file() {
        let own = format!(r#"{{{STATISTICS}, "size": {{"height": 384, "width": 256}}}}"#);
        let whole = format!(r#"{{"image_processor": {own}}}"#);
        for (name, json) in [("preprocessor_config.json", own), ("processor_config.json", whole)] {
            assert_eq!(read(name, &json).unwrap().resize, Resize::Squash { width: 256, height: 384 });
        }
    }

    #[test]
    fn what_quern_does_not_do_is_refused() {
        for (extra, part) in [
            (r#""size": 224, "resample": 2"#, "resample"),
            (r#""size": 224, "do_resize": false"#, "do_resize"),
            (r#""size": 224, "rescale_factor": 1.0"#, "rescale_factor"),
            (r#""size": {"shortest_edge": 224}"#, "crop_size"),
            (r#""size": 224, "image_processor_type": "ViTImageProcessor""#, "found ViTImageProcessor"),
        ] {
            let error = read("preprocessor_config.json", &format!("{{{STATISTICS}, {extra}}}")).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn blip_2s_own_file_is_blips() {
        let json = format!(
            r#"{{{STATISTICS}, "do_convert_rgb": true, "do_resize": true, "do_rescale": true, "do_normalize": true,
                 "image_processor_type": "BlipImageProcessor", "processor_class": "Blip2Processor", "resample": 3,
                 "rescale_factor": 0.00392156862745098, "size": {{"height": 224, "width": 224}}}}"#
        );
        let config = read("preprocessor_config.json", &json).unwrap();
        assert_eq!(config.resize, Resize::Squash { width: 224, height: 224 });
    }

    #[test]
    fn open_clips_preprocessing_is_part_of_its_config() {
        let model = r#""model_cfg": {"vision_cfg": {"image_size": 336}}"#;
        for (extra, resize) in [
            ("", Resize::ShortestSide { size: 336, crop: 336 }),
            (r#", "resize_mode": "squash", "size": [3, 224, 224]"#, Resize::Squash { width: 224, height: 224 }),
            (r#", "resize_mode": "shortest", "size": 224"#, Resize::ShortestSide { size: 224, crop: 224 }),
        ] {
            let statistics = r#""mean": [0.5, 0.25, 0.125], "std": [1, 2, 3], "interpolation": "bicubic""#;
            let json = format!(r#"{{{model}, "preprocess_cfg": {{{statistics}{extra}}}}}"#);
            let config = read("open_clip_config.json", &json).unwrap();
            assert_eq!((config.resize, config.mean, config.std), (resize, [0.5, 0.25, 0.125], [1.0, 2.0, 3.0]));
        }
        let json = format!(r#"{{{model}}}"#);
        assert_eq!(read("open_clip_config.json", &json).unwrap().mean, CLIP_MEAN);
        for extra in [r#""interpolation": "bilinear""#, r#""resize_mode": "longest""#, r#""mode": "L""#] {
            let json = format!(r#"{{{model}, "preprocess_cfg": {{{extra}}}}}"#);
            let error = read("open_clip_config.json", &json).unwrap_err().to_string();
            assert!(error.contains("open_clip_config.json") && error.contains("unknown variant"), "{error}");
        }
    }

    #[test]
    fn lavis_layouts_have_lavis_transform_and_others_must_say() {
        let lavis = folder("eva_vit_g.pth", "");
        assert_eq!(PreprocessorConfig::read(lavis.path()).unwrap(), PreprocessorConfig::lavis(224));
        let file = lavis.path().join("eva_vit_g.pth");
        assert_eq!(PreprocessorConfig::read(&file).unwrap().with_size(364), PreprocessorConfig::lavis(364));
        let error = read("config.json", "{}").unwrap_err().to_string();
        assert!(error.contains("preprocessor_config.json"), "{error}");
    }

    #[test]
    fn what_is_written_reads_back() {
        for resize in [Resize::ShortestSide { size: 256, crop: 224 }, Resize::Squash { width: 364, height: 364 }] {
            let config = PreprocessorConfig { resize, ..PreprocessorConfig::lavis(224) };
            assert_eq!(read("preprocessor_config.json", &config.to_hugging_face().to_string()).unwrap(), config);
        }
    }

    #[test]
    fn another_size_keeps_the_margin_of_the_crop() {
        let config = PreprocessorConfig {
            resize: Resize::ShortestSide { size: 256, crop: 224 },
            ..PreprocessorConfig::lavis(1)
        };
        assert_eq!(config.with_size(448).resize, Resize::ShortestSide { size: 512, crop: 448 });
    }
}
