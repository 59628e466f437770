//! Drawing tokens: top-p and the inverse of the cumulative distribution. On the processor lane by lane, without sorting the
//! vocabulary: it draws what the tensors of [`SamplingOptions::filter`] and their cumulative sum say; sums are in double
//! precision, and ids of equal probability are dropped lowest id first.

use std::cmp::Ordering;
use std::thread;

use tch::{Device, Kind, Tensor};

use super::process::{SamplingOptions, probabilities};

/// A probability's bucket is its exponent and the first bits of its mantissa.
const BUCKET_SHIFT: u32 = 18;
/// As many as probabilities of at most 1 have, and one for what rounding puts above.
const BUCKETS: usize = (0x3f80_0000 >> BUCKET_SHIFT) + 2;
/// Draws stay below the distribution's total by more than rounding.
const BELOW_ONE: f64 = 1.0 - 1e-12;

/// The id that each lane's draw falls on: `scores [lanes, vocab]`, `draws [lanes]` in [0, 1) -> `[lanes]`.
pub(super) fn draw(scores: &Tensor, draws: &Tensor, options: &SamplingOptions) -> Tensor {
    let draws = draws.clamp_max(BELOW_ONE);
    if scores.device() != Device::Cpu {
        return of_tensors(&options.filter(scores), &draws);
    }
    let before_top_p = SamplingOptions { top_p: 1.0, ..*options };
    let draws: Vec<f64> = Vec::try_from(draws).expect("draws [lanes]");
    Tensor::from_slice(&of_lanes(&probabilities(&before_top_p.filter(scores)), &draws, options.top_p))
}

/// Of filtered `scores [lanes, vocab]`.
fn of_tensors(scores: &Tensor, draws: &Tensor) -> Tensor {
    let cumulative = probabilities(scores).cumsum(-1, Kind::Double); // [lanes, vocab]
    let level = draws.unsqueeze(1) * cumulative.narrow(-1, -1, 1);
    cumulative.le_tensor(&level).sum_dim_intlist(-1, false, Kind::Int64)
}

/// Of `probabilities [lanes, vocab]`, on as many threads as tensors use.
fn of_lanes(probabilities: &Tensor, draws: &[f64], top_p: f64) -> Vec<i64> {
    let vocab = probabilities.size()[1] as usize;
    let mut all = vec![0.0f32; draws.len() * vocab];
    let (flat, length) = (probabilities.to_kind(Kind::Float).contiguous(), all.len());
    flat.copy_data(&mut all, length);
    let lanes: Vec<(&[f32], f64)> = all.chunks(vocab).zip(draws.iter().copied()).collect();
    let of_share = |lanes: &[(&[f32], f64)]| {
        let mut masses = vec![0.0f64; BUCKETS];
        let drawn =
            |&(probabilities, uniform): &(&[f32], f64)| of_lane(probabilities, uniform, top_p, &mut masses) as i64;
        lanes.iter().map(drawn).collect::<Vec<i64>>()
    };
    let threads = tch::get_num_threads().max(1) as usize;
    let (first, others) = lanes.split_at(lanes.len().div_ceil(threads));
    thread::scope(|scope| {
        let others: Vec<_> =
            others.chunks(first.len().max(1)).map(|lanes| scope.spawn(move || of_share(lanes))).collect();
        let mut ids = of_share(first);
        for other in others {
            ids.extend(other.join().expect("drawing doesn't panic"));
        }
        ids
    })
}

/// The id that a draw falls on among the smallest set of ids whose probability reaches `top_p`. `masses` is scratch.
fn of_lane(probabilities: &[f32], uniform: f64, top_p: f64, masses: &mut [f64]) -> usize {
    let least = if top_p < 1.0 { least_kept(probabilities, 1.0 - top_p, masses) } else { (0.0, 0) };
    let is_kept = |id: usize, probability: f32| (probability, id) >= least;
    let mass_of =
        |(id, &probability): (usize, &f32)| if is_kept(id, probability) { f64::from(probability) } else { 0.0 };
    let level = uniform * probabilities.iter().enumerate().map(mass_of).sum::<f64>();
    let mut mass = 0.0;
    let passed = probabilities.iter().enumerate().position(|entry| {
        mass += mass_of(entry);
        mass > level
    });
    // No mass at all, or none that is a number.
    passed.unwrap_or(0)
}

