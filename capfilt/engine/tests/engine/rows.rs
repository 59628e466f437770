//! What becomes of a row.

use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use quern_capfilt::{PartRow, RowOutcome, Source, Stage, select};
use quern_capfilt_engine::{Ranker, pass_shard};
use quern_corpus::images::{self, CropRounding, Evaluation, Geometry};
use quern_corpus::toy::{Scene, is_correct, seeds};
use quern_models::clip::cosine;
use quern_models::preprocessor::Resize;
use quern_recipes::{CapFilt, CapFiltPrecision, EmbedImages, Precision, Shrink};
use tch::{Device, Kind, Tensor};

use crate::fixture::{LIMITS, candidates, config, config_of, engine, jpeg, row, rows, run, written, zoo};

fn failure(row: &PartRow) -> (Stage, &str) {
    match &row.outcome {
        RowOutcome::Quarantined { stage, reason, .. } => (*stage, reason),
        other => panic!("{}: {other:?}", row.id),
    }
}

#[test]
fn rows_come_back_in_order_with_identity_and_key() {
    let engine = engine(&config());
    for (found, given) in run(&engine, rows()).iter().zip(rows()) {
        assert_eq!((&found.id, &found.key, &found.image), (&given.id, &given.key, &None));
    }
    assert_eq!(run(&engine, Vec::new()), []);
}

#[test]
fn candidates_are_distinct_scored_and_the_best_are_kept() {
    let config = config();
    for row in run(&engine(&config), rows()) {
        let RowOutcome::Kept { candidates, kept } = &row.outcome else { panic!("{row:?}") };
        assert!(candidates.windows(2).all(|pair| pair[0].index < pair[1].index));
        let mut texts: Vec<_> = candidates.iter().map(|candidate| &candidate.text).collect();
        texts.sort();
        assert!(texts.windows(2).all(|pair| pair[0] != pair[1]), "{texts:?}");
        assert!(candidates.iter().all(|candidate| candidate.score.abs() <= 1.0));
        let web = candidates.last().unwrap();
        assert_eq!((web.source, web.index, &web.text[..]), (Source::Web, 5, "best price, free shipping"));
        assert_eq!(*kept, select(candidates, 2));
        assert_eq!(kept.len(), 2.min(candidates.len()));
    }
}

/// The score is CLIP's cosine, computed here from the models' own functions.
#[test]
fn a_score_is_the_cosine_of_image_and_caption() {
    let config = config();
    let found = run(&engine(&config), rows());
    let clip = quern_models::clip::Clip::load(&zoo("clip"), Device::Cpu, Kind::Float).unwrap();
    let tokenizer = quern_models::tokenize::Tokenizer::load(&zoo("clip")).unwrap();
    let preprocessor = Ranker::load(&config, Device::Cpu).unwrap().preprocessor;
    let Resize::ShortestSide { size, crop } = preprocessor.resize else { panic!("{preprocessor:?}") };
    for row in &found[..3] {
        let image = images::decode(&jpeg(row.id.row), &LIMITS).unwrap();
        let geometry = Geometry::ShortestSide { size, crop, rounding: CropRounding::HuggingFace };
        let (mean, std) = (preprocessor.mean, preprocessor.std);
        let (_, pixels) = Evaluation { geometry, mean, std }.apply(&image);
        let side = i64::from(crop);
        let image = clip.image_embeds(&Tensor::from_slice(&pixels).view([1, 3, side, side]));
        for candidate in candidates(row) {
            let (ids, mask) = tokenizer.encode_batch(&[&candidate.text], 77);
            let score = cosine(&image, &clip.text_embeds(&ids, &mask)).double_value(&[0, 0]);
            assert!((score - f64::from(candidate.score)).abs() < 1e-5, "{candidate:?} {score}");
        }
    }
}

