use super::*;
use crate::generate::{StepDecoder, nucleus};

const ENDS: Ends = Ends { eos: 0, pad: 11 };
/// The last is a pad, and never drawn.
const VOCAB: i64 = 12;
const COPIES: usize = 3;
const OPTIONS: SamplingOptions = SamplingOptions {
    top_p: 0.8,
    top_k: None,
    temperature: 1.0,
    min_length: 3,
    max_length: 12,
    repetition_penalty: 1.3,
};

fn draws(tag: usize, copy: usize, step: usize) -> f64 {
    ((tag * 31 + copy * 7 + step * 3) as f64 * 0.618_034).fract()
}

/// Logits that depend on the image, the last id and the length.
fn logits(image: f64, last: i64, length: usize) -> Vec<f32> {
    let of = |id: i64| ((image * 3.7 + (last * VOCAB + id) as f64 + length as f64 * 0.3) * 12.9898).sin() * 2.0;
    (0..VOCAB).map(|id| if id == ENDS.pad { f32::NEG_INFINITY } else { of(id) as f32 }).collect()
}

#[derive(Default)]
struct Fed {
    images: Vec<f64>,
    /// Lane to slot, and what it was fed.
    lanes: Vec<(usize, Vec<i64>)>,
    most_lanes: usize,
    steps: usize,
}

impl SlotDecoder for Fed {
    fn begin(&mut self, states: &Tensor, slots: &[usize], lanes: &[usize], prompt: &[i64]) -> Tensor {
        let states: Vec<f64> = Vec::try_from(states.flatten(0, -1)).unwrap();
        self.images.resize(self.images.len().max(slots.iter().max().unwrap() + 1), f64::NAN);
        self.lanes.resize(self.lanes.len().max(lanes.iter().max().unwrap() + 1), (0, Vec::new()));
        for (index, &slot) in slots.iter().enumerate() {
            self.images[slot] = states[index];
            lanes[index * COPIES..][..COPIES].iter().for_each(|&lane| self.lanes[lane] = (slot, prompt.to_vec()));
        }
        let rows: Vec<_> = states.iter().map(|image| logits(*image, prompt[prompt.len() - 1], prompt.len())).collect();
        Tensor::from_slice2(&rows)
    }

    fn step(&mut self, ids: &Tensor, positions: &Tensor, length: i64) -> Tensor {
        let (ids, positions) = (Vec::<i64>::try_from(ids).unwrap(), Vec::<i64>::try_from(positions).unwrap());
        self.lanes.resize(ids.len(), (0, Vec::new()));
        self.most_lanes = self.most_lanes.max(ids.len());
        self.steps += 1;
        let rows = self.lanes.iter_mut().zip(ids).zip(positions).map(|(((slot, fed), id), position)| {
            fed.truncate(position as usize);
            let goes_on = ![ENDS.pad, ENDS.eos].contains(&id) && position + 1 < OPTIONS.max_length;
            assert!(!goes_on || fed.len() == position as usize && position < length, "{fed:?}, {id} at {position}");
            fed.push(id);
            logits(self.images[*slot], id.min(VOCAB - 1), fed.len())
        });
        Tensor::from_slice2(&rows.collect::<Vec<_>>())
    }

    fn keep(&mut self, lanes: &[usize]) {
        self.lanes = lanes.iter().map(|lane| self.lanes[*lane].clone()).collect();
    }
}

/// The same model without slots, for one image.
struct One {
    image: f64,
    fed: Option<Tensor>,
}

impl StepDecoder for One {
    fn step(&mut self, ids: &Tensor) -> Tensor {
        let all = self.fed.take().map_or_else(|| ids.shallow_clone(), |fed| Tensor::cat(&[&fed, ids], 1));
        let rows: Vec<Vec<i64>> = Vec::try_from(&all).unwrap();
        self.fed = Some(all);
        let last = |row: &Vec<i64>| logits(self.image, row[row.len() - 1].min(VOCAB - 1), row.len());
        Tensor::from_slice2(&rows.iter().map(last).collect::<Vec<_>>())
    }

    fn fork(&mut self, copies: i64) {
        self.fed = self.fed.take().map(|fed| fed.repeat_interleave_self_int(copies, 0, None));
    }

    fn reorder(&mut self, lanes: &Tensor) {
        self.fed = self.fed.take().map(|fed| fed.index_select(0, lanes));
    }
}

/// The texts of `images` images through slots, by image.
fn through_slots(images: usize, slots: usize, lanes: usize, look_every: u64) -> (Vec<Vec<Vec<i64>>>, Fed) {
    let shape = SlotShape { slots, lanes, copies: COPIES };
    let mut sampler = SlotSampler::new(Fed::default(), shape, vec![3, 2], ENDS, OPTIONS, Device::Cpu);
    sampler.look_every = look_every;
    let mut texts = vec![Vec::new(); images];
    let mut next = 0;
    while next < images || !sampler.is_idle() {
        let tags: Vec<usize> = (next..images).take(sampler.room()).collect();
        if !tags.is_empty() {
            next += tags.len();
            let states: Vec<f64> = tags.iter().map(|tag| *tag as f64).collect();
            let mut draw = |image: usize, copy, step| draws(tags[image], copy, step);
            sampler.admit(&tags, &Tensor::from_slice(&states).unsqueeze(1), &mut draw);
        }
        if next == images {
            sampler.close();
        }
        for (tag, found) in sampler.step() {
            assert!(texts[tag].is_empty() && found.len() == COPIES, "image {tag} twice");
            texts[tag] = found;
        }
    }
    (texts, sampler.decoder)
}

#[test]
fn sequences_are_the_same_whatever_there_is_room_for() {
    let expected: Vec<Vec<Vec<i64>>> = (0..11)
        .map(|image| {
            let prompt = Tensor::from_slice2(&[[3i64, 2]]);
            let mut one = One { image: image as f64, fed: None };
            let mut uniforms = |lane, step| draws(image, lane, step);
            let found = nucleus(&mut one, &prompt, COPIES as i64, ENDS, &OPTIONS, &mut uniforms);
            let rows: Vec<Vec<i64>> = Vec::try_from(found).unwrap();
            rows.iter().map(|row| ENDS.trim(&row[2..]).to_vec()).collect()
        })
        .collect();
    let lengths: std::collections::BTreeSet<usize> = expected.iter().flatten().map(Vec::len).collect();
    assert!(lengths.len() > 4 && *lengths.last().unwrap() == 10, "the sequences end at few lengths: {lengths:?}");
    for (slots, lanes) in [(1, 3), (2, 6), (3, 7), (4, 6), (11, 33), (20, 60)] {
        for look_every in [1, 4] {
            let (found, fed) = through_slots(11, slots, lanes, look_every);
            assert_eq!(found, expected, "{slots} slots, {lanes} lanes, a look every {look_every} steps");
            assert!(fed.most_lanes <= lanes, "{} lanes", fed.most_lanes);
        }
    }
}

#[test]
fn lanes_are_filled_again_and_leave_at_the_end() {
    let (_, one_by_one) = through_slots(12, 1, COPIES, 1);
    let (_, filled) = through_slots(12, 4, 2 * COPIES, 1);
    assert!(filled.steps * 3 < one_by_one.steps * 2, "{} steps against {}", filled.steps, one_by_one.steps);
    assert!(filled.lanes.len() < 2 * COPIES, "{} lanes at the end", filled.lanes.len());
}
