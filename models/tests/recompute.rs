//! Activation checkpointing measured: the process's peak memory, alone in this binary so that nothing else moves it.

use std::fs;
use std::path::Path;

use quern_models::language::{LanguageModel, LossOptions, Texts};
use quern_models::opt::{Opt, OptConfig};
use quern_models::weights::{Scope, TensorSource, WeightsError};
use tch::{Device, Kind, Tensor};

const LAYERS: usize = 12;
const WIDTH: i64 = 128;
const IMAGES: i64 = 32;
const LENGTH: i64 = 128;

struct Noise;

impl TensorSource for Noise {
    fn tensor(&self, _: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        Ok(Tensor::ones(shape, (Kind::Float, Device::Cpu)) * 0.01)
    }

    fn has(&self, _: &str) -> bool {
        false
    }

    fn tied(&self, _: &str, _: &str, _: &Tensor) -> Result<(), WeightsError> {
        Ok(())
    }
}

/// A line of `/proc/self/status`, in bytes.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// How much more memory than now `work` needs at its peak.
fn peak(work: impl FnOnce()) -> u64 {
    fs::write(Path::new("/proc/self/clear_refs"), "5").unwrap(); // the peak becomes what is used now
    let before = memory("VmRSS");
    work();
    memory("VmHWM") - before
}

#[test]
fn recomputing_keeps_one_layers_activations_alive() {
    let config = OptConfig {
        vocab_size: 64,
        hidden_size: WIDTH,
        num_hidden_layers: LAYERS,
        ffn_dim: 4 * WIDTH,
        max_position_embeddings: LENGTH,
        num_attention_heads: 4,
        ..OptConfig::default()
    };
    let model = Opt::from_scope(&Scope::root(&Noise), config).unwrap();
    let visual = Tensor::zeros([IMAGES, 4, WIDTH], (Kind::Float, Device::Cpu));
    let ids = Tensor::ones([IMAGES, LENGTH - 4], (Kind::Int64, Device::Cpu));
    let texts = Texts { mask: ids.ones_like(), labels: ids.shallow_clone(), ids };
    let loss = |recompute| {
        let _ = model.loss(&visual, &texts, LossOptions { recompute, probes: false });
    };
    loss(true); // what libtorch sets up once
    let (recomputed, kept) = (peak(|| loss(true)), peak(|| loss(false)));
    // of a layer, x is always kept; q, k, v, the attention's output, both layer norms' inputs and the MLP's inner states
    // are its activations
    let states = (IMAGES * LENGTH * WIDTH) as u64 * 4;
    let saved = kept.saturating_sub(recomputed);
    assert!(saved > (LAYERS as u64 - 2) * 5 * states, "{recomputed} instead of {kept} bytes");
}
