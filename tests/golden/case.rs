//! One case's files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use quern_models::weights::{Weights, read_tensors};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// A case as it lies on disk.
pub struct Case {
    /// Its folder.
    pub folder: PathBuf,
    config: Value,
    inputs: BTreeMap<String, Tensor>,
    /// What the original computed.
    pub expected: BTreeMap<String, Tensor>,
}

impl Case {
    /// Whether `folder` is a case (complete or not) rather than a folder of cases.
    pub fn is_at(folder: &Path) -> bool {
        ["config.json", "inputs.safetensors", "expected.safetensors"].iter().any(|name| folder.join(name).is_file())
    }

    /// Reads all but the weights.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Case {
            folder: folder.to_path_buf(),
            config: serde_json::from_slice(&text).with_context(|| path.display().to_string())?,
            inputs: read_tensors(&folder.join("inputs.safetensors"))?,
            expected: read_tensors(&folder.join("expected.safetensors"))?,
        })
    }

    /// The folder's name.
    pub fn name(&self) -> String {
        self.folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The whole config as a model's own.
    pub fn config<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_value(self.config.clone()).context("config.json")
    }

    /// One value of the config.
    pub fn value<T: DeserializeOwned>(&self, key: &str) -> anyhow::Result<T> {
        let value = self.config.get(key).with_context(|| format!("config.json has no {key:?}"))?;
        serde_json::from_value(value.clone()).with_context(|| format!("config.json: {key}"))
    }

    /// An input tensor.
    pub fn input(&self, name: &str) -> anyhow::Result<&Tensor> {
        self.inputs.get(name).with_context(|| format!("inputs.safetensors has no {name:?}"))
    }

    /// The precision in which the original computed: the config's `dtype`, fp32 if it names none.
    pub fn kind(&self) -> anyhow::Result<Kind> {
        match self.config.get("dtype").and_then(Value::as_str) {
            None | Some("float32") => Ok(Kind::Float),
            Some("bfloat16") => Ok(Kind::BFloat16),
            Some("float16") => Ok(Kind::Half),
            Some(other) => bail!("config.json: dtype {other:?} is none of float32, bfloat16, float16"),
        }
    }

    /// Whether the case has this file.
    pub fn has_file(&self, name: &str) -> bool {
        self.folder.join(name).is_file()
    }

    /// The case's weights on the CPU in the case's precision, under the originals' names.
    pub fn weights(&self) -> anyhow::Result<Weights> {
        self.weights_file("weights.safetensors")
    }

    /// Weights out of another file of the case.
    pub fn weights_file(&self, name: &str) -> anyhow::Result<Weights> {
        Ok(Weights::open(&self.folder.join(name), Device::Cpu, self.kind()?)?)
    }
}
