//! What is written as correct is correct, what is written as junk is not, and the corpus is the same every time.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use arrow::array::{Array, BinaryArray, ListArray, RecordBatch, StringArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;

use super::grammar::{self, Claim, Joint, parse};
use super::junk::{self, Junk};
use super::questions::Topics;
use super::random::Random;
use super::render::{render_jpeg, render_rgb};
use super::scene::{Background, Colour, Object, Scene, Shape, Size, Texture};
use super::{SynthError, SynthOptions, is_correct, questions, synth};

/// A large red striped circle at top left and a small blue plain star at bottom right, on white.
fn two_objects() -> Scene {
    let circle = Object {
        shape: Shape::Circle,
        colour: Colour::Red,
        size: Size::Large,
        texture: Texture::Striped,
        x_permille: 250,
        y_permille: 250,
    };
    let star = Object {
        shape: Shape::Star,
        colour: Colour::Blue,
        size: Size::Small,
        texture: Texture::Plain,
        x_permille: 750,
        y_permille: 750,
    };
    Scene { background: Background::White, objects: vec![circle, star] }
}

// -------------------------------------------------------------------------------------------------------- grammar

#[test]
fn true_statements_are_correct() {
    for caption in [
        "a red circle",
        "a large striped red circle at top left and a small plain blue star at bottom right on a white background",
        "a blue star and a red circle",
        "a big circle on white",
        "a blue shape at right",
        "a circle to the left of a star",
        "a star below a circle",
        "a small star under a striped shape",
        "  A Red CIRCLE  ",
    ] {
        assert!(is_correct(caption, &two_objects()), "{caption}");
    }
}

#[test]
fn a_false_statement_is_wrong_whatever_else_is_true() {
    for caption in [
        "a green circle",
        "a large striped red circle at top left and a small plain blue star at bottom left",
        "a small red circle",
        "a dotted circle",
        "a red star and a blue circle",
        "a red circle on black",
        "a star left of a circle",
        "a circle below a star",
        "a red circle and a red circle",
        "a red circle and a blue star and a shape",
    ] {
        assert!(parse(caption).is_some(), "{caption} is in the grammar");
        assert!(!is_correct(caption, &two_objects()), "{caption}");
    }
}

#[test]
fn text_outside_the_grammar_is_wrong() {
    for caption in [
        "",
        "circle",
        "red circle",
        "an red circle",
        "a orange circle",
        "a circle red",
        "a striped large circle",
        "a red circle and",
        "a red circle on",
        "a red circle on a white",
        "a red circle at",
        "a red circle at left top",
        "a red circle.",
        "a red circle a blue star",
        "a red circle on white and a blue star",
        "a shape and a shape and a shape and a shape",
        "IMG_0001.jpg",
        "a réd circle",
    ] {
        assert_eq!(parse(caption), None, "{caption:?}");
    }
}

#[test]
fn objects_are_matched_by_trying_all_assignments() {
    let mut scene = two_objects();
    scene.objects[1].colour = Colour::Red;
    // Greedy matching would give the first “red shape” the circle, and leave none for it.
    assert!(is_correct("a red shape and a red circle", &scene));
    assert!(is_correct("a red shape right of a red circle", &scene));
    assert!(!is_correct("a red circle right of a red shape", &scene));
}

#[test]
fn joints_relate_neighbours() {
    let claim = parse("a circle left of a star and a square above a cross");
    assert_eq!(claim, None, "four objects");
    let claim = parse("a circle left of a star under a cross").expect("in the grammar");
    assert_eq!(claim.joints, [Joint::LeftOf, Joint::Below]);
}

