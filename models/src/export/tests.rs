use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

use super::*;
use crate::language;
use crate::qformer::foreign::{Absent, Checkpoint};
use crate::qformer::{Bridge, BridgeConfig, Parameters, Projection, QFormer, QFormerConfig};
use crate::save::DEFAULT_MAX_SHARD_BYTES;
use crate::t5::T5Gelu;
use crate::vit::FrozenVit;
use crate::weights::{read_json, read_tensors};

fn config() -> QFormerConfig {
    QFormerConfig { encoder_width: 32, ..crate::qformer::tests::config() }
}

fn model() -> QFormer {
    QFormer::init(&config(), 7, Device::Cpu).expect("a valid config")
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The golden EVA tower, in LAVIS' names: biases of queries and values, and a block more than is used.
fn eva() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = repository("tests/golden/cases/eva_vit/weights.safetensors");
    std::fs::copy(weights, folder.path().join("model.safetensors")).expect("copied");
    let fields = json!({
        "model_type": "blip_2_vision_model", "hidden_size": 32, "intermediate_size": 139, "num_hidden_layers": 3,
        "num_attention_heads": 2, "image_size": 56, "patch_size": 14,
    });
    std::fs::write(folder.path().join("config.json"), fields.to_string()).expect("written");
    folder
}

fn assert_same(one: &Parameters, other: &Parameters) {
    assert_eq!(one.len(), other.len());
    for ((name, a), (other_name, b)) in one.iter().zip(other.iter()) {
        assert!(name == other_name && a.equal(b), "{name}");
    }
}

fn exported(image_size: Option<i64>) -> (TempDir, TempDir) {
    let (encoder, out) = (eva(), tempfile::tempdir().expect("a folder"));
    let vision = VisionPart::open(encoder.path(), image_size).expect("an EVA");
    retrieval(out.path(), &model(), 19, &vision, DEFAULT_MAX_SHARD_BYTES).expect("written");
    (encoder, out)
}

#[test]
fn stage_1_reads_back_with_its_image_encoder() {
    let (encoder, out) = exported(None);
    let read = Checkpoint::open(out.path(), Device::Cpu).expect("a checkpoint");
    assert_eq!(read.config(), Some(config()));
    assert_same(model().parameters(), read.stage1(&config(), Absent::Refused).expect("complete").parameters());
    let load = |folder: &TempDir| FrozenVit::load(folder.path(), Device::Cpu, Kind::Float).expect("an encoder");
    let pixels = Tensor::randn([2, 3, 56, 56], (Kind::Float, Device::Cpu));
    assert!(load(&out).features(&pixels).allclose(&load(&encoder).features(&pixels), 1e-5, 1e-6, false));
}

#[test]
fn positions_of_another_image_size_are_stored_for_that_size() {
    let (encoder, out) = exported(Some(84));
    let load = |folder: &TempDir| FrozenVit::load(folder.path(), Device::Cpu, Kind::Float).expect("an encoder");
    let (ours, theirs) = (load(&encoder), load(&out));
    assert_eq!(theirs.image_size(), 84);
    let pixels = Tensor::randn([1, 3, 84, 84], (Kind::Float, Device::Cpu));
    assert!(theirs.features(&pixels).allclose(&ours.features(&pixels), 1e-5, 1e-6, false));
}

#[test]
fn a_clip_tower_is_refused_with_what_can_be_done() {
    let error = VisionPart::open(&repository("zoo/clip"), None).err().expect("refused").to_string();
    assert!(error.contains("LayerNorm") && error.contains("--part qformer") && error.contains("--to lavis"), "{error}");
}

#[test]
fn blocks_alone_read_back_whatever_the_encoder() {
    let out = tempfile::tempdir().expect("a folder");
    qformer(out.path(), &model(), 19).expect("written");
    let read = Checkpoint::open(out.path(), Device::Cpu).expect("a checkpoint");
    assert_same(model().parameters(), read.stage1(&config(), Absent::Refused).expect("complete").parameters());
}

#[test]
fn lavis_files_read_back_with_the_tied_copies() {
    let out = tempfile::tempdir().expect("a folder");
    for (name, file) in [("model.pth", LavisFile::Pickle), ("model.safetensors", LavisFile::Safetensors)] {
        let path = out.path().join(name);
        lavis(&path, model().parameters(), file).expect("written");
        assert!(read_tensors(&path).expect("readable").contains_key("Qformer.cls.predictions.decoder.weight"));
        let read = Checkpoint::open(&path, Device::Cpu).expect("a checkpoint");
        assert_same(model().parameters(), read.stage1(&config(), Absent::Refused).expect("complete").parameters());
    }
}

#[test]
fn stage_2_reads_back_with_its_language_model() {
    let encoder = eva();
    let vision = VisionPart::open(encoder.path(), None).expect("an EVA");
    for (name, projection, table) in [
        ("zoo/opt", Projection::Opt, "language_model.model.decoder.embed_tokens.weight"),
        ("zoo/t5", Projection::T5, "language_model.shared.weight"),
    ] {
        let folder = repository(name);
        let own = language::load(&folder, Device::Cpu, Kind::Float, T5Gelu::Config).expect("a language model");
        let bridge = Bridge::from_stage1(&model(), projection, own.width(), 7).expect("valid");
        let out = tempfile::tempdir().expect("a folder");
        let image_token = own.vocabulary(); // the zoo's models have no spare row
        let language = LanguagePart::open(&folder, image_token, T5Gelu::Config).expect("a language model");
        generation(out.path(), &bridge, &vision, &language, 100_000).expect("written");
        let read = Checkpoint::open(out.path(), Device::Cpu).expect("a checkpoint");
        let config = BridgeConfig { qformer: config(), projection, language_width: own.width() };
        assert_same(bridge.parameters(), read.bridge(&config, 0).expect("complete").parameters());
        // stored in half precision, perhaps
        let table = &read_tensors(out.path()).expect("shards")[table].to_kind(Kind::Float);
        let (rows, added) = (table.narrow(0, 0, image_token), table.get(image_token));
        assert!(rows.mean_dim(&[0i64][..], false, Kind::Float).allclose(&added, 1e-3, 1e-5, false), "{name}");
        let fields: Value = read_json(&out.path().join("config.json")).expect("JSON");
        assert_eq!(fields["text_config"]["vocab_size"], json!(image_token + 1));
        let error = LanguagePart::open(&folder, image_token + 1, T5Gelu::Config).err().expect("refused").to_string();
        assert!(error.contains("vocab_size"), "{error}");
    }
}