/// The least probable id that stays when ids are dropped, the least probable first, while what is dropped has `spare` at
/// most: its probability and itself.
fn least_kept(probabilities: &[f32], spare: f64, masses: &mut [f64]) -> (f32, usize) {
    masses.fill(0.0);
    for &probability in probabilities {
        masses[bucket(probability)] += f64::from(probability);
    }
    let mut dropped = 0.0;
    let crossing = masses.iter().position(|mass| {
        let all = dropped + mass;
        let crosses = all > spare;
        dropped = if crosses { dropped } else { all };
        crosses
    });
    let likeliest = || probabilities.iter().copied().zip(0..).max_by(in_order);
    let Some(crossing) = crossing else { return likeliest().unwrap_or_default() };
    let mut here: Vec<(f32, usize)> =
        probabilities.iter().copied().zip(0..).filter(|(probability, _)| bucket(*probability) == crossing).collect();
    here.sort_unstable_by(in_order);
    let stays = here.iter().find(|(probability, _)| {
        dropped += f64::from(*probability);
        dropped > spare
    });
    // Summed in another order, the bucket may just not cross: then its likeliest stays.
    stays.or(here.last()).copied().unwrap_or_default()
}

/// By probability, then by id.
fn in_order(a: &(f32, usize), b: &(f32, usize)) -> Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

/// Rises with the probability.
fn bucket(probability: f32) -> usize {
    ((probability.to_bits() >> BUCKET_SHIFT) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_the_sorted_tensors() {
        tch::manual_seed(3);
        for (vocab, spread) in [(7, 1.0), (500, 0.2), (500, 3.0), (2000, 8.0)] {
            for top_p in [0.05, 0.5, 0.9, 1.0] {
                let scores = Tensor::randn([1, vocab], (Kind::Double, Device::Cpu)) * spread;
                let draws: Vec<f64> = (0..40).map(|at| f64::from(at) / 40.0).collect();
                let lanes = scores.repeat([draws.len() as i64, 1]);
                let options = SamplingOptions {
                    top_p,
                    top_k: None,
                    temperature: 1.0,
                    min_length: 0,
                    max_length: 9,
                    repetition_penalty: 1.0,
                };
                let found = of_lanes(&probabilities(&lanes), &draws, top_p);
                let expected = of_tensors(&options.filter(&lanes), &Tensor::from_slice(&draws));
                assert_eq!(found, Vec::<i64>::try_from(expected).unwrap(), "vocab {vocab}, {spread}, top_p {top_p}");
            }
        }
    }

    #[test]
    fn ties_are_dropped_lowest_id_first_and_the_best_always_stays() {
        let quarter = [0.25f32; 4];
        let mut masses = vec![0.0; BUCKETS];
        assert_eq!(least_kept(&quarter, 0.5, &mut masses), (0.25, 2));
        assert_eq!(least_kept(&quarter, 0.49, &mut masses), (0.25, 1));
        assert_eq!(least_kept(&quarter, 1.0, &mut masses), (0.25, 3));
        let drawn = |uniform| of_lane(&quarter, uniform, 0.5, &mut vec![0.0; BUCKETS]);
        assert_eq!([0.0, 0.49, 0.5, 0.999].map(drawn), [2, 2, 3, 3]);
    }

    #[test]
    fn impossible_ids_are_never_drawn() {
        let probabilities = [0.0f32, 0.5, 0.0, 0.5, 0.0];
        for top_p in [0.3, 0.9, 1.0] {
            for uniform in [0.0, 0.3, 0.5, 0.9, BELOW_ONE] {
                let id = of_lane(&probabilities, uniform, top_p, &mut vec![0.0; BUCKETS]);
                assert!(probabilities[id] > 0.0, "{top_p} {uniform}");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_no_panic() {
        assert_eq!(of_lane(&[f32::NAN; 3], 0.5, 0.9, &mut vec![0.0; BUCKETS]), 0);
    }
}
