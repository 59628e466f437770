//! Loading: what doesn't fit is told before the first row.

use std::path::Path;

use quern_capfilt::model_digests;
use quern_capfilt_engine::{Engine, EngineError};
use quern_recipes::CapFilt;
use tch::Device;

use crate::fixture::{LIMITS, config, config_of, engine, zoo};

fn error(config: &CapFilt) -> EngineError {
    match Engine::load(config, &LIMITS, 7, Device::Cpu) {
        Ok(_) => panic!("it loads"),
        Err(error) => error,
    }
}

fn copy(model: &str, to: &Path) {
    for entry in std::fs::read_dir(zoo(model)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn the_digests_are_those_of_the_files() {
    let engine = engine(&config());
    assert_eq!(*engine.model_digests(), model_digests(&zoo("blip"), &zoo("clip")).unwrap());
    let weights = std::fs::read(zoo("blip").join("model.safetensors")).unwrap();
    let digest = blake3::hash(&weights).to_hex().to_string();
    assert_eq!(engine.model_digests()["captioner/model.safetensors"], digest);
}

#[test]
fn a_missing_model_is_named_with_its_role() {
    let folder = tempfile::tempdir().unwrap();
    let captioner = error(&config_of(folder.path(), &zoo("clip")));
    assert!(matches!(captioner, EngineError::Model { role: "captioner", .. }), "{captioner}");
    assert!(captioner.to_string().contains(folder.path().to_str().unwrap()), "{captioner}");
    let ranker = error(&config_of(&zoo("blip"), folder.path()));
    assert!(matches!(ranker, EngineError::Model { role: "ranker", .. }), "{ranker}");
}

#[test]
fn a_missing_tokenizer_is_named() {
    let folder = tempfile::tempdir().unwrap();
    copy("clip", folder.path());
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let error = error(&config_of(&zoo("blip"), folder.path()));
    assert!(matches!(error, EngineError::Tokenizer { role: "ranker", .. }), "{error}");
}

#[test]
fn models_in_the_wrong_place_are_refused() {
    assert!(matches!(error(&config_of(&zoo("clip"), &zoo("clip"))), EngineError::Model { role: "captioner", .. }));
    assert!(matches!(error(&config_of(&zoo("blip"), &zoo("blip"))), EngineError::Model { role: "ranker", .. }));
}

#[test]
fn captions_longer_than_the_model_allows_are_refused() {
    let mut config = config();
    config.sampling.max_length = 100_000;
    let error = error(&config).to_string();
    assert!(error.contains("captioner") && error.contains("sampling.max_length"), "{error}");
}

#[test]
fn a_prompt_that_leaves_no_room_is_refused() {
    let config = CapFilt { prompt: "a red square ".repeat(10), ..config() };
    let error = error(&config).to_string();
    assert!(error.contains("prompt"), "{error}");
}

#[test]
fn an_image_size_that_contradicts_the_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    copy("clip", folder.path());
    let path = folder.path().join("preprocessor_config.json");
    let mut preprocessor: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    preprocessor["crop_size"] = serde_json::json!({"height": 48, "width": 48});
    std::fs::write(&path, preprocessor.to_string()).unwrap();
    let error = error(&config_of(&zoo("blip"), folder.path())).to_string();
    assert!(error.contains("ranker") && error.contains("48x48"), "{error}");
}