#[test]
fn a_ranker_in_coarser_precision_scores_nearly_the_same() {
    let fine = run(&engine(&config()), rows());
    let precision = CapFiltPrecision { captioner: Precision::Float, ranker: Precision::BFloat16 };
    let coarse = run(&engine(&CapFilt { precision, ..config() }), rows());
    let mut differs = false;
    for (fine, coarse) in fine.iter().zip(&coarse) {
        assert_eq!(written(fine), written(coarse), "the captioner is the same");
        for (fine, coarse) in candidates(fine).iter().zip(candidates(coarse)) {
            assert!((fine.score - coarse.score).abs() < 0.03, "{fine:?}, {coarse:?}");
            differs |= fine.score != coarse.score;
        }
    }
    assert!(differs, "nothing was computed in another precision");
}

#[test]
fn a_captioner_in_coarser_precision_writes() {
    let precision = CapFiltPrecision { captioner: Precision::BFloat16, ranker: Precision::Float };
    let found = run(&engine(&CapFilt { precision, ..config() }), rows());
    assert!(found.iter().all(|row| !written(row).is_empty()));
}

/// The zoo's captioner is good enough that captions must mostly be true, if pixels and tokens reach it as they should.
#[test]
fn ranking_raises_the_share_of_correct_captions() {
    let rows: Vec<_> = (0..40).map(|at| row(at, Some(jpeg(at)), None)).collect();
    let found = run(&engine(&config()), rows);
    let share = |captions: &dyn Fn(&PartRow) -> Vec<String>| {
        let judged: Vec<bool> = found
            .iter()
            .flat_map(|row| {
                let scene = Scene::sample(seeds::DEMO, row.id.row);
                captions(row).into_iter().map(move |text| is_correct(&text, &scene))
            })
            .collect();
        judged.iter().filter(|&&correct| correct).count() as f64 / judged.len() as f64
    };
    let all = share(&|row| written(row).into_iter().map(str::to_owned).collect());
    let best = share(&|row| {
        let RowOutcome::Kept { candidates, kept } = &row.outcome else { panic!("{row:?}") };
        vec![candidates[kept[0]].text.clone()]
    });
    assert!(all > 0.1, "{all} of the written captions are correct");
    assert!(best > all, "{best} of the best captions are correct, but {all} of all");
}

#[test]
fn a_row_that_can_not_be_decoded_is_quarantined_with_its_reason() {
    let big = {
        let pixels = vec![0u8; 300 * 10 * 3];
        let format = turbojpeg::PixelFormat::RGB;
        let image = turbojpeg::Image { pixels: pixels.as_slice(), width: 300, pitch: 900, height: 10, format };
        Bytes::copy_from_slice(&turbojpeg::compress(image, 90, turbojpeg::Subsamp::None).unwrap())
    };
    let images = [None, Some(Bytes::new()), Some(Bytes::from_static(b"<html>")), Some(jpeg(1).slice(..300)), Some(big)];
    let rows = images.into_iter().zip(0..).map(|(image, at)| row(at, image, Some("x"))).collect();
    let found = run(&engine(&config()), rows);
    let expected = [
        (Stage::Read, "image_missing"),
        (Stage::Decode, "image_unsupported"),
        (Stage::Decode, "image_unsupported"),
        (Stage::Decode, "image_corrupt"),
        (Stage::Decode, "image_size_limit"),
    ];
    assert_eq!(found.iter().map(failure).collect::<Vec<_>>(), expected);
}

#[test]
fn without_a_web_caption_the_written_ones_are_ranked_alone() {
    let captions = [None, Some(""), Some(" \t\n"), Some("\0"), Some("a\0b\u{1b}")];
    let rows = captions.into_iter().zip(0..).map(|(caption, at)| row(at, Some(jpeg(at)), caption)).collect();
    let found = run(&engine(&config()), rows);
    for row in &found[..3] {
        assert!(candidates(row).iter().all(|candidate| candidate.source == Source::Synthetic));
    }
    for (row, caption) in found[3..].iter().zip(["\0", "a\0b\u{1b}"]) {
        assert_eq!(candidates(row).last().unwrap().text, caption);
    }
}

