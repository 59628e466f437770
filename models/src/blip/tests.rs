use std::cell::Cell;

use super::*;
use crate::weights::TensorSource;

/// Pseudo-random values for whatever is declared.
#[derive(Default)]
struct Arbitrary {
    taken: Cell<i64>,
}

impl TensorSource for Arbitrary {
    fn tensor(&self, _: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        self.taken.set(self.taken.get() + 1);
        let count: i64 = shape.iter().product();
        let ramp = Tensor::arange(count, (Kind::Double, Device::Cpu)) + (self.taken.get() * 1000) as f64;
        let values = ((ramp * 12.9898).sin() * 43758.5453).frac() - 0.25;
        Ok(values.to_kind(Kind::Float).reshape(shape))
    }

    fn has(&self, _: &str) -> bool {
        true
    }

    fn tied(&self, _: &str, _: &str, _: &Tensor) -> Result<(), WeightsError> {
        Ok(())
    }
}

fn tiny() -> Blip {
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
    let source = Arbitrary::default();
    Blip::from_scope(&Scope::root(&source), BlipConfig { text_config: text, vision_config: vision }).unwrap()
}

fn images(count: i64) -> Tensor {
    let shape = [count, 3, 16, 16];
    Arbitrary::default().tensor("pixels", &shape).unwrap()
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
