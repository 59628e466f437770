use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

use super::super::Projection;
use super::super::tests::{assert_same, config, model, saved};
use super::*;

fn write(path: &Path, tensors: BTreeMap<String, Tensor>) {
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().map(|(name, t)| (name, t.contiguous())).collect();
    Tensor::write_safetensors(&tensors, path).expect("written");
}

fn zeros(shape: &[i64]) -> Tensor {
    Tensor::zeros(shape, (Kind::Float, Device::Cpu))
}

/// The model as Hugging Face would save it, with a vision tower; `change` may tamper with tensors and config.
fn hugging_face(change: impl FnOnce(&mut BTreeMap<String, Tensor>, &mut serde_json::Value)) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let named = saved(&model()).into_iter().filter_map(|(name, tensor)| Some((names::to_hugging_face(&name)?, tensor)));
    let mut tensors: BTreeMap<String, Tensor> = named.collect();
    tensors.insert("vision_model.embeddings.class_embedding".into(), zeros(&[1, 1, 6]));
    let mut fields = json!({
        "model_type": "blip-2", "num_query_tokens": 3, "image_text_hidden_size": 4,
        "vision_config": {"hidden_size": 6, "layer_norm_eps": 1e-5},
        "qformer_config": {
            "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16,
            "max_position_embeddings": 10, "use_qformer_text_input": true,
        },
    });
    change(&mut tensors, &mut fields);
    write(&folder.path().join("model.safetensors"), tensors);
    std::fs::write(folder.path().join("config.json"), fields.to_string()).expect("written");
    folder
}

fn extra(folder: &TempDir) {
    let has_no_place = |name: &str| names::to_hugging_face(name).is_none();
    write(
        &folder.path().join(EXTRA_FILE),
        saved(&model()).into_iter().filter(|(name, _)| has_no_place(name)).collect(),
    );
}

fn open(folder: &TempDir) -> Checkpoint {
    Checkpoint::open(folder.path(), Device::Cpu).expect("a checkpoint")
}

fn refusal(folder: &TempDir, config: &QFormerConfig) -> String {
    extra(folder);
    open(folder).stage1(config, Absent::Refused).err().expect("refused").to_string()
}

#[test]
fn a_lavis_checkpoint_is_read_whatever_other_parts_it_holds() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("stage1.safetensors");
    let mut tensors = saved(&model());
    for other in ["visual_encoder.cls_token", "opt_model.lm_head.weight", "Qformer.bert.embeddings.position_ids"] {
        tensors.insert(other.into(), zeros(&[1, 3]));
    }
    write(&path, tensors);
    let checkpoint = Checkpoint::open(&path, Device::Cpu).expect("a checkpoint");
    assert_eq!(checkpoint.config(), None);
    assert_same(&model(), &checkpoint.stage1(&config(), Absent::Refused).expect("complete"));
}

#[test]
fn a_hugging_face_folder_with_the_extra_file_is_the_whole_model() {
    let folder = hugging_face(|_, _| {});
    extra(&folder);
    let checkpoint = open(&folder);
    assert_eq!(checkpoint.config(), Some(config()));
    assert_same(&model(), &checkpoint.stage1(&config(), Absent::Refused).expect("complete"));
}

#[test]
fn without_the_extra_file_stage_1_does_not_go_on_but_retrieval_does() {
    let folder = hugging_face(|_, _| {});
    let error = open(&folder).stage1(&config(), Absent::Refused).err().expect("refused").to_string();
    assert!(error.contains(EXTRA_FILE) && error.contains("temp"), "{error}");
    let stood_in = open(&folder).stage1(&config(), Absent::Untrained).expect("complete");
    assert!((stood_in.temperature().double_value(&[]) - 0.07).abs() < 1e-6);
    let trained = saved(&model());
    for (name, tensor) in stood_in.parameters().iter().filter(|(name, _)| names::to_hugging_face(name).is_some()) {
        assert!(tensor.equal(&trained[name]), "{name}");
    }
}

#[test]
fn missing_surplus_and_misshapen_tensors_are_named_as_in_the_file() {
    let name = "qformer.encoder.layer.2.crossattention.attention.key.weight";
    let missing = hugging_face(|tensors, _| drop(tensors.remove(name)));
    assert!(refusal(&missing, &config()).contains(name));
    let misshapen = hugging_face(|tensors, _| drop(tensors.insert(name.into(), zeros(&[8, 7]))));
    let error = refusal(&misshapen, &config());
    assert!(error.contains(name) && error.contains("[8, 7]") && error.contains("[8, 6]"), "{error}");
    let surplus = hugging_face(|tensors, _| drop(tensors.insert("qformer.pooler.weight".into(), zeros(&[1]))));
    assert!(refusal(&surplus, &config()).contains("qformer.pooler.weight"));
    let stage2 = hugging_face(|tensors, _| tensors.retain(|name, _| !name.starts_with("embeddings.")));
    assert!(refusal(&stage2, &config()).contains("embeddings.word_embeddings.weight"));
}

#[test]
fn a_config_that_says_otherwise_is_refused() {
    let error = refusal(&hugging_face(|_, _| {}), &QFormerConfig { num_attention_heads: 4, ..config() });
    assert!(error.contains("num_attention_heads 2") && error.contains('4'), "{error}");
    let other = hugging_face(|_, fields| fields["model_type"] = json!("clip"));
    let error = Checkpoint::open(other.path(), Device::Cpu).err().expect("refused").to_string();
    assert!(error.contains("clip") && error.contains("blip-2"), "{error}");
}

#[test]
fn the_embedding_of_the_processors_image_token_is_left_out() {
    let words = "embeddings.word_embeddings.weight";
    let longer = |token: i64| {
        let folder = hugging_face(|tensors, fields| {
            let table = Tensor::cat(&[&tensors[words], &zeros(&[4, 8])], 0);
            tensors.insert(words.into(), table);
            fields["image_token_index"] = json!(token);
        });
        extra(&folder);
        open(&folder).stage1(&config(), Absent::Refused)
    };
    assert_same(&model(), &longer(20).expect("the vocabulary ends before <image>"));
    assert!(longer(21).err().expect("refused").to_string().contains("[24, 8]"));
}

#[test]
fn stage_2_goes_on_from_either_stage() {
    let config = BridgeConfig { qformer: config(), projection: Projection::T5, language_width: 10 };
    let expected = Bridge::from_stage1(&model(), Projection::T5, 10, 7).expect("valid");
    let same = |bridge: Bridge| {
        for ((name, a), (_, b)) in expected.parameters().iter().zip(bridge.parameters().iter()) {
            assert!(a.equal(b), "{name}");
        }
    };
    same(open(&hugging_face(|_, _| {})).bridge(&config, 7).expect("stage 1 without the extra file"));
    let stage2 = |model_type: &str| {
        hugging_face(|tensors, fields| {
            let named = expected.parameters().iter();
            let named = named.map(|(name, tensor)| (names::to_hugging_face(name).expect("known"), tensor.detach()));
            *tensors = named.collect();
            fields["text_config"] = json!({ "model_type": model_type });
        })
    };
    same(open(&stage2("t5")).bridge(&config, 8).expect("stage 2, with its projection"));
    let error = open(&stage2("opt")).bridge(&config, 8).err().expect("refused").to_string();
    assert!(error.contains("language_projection.weight"), "{error}");
}
