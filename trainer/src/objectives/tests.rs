use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

use super::contrastive::{Features, similarities};
use super::*;

const DOUBLES: (Kind, Device) = (Kind::Double, Device::Cpu);

fn features(rows: i64) -> Features {
    Features { image: Tensor::randn([rows, 3, 4], DOUBLES), text: Tensor::randn([rows, 4], DOUBLES) }
}

fn rows(all: &Features, place: &Place) -> Features {
    let range = place.rows();
    let cut = |tensor: &Tensor| tensor.narrow(0, range.start as i64, range.len() as i64);
    Features { image: cut(&all.image), text: cut(&all.text) }
}

fn itc(all: &Features, place: &Place) -> f64 {
    let temperature = Tensor::from(0.07f64);
    contrastive::loss_sum(&similarities(&rows(all, place), all, &temperature), place).double_value(&[])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_contrastive_loss_is_the_same_however_the_batch_is_cut(sizes in prop::collection::vec(1usize..5, 1..5)) {
        tch::manual_seed(sizes.len() as i64);
        let all = features(sizes.iter().sum::<usize>() as i64);
        let whole = itc(&all, &Place::new(0, vec![sizes.iter().sum()]));
        let cut: f64 = (0..sizes.len()).map(|rank| itc(&all, &Place::new(rank, sizes.clone()))).sum();
        prop_assert!((whole - cut).abs() < 1e-9 * whole.abs().max(1.0));
    }

    #[test]
    fn every_row_has_one_owner(sizes in prop::collection::vec(0usize..5, 1..5)) {
        let total: usize = sizes.iter().sum();
        for row in 0..total {
            let (rank, index) = Place::new(0, sizes.clone()).owner(row);
            prop_assert_eq!(Place::new(rank, sizes.clone()).rows().start + index, row);
            prop_assert!(index < sizes[rank]);
        }
    }

    #[test]
    fn a_positive_is_never_drawn(uniform in 0.0f64..1.0, own in 0i64..6) {
        let scores = Tensor::randn([1, 6], (Kind::Float, Device::Cpu)) * 5.0;
        let mask = negatives::positives(&Tensor::from_slice(&[own]), &Tensor::arange(6, (Kind::Int64, Device::Cpu)));
        let weights = negatives::sampling_weights(&scores, &mask);
        prop_assert_ne!(negatives::draw(&weights, &[uniform])[0], own);
    }
}

#[test]
fn negatives_follow_their_weights() {
    let weights = Tensor::from_slice2(&[[0.5f32, 0.0, 0.3, 0.2]]);
    let mut counts = [0u32; 4];
    for index in 0..10_000 {
        counts[negatives::draw(&weights, &[(f64::from(index) + 0.5) / 10_000.0])[0] as usize] += 1;
    }
    assert_eq!(counts, [5000, 0, 3000, 2000]);
}

#[test]
fn the_similarity_is_that_of_the_best_query() {
    let image = Tensor::from_slice(&[1.0f64, 0.0, 0.0, 1.0]).view([1, 2, 2]);
    let texts = Tensor::from_slice2(&[[0.6f64, 0.8], [1.0, 0.0]]);
    let scores = contrastive::pairwise(&image, &texts);
    assert!(scores.allclose(&Tensor::from_slice2(&[[0.8f64, 1.0]]), 1e-12, 1e-12, false));
}

#[test]
fn language_targets_are_the_next_tokens_up_to_the_separator() {
    let ids = Tensor::from_slice2(&[[2i64, 7, 8, 3, 0], [2, 9, 3, 0, 0]]);
    let mask = ids.not_equal(0).to_kind(Kind::Int64);
    let labels = language::labels(&ids, &mask);
    assert!(labels.equal(&Tensor::from_slice2(&[[7i64, 8, 3, -100], [9, 3, -100, -100]])));
    assert_eq!(language::target_count(&mask), 5);
    let input = language::decoder_input(&ids, 19);
    assert_eq!(input.int64_value(&[1, 0]), 19);
    assert_eq!(ids.int64_value(&[1, 0]), 2, "the tokenised text stays as it is");
}