#[test]
fn a_web_caption_that_was_also_written_is_ranked_once() {
    let engine = engine(&config());
    let without: Vec<_> = (0..4).map(|at| row(at, Some(jpeg(at)), None)).collect();
    let alone = run(&engine, without);
    let repeated: Vec<_> =
        (0..4).map(|at| row(at, Some(jpeg(at)), written(&alone[at as usize]).last().copied())).collect();
    assert_eq!(run(&engine, repeated), alone);
}

#[test]
fn the_prompt_is_no_part_of_the_caption() {
    let prompted = CapFilt { prompt: "a".into(), ..config() };
    let rows: Vec<_> = (0..4).map(|at| row(at, Some(jpeg(at)), None)).collect();
    let found = run(&engine(&prompted), rows.clone());
    assert_ne!(found, run(&engine(&config()), rows));
    for row in &found {
        assert!(written(row).iter().all(|text| !text.starts_with("a ")), "{:?}", written(row));
    }
}

#[test]
fn images_are_carried_along_when_the_recipe_says_so() {
    let config = CapFilt { embed_images: EmbedImages::Whole(true), ..config() };
    let mut rows = rows();
    rows[1].image = Some(jpeg(1).slice(..300));
    let found = run(&engine(&config), rows);
    assert_eq!(found[0].image, Some(jpeg(0)));
    assert_eq!(found[1].image, None);
}

#[test]
fn images_may_be_carried_along_smaller() {
    let of = |embed_images| run(&engine(&CapFilt { embed_images, ..config() }), rows());
    let found = of(EmbedImages::Shrunk(Shrink { max_side: 16, quality: 90 }));
    for (small, whole) in found.iter().zip(of(EmbedImages::Whole(true))) {
        assert_eq!(small.outcome, whole.outcome, "captions are of the image as it came");
        let image = images::decode(small.image.as_ref().unwrap(), &LIMITS).unwrap();
        assert_eq!(image.width.max(image.height), 16);
    }
}

#[test]
fn a_score_that_is_no_number_quarantines_the_row() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(zoo("clip")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let weights = folder.path().join("model.safetensors");
    let mut tensors = Tensor::read_safetensors(&weights).unwrap();
    let spoilt = tensors.iter_mut().find(|(name, _)| name == "visual_projection.weight").unwrap();
    let _ = spoilt.1.fill_(f64::NAN);
    Tensor::write_safetensors(&tensors, &weights).unwrap();
    let found = run(&engine(&config_of(&zoo("blip"), folder.path())), rows());
    assert!(found.iter().all(|row| failure(row) == (Stage::Rank, "score_not_finite")));
}

#[test]
fn rows_that_are_not_filtered_pass_if_they_can_be_trained_on() {
    let rows = vec![
        row(0, Some(jpeg(0)), Some("as it was")),
        row(1, Some(jpeg(1).slice(..300)), Some("as it was")),
        row(2, Some(jpeg(2)), None),
        row(3, None, Some("as it was")),
        row(4, None, None),
    ];
    let mut found = Vec::new();
    pass_shard(rows.into_iter(), 2, &LIMITS, EmbedImages::Whole(true), &|_| Ok(()), &AtomicBool::new(false), |row| {
        found.push(row)
    });
    assert_eq!(found.len(), 5);
    assert_eq!(found[0].outcome, RowOutcome::Passed { caption: "as it was".into() });
    assert_eq!(found[0].image, Some(jpeg(0)));
    assert_eq!(failure(&found[1]), (Stage::Decode, "image_corrupt"));
    assert_eq!(found[1].image, None);
    assert_eq!(failure(&found[2]), (Stage::Read, "empty_caption"));
    assert_eq!(failure(&found[3]), (Stage::Read, "image_missing"));
    assert_eq!(failure(&found[4]), (Stage::Read, "image_missing"));
}