proptest! {
    #[test]
    fn a_written_caption_is_correct(seed: u64, row: u64) {
        let scene = Scene::sample(seed, row);
        let caption = grammar::write_correct(&scene, &mut Random::new(seed, row, "test"));
        prop_assert!(is_correct(&caption, &scene), "{} of {:?}", caption, scene);
    }

    #[test]
    fn writing_then_parsing_gives_the_claim_back(seed: u64, row: u64) {
        let mut random = Random::new(seed, row, "test");
        let scene = Scene::sample(seed, row);
        let claim = parse(&grammar::write_correct(&scene, &mut random)).expect("in the grammar");
        prop_assert_eq!(parse(&claim.write()), Some(claim.clone()));
        prop_assert_eq!(parse(&grammar::write_varied(&claim, &mut random)), Some(claim));
        let full = Claim::full(&scene);
        prop_assert_eq!(parse(&full.write()), Some(full));
    }

    #[test]
    fn junk_of_every_kind_is_wrong(seed: u64, row: u64) {
        let scene = Scene::sample(seed, row);
        let mut random = Random::new(seed, row, "test");
        for (kind, _) in junk::SHARES {
            let text = junk::write_kind(kind, &scene, &mut random);
            prop_assert_eq!(text.is_none(), kind == Junk::Null);
            let text = text.unwrap_or_default();
            prop_assert!(!is_correct(&text, &scene), "{:?}: {} of {:?}", kind, text, scene);
        }
    }

    #[test]
    fn one_change_stays_in_the_grammar(seed: u64, row: u64) {
        let scene = Scene::sample(seed, row);
        let changed = junk::write_one_change(&scene, &mut Random::new(seed, row, "test"));
        prop_assert!(parse(&changed).is_some() && !is_correct(&changed, &scene), "{}", changed);
    }

    #[test]
    fn the_judge_takes_any_text(text: String) {
        is_correct(&text, &two_objects());
    }

    #[test]
    fn objects_keep_to_their_quadrants(seed: u64, row: u64) {
        let scene = Scene::sample(seed, row);
        let quadrants: HashSet<_> = scene.objects.iter().map(|object| (object.row(), object.column())).collect();
        prop_assert_eq!(quadrants.len(), scene.objects.len());
        for object in &scene.objects {
            for centre in [object.x_permille, object.y_permille] {
                let (low, high) = (centre - object.size.radius_permille(), centre + object.size.radius_permille());
                prop_assert!(high < 1000 && (low / 500 == high / 500), "{} to {}", low, high);
            }
        }
    }
}

#[test]
fn a_scene_has_many_correct_captions() {
    let mut random = Random::new(1, 1, "test");
    let captions: HashSet<_> = (0..200).map(|_| grammar::write_correct(&two_objects(), &mut random)).collect();
    assert!(captions.len() > 100, "{}", captions.len());
}

#[test]
fn answers_follow_from_the_scene() {
    let scene = two_objects();
    let mut random = Random::new(1, 1, "test");
    let asked: HashMap<_, _> = (0..300)
        .map(|_| questions::ask(&scene, Topics::All, &mut random))
        .map(|asked| (asked.question, asked.answer))
        .collect();
    for (question, answer) in [
        ("what colour is the circle", "red"),
        ("what shape is blue", "star"),
        ("where is the star", "bottom right"),
        ("what size is the circle", "large"),
        ("what texture is the star", "plain"),
        ("how many shapes are there", "two"),
        ("what colour is the background", "white"),
    ] {
        assert_eq!(
            asked.get(&format!("Question: {question}? Answer:")).map(String::as_str),
            Some(answer),
            "{question}"
        );
    }
}

#[test]
fn an_ambiguous_question_is_not_asked() {
    let mut scene = two_objects();
    scene.objects[1].shape = Shape::Circle;
    let mut random = Random::new(1, 1, "test");
    for _ in 0..300 {
        let asked = questions::ask(&scene, Topics::All, &mut random);
        assert!(!asked.question.contains("circle"), "{}", asked.question);
    }
}

#[test]
fn questions_can_be_of_shapes_and_colours_only() {
    let mut scene = two_objects();
    let mut random = Random::new(1, 1, "test");
    let mut asked = |scene: &Scene| -> HashSet<_> {
        (0..100).map(|_| questions::ask(scene, Topics::ShapesAndColours, &mut random).question).collect()
    };
    let expected = ["colour is the circle", "colour is the star", "shape is blue", "shape is red"];
    assert_eq!(asked(&scene), expected.iter().map(|what| format!("Question: what {what}? Answer:")).collect());
    scene.objects[1] =
        Object { shape: scene.objects[0].shape, colour: scene.objects[0].colour, ..scene.objects[1].clone() };
    assert_eq!(asked(&scene), HashSet::from(["Question: what colour is the background? Answer:".to_owned()]));
}

#[test]
fn an_answer_is_right_in_any_case_and_with_synonyms() {
    assert!(questions::is_right(" Plus ", "cross") && questions::is_right("grey", "gray"));
    assert!(questions::is_right("bottom  right", "bottom right"));
    assert!(!questions::is_right("red circle", "red") && !questions::is_right("", "red"));
    let choices = ["plus", "red", "white", "small"].map(questions::choices);
    assert_eq!(choices, [Some(5), Some(6), Some(3), None]);
}

// ------------------------------------------------------------------------------------------------------ rendering

#[test]
fn a_scene_is_drawn_where_and_as_it_is() {
    let side = 100;
    let pixels = render_rgb(&two_objects(), side);
    let at = |x: u32, y: u32| {
        let start = ((y * side + x) * 3) as usize;
        [pixels[start], pixels[start + 1], pixels[start + 2]]
    };
    assert_eq!(at(0, 0), [250; 3], "background");
    assert_eq!(at(75, 25), [250; 3], "an empty quadrant");
    assert_eq!(at(75, 75), [40, 80, 230], "a plain blue star's middle");
    let column: HashSet<_> = (15..35).map(|y| at(25, y)).collect();
    assert!(column.contains(&[220, 30, 30]) && column.contains(&[66, 9, 9]), "red and its stripes: {column:?}");
}

