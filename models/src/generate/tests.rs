use super::*;
use tch::Device;

const EOS: i64 = 0;
const ENDS: Ends = Ends { eos: EOS, pad: 9 };
const FREE: Constraints = Constraints { min_length: 0, max_length: 6, repetition_penalty: 1.0 };
const SAMPLE: SamplingOptions = SamplingOptions {
    top_p: 1.0,
    top_k: None,
    temperature: 1.0,
    min_length: 0,
    max_length: 6,
    repetition_penalty: 1.0,
};

/// Logits that depend on a sequence's last id and length: row `id` of `table [vocab, vocab]`, turned by the length.
struct Chain {
    table: Tensor,
    fed: Option<Tensor>,
}

impl Chain {
    fn new(seed: i64, vocab: i64) -> Self {
        let ramp = Tensor::arange(vocab * vocab, (Kind::Double, Device::Cpu)) + seed as f64 * 100.0;
        let table = ((ramp * 12.9898).sin() * 43758.5453).frac() * 4.0;
        Chain { table: table.view([vocab, vocab]).to_kind(Kind::Float), fed: None }
    }
}

impl StepDecoder for Chain {
    fn step(&mut self, ids: &Tensor) -> Tensor {
        let all = match self.fed.take() {
            Some(fed) => Tensor::cat(&[&fed, ids], 1),
            None => ids.shallow_clone(),
        };
        let length = all.size()[1];
        let last = all.select(1, length - 1).clamp(0, self.table.size()[0] - 1); // a pad is any id
        self.fed = Some(all);
        self.table.index_select(0, &last).roll([length], [1])
    }

    fn fork(&mut self, copies: i64) {
        self.fed = self.fed.take().map(|fed| fed.repeat_interleave_self_int(copies, 0, None));
    }

    fn reorder(&mut self, lanes: &Tensor) {
        self.fed = self.fed.take().map(|fed| fed.index_select(0, lanes));
    }
}

fn rows(tensor: &Tensor) -> Vec<Vec<i64>> {
    Vec::try_from(tensor).unwrap()
}

fn prompt(ids: &[i64]) -> Tensor {
    Tensor::from_slice(ids).unsqueeze(1)
}

/// The log-probability of every continuation of `ids` up to its end or `max_length`.
fn enumerate(chain: &Chain, ids: &[i64], score: f64, max_length: usize, out: &mut Vec<(Vec<i64>, f64)>) {
    if ids.len() == max_length || (ids.len() > 1 && ids.last() == Some(&EOS)) {
        out.push((ids.to_vec(), score));
        return;
    }
    let row = chain.table.get(*ids.last().unwrap()).roll([ids.len() as i64], [0]).log_softmax(-1, Kind::Double);
    for id in 0..row.size()[0] {
        let longer = [ids, &[id]].concat();
        enumerate(chain, &longer, score + row.double_value(&[id]), max_length, out);
    }
}

#[test]
fn greedy_takes_the_best_token_each_time_and_pads_after_the_end() {
    let starts = [1, 2, 3, 4];
    let found = rows(&greedy(&mut Chain::new(1, 5), &prompt(&starts), ENDS, &FREE));
    let chain = Chain::new(1, 5);
    let mut ended = 0;
    for (start, row) in starts.iter().zip(&found) {
        assert_eq!(row[0], *start);
        for at in 1..row.len() {
            let end = row[1..at].contains(&EOS);
            let logits = chain.table.get(row[at - 1].min(4)).roll([at as i64], [0]);
            assert_eq!(row[at], if end { ENDS.pad } else { logits.argmax(-1, false).int64_value(&[]) });
            ended += usize::from(end);
        }
    }
    assert!(ended > 0, "no sequence ended early: {found:?}");
}

#[test]
fn no_sequence_ends_before_the_minimum_or_grows_beyond_the_maximum() {
    for min_length in 0..=6 {
        let constraints = Constraints { min_length, ..FREE };
        let found = rows(&greedy(&mut Chain::new(1, 5), &prompt(&[1, 2, 3, 4]), ENDS, &constraints));
        for row in &found {
            assert!(row.len() <= 6);
            let end = row[1..].iter().position(|&id| id == EOS).map(|at| at + 1);
            assert!(end.is_none_or(|end| end as i64 >= min_length), "{row:?} ends before {min_length}");
        }
    }
}

#[test]
fn a_draw_is_the_inverse_of_the_cumulative_distribution_in_id_order() {
    let chain = Chain::new(7, 5);
    let probabilities: Vec<f64> = Vec::try_from(chain.table.get(2).roll([1], [0]).softmax(-1, Kind::Double)).unwrap();
    let options = SamplingOptions { max_length: 2, ..SAMPLE };
    let (lanes, mut counts) = (2000usize, [0usize; 5]);
    let mut uniforms = |lane: usize, _: usize| (lane as f64 + 0.5) / lanes as f64;
    let found = rows(&nucleus(&mut Chain::new(7, 5), &prompt(&[2]), lanes as i64, ENDS, &options, &mut uniforms));
    let drawn: Vec<i64> = found.iter().map(|row| row[1]).collect();
    assert!(drawn.is_sorted(), "greater draws give greater ids");
    drawn.iter().for_each(|&id| counts[id as usize] += 1);
    for (count, probability) in counts.iter().zip(probabilities) {
        assert!((*count as f64 - probability * lanes as f64).abs() <= 1.5, "{counts:?}");
    }
}

