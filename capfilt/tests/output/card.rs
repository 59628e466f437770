//! The dataset card: of the manifest alone, readable by what reads such cards, and with nothing of the data as markup.

use std::collections::BTreeMap;

use quern_capfilt::{CARD, Manifest, QuarantinedShard, Verification, Violation, card, verify};
use quern_recipes::{EmbedImages, Recipe};
use serde_json::Value;

use crate::fixture::{Output, provenance, recipe};

/// A card's front matter, read as YAML, and its text.
fn parts(card: &str) -> (Value, &str) {
    let (front, text) = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    (serde_saphyr::from_str(front).unwrap(), text)
}

fn of(recipe: &Recipe, quarantined: Vec<QuarantinedShard>, output: &Output) -> Manifest {
    Manifest::new(recipe, &provenance(), BTreeMap::new(), output.entries.clone(), quarantined)
}

async fn violations(output: &Output) -> Vec<Violation> {
    let Verification { violations, .. } = verify(&output.folder, None).await.unwrap();
    violations
}

#[tokio::test]
async fn it_says_what_is_in_the_output() {
    let output = Output::whole().await;
    let written = output.folder.get(CARD).await.unwrap();
    let written = std::str::from_utf8(&written).unwrap();
    let (front, text) = parts(written);
    assert_eq!(front["pretty_name"], "toy");
    assert_eq!(front["task_categories"][0], "image-to-text");
    assert_eq!(front["configs"][0]["data_files"], "data/*.parquet");
    assert_eq!(front["configs"][1]["config_name"], "quarantine");
    let info = &front["dataset_info"][0];
    assert_eq!(info["splits"][0]["num_examples"], 6);
    let feature = |name: &str| info["features"].as_array().unwrap().iter().find(|f| f["name"] == name).unwrap();
    assert_eq!(feature("row")["dtype"], "int64");
    assert_eq!(feature("captions")["list"][2]["dtype"], "float32");
    assert_eq!(feature("all_captions")["list"], "string");
    assert!(front.get("license").is_none(), "it is the user's to say");
    for line in [
        "| web | 4 | 2 | 2 | 0 |",
        "| **all** | 4 | 2 | 2 | 0 |",
        "| web | decode | image\\_corrupt | 2 |",
        "| web | a/c.parquet | 0 | no footer |",
        "| captioner/model.safetensors | aa |",
        "| recipe hash | 0123456789abcdef |",
        "| `top_caption` | the best of `captions` |",
        "    path: /data/web",
    ] {
        assert!(text.contains(line), "{line}\nis missing in\n{text}");
    }
    assert!(!text.contains("/out"), "where it lies is not in it");
}

#[tokio::test]
async fn it_is_made_of_the_manifest_alone() {
    let output = Output::whole().await;
    let read = Manifest::read(&output.folder).await.unwrap();
    assert_eq!(card(&read), card(&output.manifest()));
    assert_eq!(output.folder.get(CARD).await.unwrap(), card(&read).unwrap());
    assert_eq!(card(&of(&recipe("/there", 9), output.quarantined.clone(), &output)), card(&read));
}

#[tokio::test]
async fn no_text_of_the_recipe_is_markup() {
    let output = Output::whole().await;
    let nasty = "x\n---\n<script>alert(1)</script> | [a](http://b) ``` \u{1b}[2J\u{202e}";
    let mut named = recipe("/out", 1);
    named.name = nasty.into();
    named.capfilt.as_mut().unwrap().prompt = format!("{nasty}\n```\n# heading");
    let mut failed = output.quarantined.clone();
    failed[0].reason = nasty.into();
    let card = card(&of(&named, failed, &output)).unwrap();
    let (front, text) = parts(&card);
    assert_eq!(front["pretty_name"], nasty);
    let (above, recipe) = text.split_once("````yaml\n").unwrap();
    assert!(!above.contains("<script") && !above.contains("](http"));
    assert!(above.contains("\\| \\[a\\]\\(http\\://b\\)"), "{above}");
    assert!(!card.contains(|c: char| c.is_control() && c != '\n') && !card.contains('\u{202e}'));
    let read: Value = serde_saphyr::from_str(recipe.strip_suffix("````\n").unwrap()).unwrap();
    assert_eq!(read["name"], nasty);
}

#[tokio::test]
async fn images_are_a_feature_where_parts_carry_them() {
    let output = Output::whole().await;
    let mut embedding = recipe("/out", 1);
    embedding.capfilt.as_mut().unwrap().embed_images = EmbedImages::Whole(true);
    let card = card(&of(&embedding, Vec::new(), &output)).unwrap();
    let (front, text) = parts(&card);
    let features = front["dataset_info"][0]["features"].as_array().unwrap();
    assert_eq!(
        (&features.last().unwrap()["name"], &features.last().unwrap()["dtype"]),
        (&"image".into(), &"image".into())
    );
    assert!(text.contains("| `image` |") && text.contains("carries its image"));
}

#[tokio::test]
async fn without_captions_of_its_own_there_is_no_card() {
    let mut output = Output::whole().await;
    let mut trains = recipe("/out", 1);
    trains.captions = Some("/earlier".into());
    assert_eq!(card(&of(&trains, Vec::new(), &output)), None);
    output.entries.clear();
    let empty = card(&of(&recipe("/out", 1), Vec::new(), &output)).unwrap();
    assert!(parts(&empty).0.get("configs").is_none(), "no files, no configuration");
}

#[tokio::test]
async fn a_missing_and_a_changed_card_are_violations() {
    let output = Output::whole().await;
    output.folder.delete(CARD).await.unwrap();
    assert_eq!(violations(&output).await, [Violation::CardMissing]);
    output.put(CARD, "# my own".into()).await;
    assert_eq!(violations(&output).await, [Violation::CardDiffers]);
}

#[tokio::test]
async fn wrong_reasons_are_a_violation() {
    let mut output = Output::whole().await;
    let reason = output.entries[0].reasons.remove("decode/image_corrupt").unwrap();
    output.entries[0].reasons.insert("decode/other".into(), reason);
    output.write_manifest().await;
    let found = violations(&output).await;
    let expected = "shard web-00000-000000000: the manifest says 1 decode/other in quarantine, the files hold 1 decode/image_corrupt";
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
}