#[test]
fn every_attribute_changes_the_picture() {
    let scene = two_objects();
    let before = render_rgb(&scene, 64);
    let changes: [fn(&mut Scene); 6] = [
        |scene| scene.background = Background::Gray,
        |scene| scene.objects[0].shape = Shape::Square,
        |scene| scene.objects[0].colour = Colour::Orange,
        |scene| scene.objects[0].size = Size::Small,
        |scene| scene.objects[0].texture = Texture::Dotted,
        |scene| scene.objects[1].y_permille = 250,
    ];
    for (index, change) in changes.iter().enumerate() {
        let mut changed = scene.clone();
        change(&mut changed);
        let differing = before.iter().zip(render_rgb(&changed, 64)).filter(|(a, b)| a.abs_diff(*b) > 40).count();
        assert!(differing > 60, "change {index} alters {differing} levels only");
    }
}

#[test]
fn the_jpeg_is_close_to_the_pixels() {
    let scene = Scene::sample(7, 7);
    let jpeg = render_jpeg(&scene, 64).expect("compresses");
    let decoded = turbojpeg::decompress(&jpeg, turbojpeg::PixelFormat::RGB).expect("decodes");
    assert_eq!((decoded.width, decoded.height), (64, 64));
    let rendered = render_rgb(&scene, 64);
    let total: u64 = rendered.iter().zip(&decoded.pixels).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    assert!((total as f64 / rendered.len() as f64) < 4.0);
}

// --------------------------------------------------------------------------------------------------------- corpus

/// Writes a corpus into a new folder under `folder`.
async fn write(folder: &Path, options: SynthOptions) -> Result<super::SynthSummary, SynthError> {
    let mut seen = 0;
    let options = SynthOptions { out: folder.to_str().expect("a UTF-8 path").to_owned(), ..options };
    let summary = synth(options, |rows| seen = rows).await?;
    assert_eq!(seen, summary.rows, "progress reaches the end");
    Ok(summary)
}

fn read(folder: &Path) -> Vec<RecordBatch> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("lists").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
        .into_iter()
        .flat_map(|file| {
            let file = std::fs::File::open(file).expect("opens");
            ParquetRecordBatchReaderBuilder::try_new(file).expect("is parquet").build().expect("reads")
        })
        .map(|batch| batch.expect("a batch"))
        .collect()
}

fn texts<'a>(batch: &'a RecordBatch, column: &str) -> &'a StringArray {
    batch.column_by_name(column).expect("the column").as_any().downcast_ref().expect("text")
}

/// (caption, scene) of every row.
fn captions(folder: &Path) -> Vec<(Option<String>, Scene)> {
    let mut rows = Vec::new();
    for batch in read(folder) {
        for (caption, truth) in texts(&batch, "caption").iter().zip(texts(&batch, "truth")) {
            let scene = serde_json::from_str(truth.expect("a truth")).expect("a scene");
            rows.push((caption.map(str::to_owned), scene));
        }
    }
    rows
}

#[tokio::test]
async fn the_share_of_wrong_captions_is_as_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = SynthOptions { rows: 3000, junk: 0.6, image_side_px: Some(64), ..SynthOptions::default() };
    let summary = write(folder.path(), options).await.expect("writes");
    let rows = captions(folder.path());
    let correct = rows.iter().filter(|(caption, scene)| is_correct(caption.as_deref().unwrap_or(""), scene)).count();
    assert_eq!(summary.correct_rows, correct as u64);
    // Three standard errors of a share of 0.4 among 3000.
    assert!((correct as f64 / 3000.0 - 0.4).abs() < 0.027, "{correct}");
    assert!(
        rows.iter().any(|(caption, _)| caption.is_none())
            && rows.iter().any(|(caption, _)| caption.as_deref() == Some(""))
    );
}

#[tokio::test]
async fn the_same_seed_writes_the_same_bytes_and_another_seed_other_scenes() {
    let folder = tempfile::tempdir().expect("a folder");
    let options =
        SynthOptions { rows: 450, rows_per_file: 200, questions: Some(Topics::All), ..SynthOptions::default() };
    for name in ["one", "two"] {
        write(&folder.path().join(name), options.clone()).await.expect("writes");
    }
    write(&folder.path().join("other"), SynthOptions { seed: 2, ..options }).await.expect("writes");
    let bytes = |name: &str, file: &str| std::fs::read(folder.path().join(name).join(file)).expect("a file");
    for file in ["00000.parquet", "00001.parquet", "00002.parquet"] {
        assert_eq!(bytes("one", file), bytes("two", file));
        assert_ne!(bytes("one", file), bytes("other", file));
    }
    let scenes =
        |name: &str| captions(&folder.path().join(name)).into_iter().map(|(_, scene)| scene).collect::<Vec<_>>();
    assert!(scenes("one").iter().zip(scenes("other")).all(|(one, other)| *one != other));
}

