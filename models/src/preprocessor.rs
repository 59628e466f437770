//! `preprocessor_config.json`: what a model wants done to an image. No pixel is touched here.

use std::path::Path;

use serde::Deserialize;

use crate::weights::{WeightsError, read_json};

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
    /// Reads `preprocessor_config.json` or, where a folder has none, `processor_config.json`.
    pub fn read(folder: &Path) -> Result<Self, WeightsError> {
        let path = folder.join("preprocessor_config.json");
        let whole = folder.join("processor_config.json");
        if !path.is_file() && whole.is_file() {
            let file: ProcessorFile = read_json(&whole)?;
            return Self::from_file(file.image_processor, &whole);
        }
        Self::from_file(read_json(&path)?, &path)
    }

    fn from_file(file: File, path: &Path) -> Result<Self, WeightsError> {
        let refuse = |reason: &str| {
            Err(WeightsError::Config { location: path.display().to_string(), reason: reason.to_string() })
        };
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

    fn read(name: &str, json: &str) -> Result<PreprocessorConfig, WeightsError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), json).unwrap();
        PreprocessorConfig::read(folder.path())
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
        ] {
            let error = read("preprocessor_config.json", &format!("{{{STATISTICS}, {extra}}}")).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
