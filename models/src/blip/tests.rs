use super::*;
use crate::testing::{Arbitrary, arbitrary, declared, distance, message, model_folder};

fn tiny_config() -> BlipConfig {
    let text = BlipTextConfig {
        vocab_size: 30,
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        max_position_embeddings: 12,
        bos_token_id: 28,
        sep_token_id: 4,
        ..BlipTextConfig::default()
    };
    let vision = BlipVisionConfig {
        hidden_size: 12,
        intermediate_size: 24,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        image_size: 16,
        patch_size: 8,
        ..BlipVisionConfig::default()
    };
    BlipConfig { text_config: text, vision_config: vision }
}

fn tiny() -> Blip {
    Blip::from_scope(&Scope::root(&Arbitrary::default()), tiny_config()).unwrap()
}

fn images(count: i64) -> Tensor {
    arbitrary(0, &[count, 3, 16, 16])
}

/// Captions of an image share its keys and are computed beside other images; neither may show.
#[test]
fn an_images_captions_are_the_same_alone_and_in_a_batch() {
    let blip = tiny();
    let states = blip.encode_images(&images(3));
    let options = SamplingOptions {
        top_p: 0.9,
        top_k: None,
        temperature: 1.0,
        min_length: 4,
        max_length: 12,
        repetition_penalty: 1.1,
    };
    let draw = |image: usize, lane: usize, step: usize| ((image * 17 + lane * 5 + step * 3) as f64 * 0.618_034).fract();
    let prompt = [7, 8];
    let together = blip.nucleus(&states, 4, &prompt, &options, &mut |lane, step| draw(lane / 4, lane % 4, step));
    for image in 0..3 {
        let own = states.narrow(0, image as i64, 1);
        let alone = blip.nucleus(&own, 4, &prompt, &options, &mut |lane, step| draw(image, lane, step));
        assert_eq!(alone, together[image * 4..image * 4 + 4]);
        assert!(alone.iter().any(|caption| caption != &alone[0]), "the draws make no difference: {alone:?}");
    }
}

#[test]
fn cached_steps_choose_what_the_teacher_forced_logits_say() {
    let blip = tiny();
    let states = blip.encode_images(&images(2));
    let constraints = Constraints { min_length: 10, max_length: 10, repetition_penalty: 1.0 };
    let found = blip.greedy(&states, &[7], &constraints);
    let logits = blip.logits(&states, &found, &found.ones_like());
    let ends = Tensor::from_slice(&[4i64]);
    let best = logits.index_fill(-1, &ends, f64::NEG_INFINITY).argmax(-1, false);
    assert!(best.narrow(1, 1, 8).equal(&found.narrow(1, 2, 8)), "{best} {found}");
}

#[test]
#[should_panic(expected = "the model's longest is 12")]
fn captions_longer_than_the_position_embedding_are_refused() {
    let blip = tiny();
    let states = blip.encode_images(&images(1));
    let _ = blip.greedy(&states, &[], &Constraints { min_length: 0, max_length: 13, repetition_penalty: 1.0 });
}

#[test]
fn half_precision_is_near_full_and_captions() {
    let tensors = declared(|scope| Blip::from_scope(scope, tiny_config()));
    let [full, half, other] = [Kind::Float, Kind::BFloat16, Kind::Half].map(|kind| {
        let tensors = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        Blip::from_weights(&Weights::from_tensors(tensors, "case", Device::Cpu, kind).unwrap(), tiny_config()).unwrap()
    });
    let ids = Tensor::from_slice2(&[[28i64, 7, 8, 4], [28, 9, 4, 0]]);
    let mask = ids.ne(0).to_kind(Kind::Int64);
    let exact = full.logits(&full.encode_images(&images(2)), &ids, &mask);
    for (half, kind) in [(half, Kind::BFloat16), (other, Kind::Half)] {
        let states = half.encode_images(&images(2));
        let logits = half.logits(&states, &ids, &mask);
        assert_eq!((states.kind(), logits.kind()), (kind, kind));
        let off = distance(&logits, &exact);
        assert!(off > 0.0 && off < 0.05, "{off} in {kind:?}");
        let constraints = Constraints { min_length: 4, max_length: 10, repetition_penalty: 1.1 };
        assert_eq!(half.greedy(&states, &[7], &constraints).size()[0], 2);
        let sampling = SamplingOptions {
            top_p: 0.9,
            top_k: None,
            temperature: 1.0,
            min_length: 4,
            max_length: 10,
            repetition_penalty: 1.1,
        };
        assert_eq!(half.nucleus(&states, 3, &[], &sampling, &mut |lane, _| lane as f64 / 6.0).len(), 6);
        let beams = BeamOptions {
            constraints,
            beams: 2,
            length_penalty: 1.0,
            early_stopping: false,
            score: generate::BeamScore::Generated,
        };
        assert_eq!(half.beam(&states, &[], &beams).scores.len(), 2);
    }
}

#[test]
fn another_model_is_no_captioner() {
    let tensors = declared(|scope| Blip::from_scope(scope, tiny_config()));
    for (json, parts) in [
        (r#"{"model_type": "t5", "vocab_size": 32128}"#, ["model_type of the captioner", "be blip", "found t5"]),
        (
            r#"{"model_type": "blip", "architectures": ["BlipForImageTextRetrieval"]}"#,
            ["architectures of the captioner", "be BlipForConditionalGeneration", "found BlipForImageTextRetrieval"],
        ),
        (
            r#"{"model_type": "blip", "text_config": {"num_attention_heads": 7}, "vision_config": {}}"#,
            ["text_config.hidden_size", "num_attention_heads 7", "found 768"],
        ),
    ] {
        let folder = model_folder(&[("config.json", json)], "model.safetensors", &tensors);
        let text = message(Blip::load(folder.path(), Device::Cpu, Kind::Float));
        assert!(text.contains("config.json") && parts.iter().all(|part| text.contains(part)), "{text}");
    }
}