#[tokio::test]
async fn a_row_does_not_depend_on_how_many_there_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let (small, large) = (folder.path().join("small"), folder.path().join("large"));
    let options = SynthOptions { image_side_px: Some(64), ..SynthOptions::default() };
    write(&small, SynthOptions { rows: 130, rows_per_file: 50, ..options.clone() }).await.expect("writes");
    write(&large, SynthOptions { rows: 170, rows_per_file: 1000, ..options }).await.expect("writes");
    assert_eq!(captions(&small), captions(&large)[..130]);
}

#[tokio::test]
async fn distinct_captions_are_correct_complete_and_different() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = SynthOptions { rows: 600, junk: 0.0, seed: 9000, distinct_captions: true, ..SynthOptions::default() };
    write(folder.path(), options).await.expect("writes");
    let mut meanings = HashSet::new();
    for (caption, scene) in captions(folder.path()) {
        let caption = caption.expect("a caption");
        assert!(is_correct(&caption, &scene), "{caption}");
        assert_eq!(parse(&caption), Some(Claim::full(&scene)));
        assert!(meanings.insert(parse(&caption)), "{caption} twice");
    }
    assert_eq!(meanings.len(), 600);
}

#[tokio::test]
async fn rows_follow_img2dataset() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = SynthOptions { rows: 250, variants: 3, questions: Some(Topics::All), ..SynthOptions::default() };
    write(folder.path(), options).await.expect("writes");
    let batches = read(folder.path());
    let schema = batches[0].schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let expected = "url caption key status error_message width height original_width original_height exif sha256 jpg \
                    truth question answer correct_captions wrong_captions";
    assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
    let keys: Vec<_> =
        batches.iter().flat_map(|batch| texts(batch, "key").iter().flatten().map(str::to_owned)).collect();
    assert_eq!(keys, (0..250).map(|row| format!("{row:09}")).collect::<Vec<_>>());

    let file = std::fs::File::open(folder.path().join("00000.parquet")).expect("opens");
    let footer = ParquetRecordBatchReaderBuilder::try_new(file).expect("is parquet");
    let groups: Vec<_> = footer.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [100, 100, 50]);

    let batch = &batches[0];
    let images: &BinaryArray = batch.column_by_name("jpg").expect("images").as_any().downcast_ref().expect("bytes");
    let header = turbojpeg::read_header(images.value(0)).expect("a JPEG");
    assert!(header.width == header.height && (64..=256).contains(&header.width));

    let scene: Scene = serde_json::from_str(texts(batch, "truth").value(0)).expect("a scene");
    for (column, correct) in [("correct_captions", true), ("wrong_captions", false)] {
        let lists: &ListArray = batch.column_by_name(column).expect("variants").as_any().downcast_ref().expect("lists");
        let variants = lists.value(0);
        let variants: &StringArray = variants.as_any().downcast_ref().expect("text");
        assert_eq!(variants.len(), 3);
        assert!(variants.iter().flatten().all(|caption| is_correct(caption, &scene) == correct), "{column}");
    }
}

#[tokio::test]
async fn bad_options_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let message = async |options| write(folder.path(), options).await.expect_err("refused").to_string();
    assert!(message(SynthOptions { junk: 1.5, ..SynthOptions::default() }).await.contains("between 0 and 1"));
    assert!(
        message(SynthOptions { junk: 0.1, distinct_captions: true, ..SynthOptions::default() }).await.contains("junk")
    );
    assert!(message(SynthOptions { rows_per_file: 0, ..SynthOptions::default() }).await.contains("at least one row"));
    assert!(message(SynthOptions { image_side_px: Some(8), ..SynthOptions::default() }).await.contains("64 to 256"));
    let nowhere = SynthOptions { out: "gopher://bucket/x".to_owned(), ..SynthOptions::default() };
    assert!(synth(nowhere, |_| {}).await.expect_err("refused").to_string().contains("gopher://bucket/x"));
}

#[tokio::test]
async fn a_folder_with_another_corpus_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = SynthOptions { rows: 30, rows_per_file: 10, ..SynthOptions::default() };
    write(folder.path(), options.clone()).await.expect("writes");
    write(folder.path(), options.clone()).await.expect("the same corpus again");
    let error = write(folder.path(), SynthOptions { rows: 20, ..options }).await.expect_err("a file is left over");
    assert!(error.to_string().contains("00002.parquet"), "{error}");
}
