//! `config.json` of a model folder, read for the role that the model is to play.

use std::fmt::Display;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::weights::{WeightsError, read_json};

/// The name that Hugging Face gives it.
pub const CONFIG_FILE: &str = "config.json";

/// What a model is to do, and which models can.
#[derive(Debug, Clone, Copy)]
pub struct Role {
    /// As in "the captioner".
    pub name: &'static str,
    /// The `model_type`s that can do it.
    pub model_types: &'static [&'static str],
    /// The `architectures` that can, where a model type has several; empty: any.
    pub architectures: &'static [&'static str],
}

#[derive(Deserialize)]
struct Identity {
    model_type: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
}

impl Role {
    /// Reads `config.json` of `folder`, whose model must be one for this role.
    ///
    /// # Errors
    /// When the file is missing or damaged, of another model, or has a value that isn't supported: the error names the
    /// file and the field, what was expected and what was found.
    pub fn config<T: DeserializeOwned>(&self, folder: &Path) -> Result<T, WeightsError> {
        self.check(folder)?;
        read_config(&folder.join(CONFIG_FILE))
    }

    /// The `model_type` of `folder`, which must be one for this role.
    pub fn check(&self, folder: &Path) -> Result<String, WeightsError> {
        let path = folder.join(CONFIG_FILE);
        let Identity { model_type, architectures } = read_config(&path)?;
        let Role { name, model_types, architectures: able } = self;
        let refuse = |field, expected: &[&str], found: &dyn Display| {
            let reason = format!("{field} of the {name} should be {}, found {found}", expected.join(" or "));
            Err(config_error(&path, &reason))
        };
        let Some(model_type) = model_type else { return refuse("model_type", model_types, &"none") };
        if !model_types.contains(&model_type.as_str()) {
            return refuse("model_type", model_types, &model_type);
        }
        let architectures = architectures.unwrap_or_default();
        if !able.is_empty()
            && !architectures.is_empty()
            && !architectures.iter().any(|own| able.contains(&own.as_str()))
        {
            return refuse("architectures", able, &architectures.join(", "));
        }
        Ok(model_type)
    }
}

/// Reads a config; a field that doesn't fit is named with the file.
pub(crate) fn read_config<T: DeserializeOwned>(path: &Path) -> Result<T, WeightsError> {
    config_value(&path.display().to_string(), read_json(path)?)
}

/// The same of JSON that is already read; `location` names it.
pub(crate) fn config_value<T: DeserializeOwned>(location: &str, value: Value) -> Result<T, WeightsError> {
    let refuse =
        |error: serde_json::Error| WeightsError::Config { location: location.into(), reason: error.to_string() };
    serde_json::from_value(value).map_err(refuse)
}

/// An error about the config at `path`.
pub(crate) fn config_error(path: &Path, reason: &str) -> WeightsError {
    WeightsError::Config { location: path.display().to_string(), reason: reason.to_string() }
}

/// Errs unless the heads share the width evenly.
pub(crate) fn check_heads(path: &Path, section: &str, width: i64, heads: i64) -> Result<(), WeightsError> {
    if heads > 0 && width > 0 && width % heads == 0 {
        return Ok(());
    }
    let reason = format!("{section}.hidden_size should be a multiple of num_attention_heads {heads}, found {width}");
    Err(config_error(path, &reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTIONER: Role =
        Role { name: "captioner", model_types: &["blip"], architectures: &["BlipForConditionalGeneration"] };

    fn refusal(json: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG_FILE), json).unwrap();
        CAPTIONER.check(folder.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_model_of_another_kind_is_refused_with_file_field_expected_and_found() {
        for (json, parts) in [
            (r#"{"model_type": "t5"}"#, ["config.json", "model_type of the captioner", "be blip", "found t5"]),
            (r#"{"vocab_size": 3}"#, ["config.json", "model_type of the captioner", "be blip", "found none"]),
            (
                r#"{"model_type": "blip", "architectures": ["BlipForQuestionAnswering"]}"#,
                ["architectures", "BlipForConditionalGeneration", "found", "BlipForQuestionAnswering"],
            ),
        ] {
            let text = refusal(json);
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