#[test]
fn the_extreme_draws_give_kept_ids() {
    let options = SamplingOptions { top_k: Some(2), max_length: 2, ..SAMPLE };
    let mut uniforms = |lane: usize, _: usize| if lane == 0 { 0.0 } else { 1.0 - f64::EPSILON / 2.0 };
    let found = rows(&nucleus(&mut Chain::new(7, 5), &prompt(&[2]), 2, ENDS, &options, &mut uniforms));
    let (_, best) = Chain::new(7, 5).table.get(2).roll([1], [0]).topk(2, -1, true, true);
    let mut best: Vec<i64> = Vec::try_from(best).unwrap();
    best.sort();
    assert_eq!(found.iter().map(|row| row[1]).collect::<Vec<_>>(), best);
}

#[test]
fn a_lane_does_not_depend_on_what_else_is_in_the_batch() {
    let draw = |image: usize, lane: usize, step: usize| ((image * 31 + lane * 7 + step * 3) as f64 * 0.618).fract();
    let starts = [1, 2, 3];
    let mut together = |lane: usize, step: usize| draw(lane / 4, lane % 4, step);
    let all = rows(&nucleus(&mut Chain::new(3, 5), &prompt(&starts), 4, ENDS, &SAMPLE, &mut together));
    for (image, &start) in starts.iter().enumerate() {
        let mut apart = |lane: usize, step: usize| draw(image, lane, step);
        let alone = rows(&nucleus(&mut Chain::new(3, 5), &prompt(&[start]), 4, ENDS, &SAMPLE, &mut apart));
        for (lane, row) in alone.iter().enumerate() {
            assert_eq!(ENDS.trim(row), ENDS.trim(&all[image * 4 + lane][..row.len()]));
        }
    }
}

#[test]
fn top_k_keeps_ties_and_top_p_the_smallest_sufficient_set() {
    let scores = Tensor::from_slice(&[0.5f32, 0.2, 0.2, 0.1]).log().unsqueeze(0);
    let kept = |options: SamplingOptions| -> Vec<bool> {
        let kept = options.filter(&scores).isfinite().squeeze_dim(0);
        Vec::try_from(kept).unwrap()
    };
    assert_eq!(kept(SamplingOptions { top_k: Some(2), ..SAMPLE }), [true, true, true, false]);
    assert_eq!(kept(SamplingOptions { top_p: 0.45, ..SAMPLE }), [true, false, false, false]);
    assert_eq!(kept(SamplingOptions { top_p: 0.95, ..SAMPLE }), [true, true, true, true]);
    assert_eq!(kept(SamplingOptions { top_p: 0.6, ..SAMPLE }).iter().filter(|&&kept| kept).count(), 2);
    assert_eq!(kept(SamplingOptions { top_p: 1e-9, ..SAMPLE }), [true, false, false, false]);
}

#[test]
fn repetition_lowers_what_occurred_once_and_either_sign() {
    let constraints = Constraints { repetition_penalty: 2.0, ..FREE };
    let logits = Tensor::from_slice(&[1.0f32, -1.0, 3.0]).unsqueeze(0);
    let history = Tensor::from_slice(&[0i64, 1, 1]).unsqueeze(0);
    let scores = constraints.apply(&logits, &history, EOS);
    assert_eq!(Vec::<f32>::try_from(scores.squeeze_dim(0)).unwrap(), [0.5, -2.0, 3.0]);
}

/// With more beams than prefixes, the search is exhaustive; without length normalisation, its stopping rule is exact.
#[test]
fn a_wide_beam_finds_the_most_likely_sequence() {
    for seed in 0..5 {
        for score in [BeamScore::Generated, BeamScore::FullLength] {
            let constraints = Constraints { max_length: 4, ..FREE };
            let options = BeamOptions { beams: 64, length_penalty: 0.0, early_stopping: false, score, constraints };
            let found = beam(&mut Chain::new(seed, 4), &prompt(&[1, 2]), ENDS, &options);
            for (image, start) in [1, 2].into_iter().enumerate() {
                let mut all = Vec::new();
                enumerate(&Chain::new(seed, 4), &[start], 0.0, 4, &mut all);
                let (best, likelihood) = all.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
                assert_eq!(found.sequences[image], best, "seed {seed} {score:?}");
                assert!((f64::from(found.scores[image]) - likelihood).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn one_beam_is_greedy() {
    let starts = [1, 2, 3, 4];
    let expected = rows(&greedy(&mut Chain::new(1, 5), &prompt(&starts), ENDS, &FREE));
    let options = BeamOptions {
        beams: 1,
        length_penalty: 1.0,
        early_stopping: true,
        score: BeamScore::Generated,
        constraints: FREE,
    };
    let found = beam(&mut Chain::new(1, 5), &prompt(&starts), ENDS, &options);
    for (sequence, row) in found.sequences.iter().zip(&expected) {
        assert_eq!(ENDS.trim(sequence), ENDS.trim(row));
    }
}

#[test]
fn a_cache_holds_what_was_appended_through_fork_and_reorder() {
    let piece = |start: i64| Tensor::arange_start(start, start + 8, (Kind::Float, Device::Cpu)).view([2, 1, 2, 2]);
    let mut cache = KvCache::new(5);
    let _ = cache.append(&piece(0), &piece(100));
    cache.fork(2);
    cache.reorder(&Tensor::from_slice(&[3i64, 2, 1, 0]));
    let four = |tensor: Tensor| tensor.repeat_interleave_self_int(2, 0, None);
    let (keys, values) = cache.append(&four(piece(8)), &four(piece(108)));
    assert_eq!(cache.length(), 4);
    assert_eq!(keys.size(), [4, 1, 4, 2]);
    assert!(keys.get(0).narrow(1, 0, 2).equal(&piece(0).get(1)));
    assert!(keys.get(3).narrow(1, 2, 2).equal(&piece(8).get(1)));
    assert!(values.get(3).narrow(1, 0, 2).equal(&piece(100).get(0)));
}
