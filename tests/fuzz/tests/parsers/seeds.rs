//! The seeds that only our own code can write: parts, a manifest, a recipe in JSON.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use quern_capfilt::{
    Candidate, Manifest, PartEntry, PartRow, Provenance, QuarantinedShard, RowOutcome, Source, Stage, encode_part,
};
use quern_corpus::{RowId, ShardId, ShardSpec};
use quern_recipes::Recipe;

#[test]
#[ignore = "writes seeds anew: cargo test --release --workspace --test parsers -- --ignored write_seeds"]
fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(corpus.join(target)).expect("the corpus can be written");
        std::fs::write(corpus.join(target).join(name), bytes).expect("the corpus can be written");
    };
    let provenance = Provenance {
        run_id: "run".into(),
        recipe_hash: "0123456789abcdef".into(),
        seed: 7,
        models: [("captioner/model.safetensors".into(), "aa".into())].into(),
        version: "0.1.0".into(),
    };
    let mut entries = Vec::new();
    for (name, image) in [("with_images", Some(&b"\xff\xd8\xff"[..])), ("without_images", None)] {
        let part = encode_part(&shard(), rows(image), &provenance).expect("rows of one shard");
        entries = vec![PartEntry::new(&shard(), &part)];
        for (kind, file) in [("data", part.data), ("quarantine", part.quarantine)] {
            let (_, bytes) = file.expect("rows of both kinds");
            write("parts", &format!("{kind}_{name}.parquet"), &bytes);
        }
    }
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/demo.yaml");
    let recipe = Recipe::read(demo).expect("a shipped recipe");
    write("recipes_json", "demo.json", recipe.to_json().as_bytes());
    let lost = QuarantinedShard { shard: shard(), reason: "not a readable <parquet> file".into() };
    let manifest = Manifest::new(&recipe, &provenance, BTreeMap::new(), entries, vec![lost]);
    write("manifests", "manifest.json", manifest.to_json().as_bytes());
}

fn shard() -> ShardSpec {
    ShardSpec {
        shard: ShardId("web-00000-000000000".into()),
        dataset: "web".into(),
        file: "a.parquet".into(),
        row_start: 0,
        rows: 3,
    }
}

/// Two kept rows around one in quarantine.
fn rows(image: Option<&'static [u8]>) -> Vec<PartRow> {
    let candidate = |text: &str, source, index| Candidate { text: text.into(), source, score: 0.25, index };
    let candidates = vec![candidate("a dog", Source::Synthetic, 0), candidate("dog.jpg", Source::Web, 1)];
    let kept = RowOutcome::Kept { candidates, kept: vec![1, 0] };
    let lost = RowOutcome::quarantined(Stage::Decode, "image_corrupt", "cut off");
    let row = |row, outcome, image: Option<&'static [u8]>| PartRow {
        id: RowId { dataset: "web".into(), file: "a.parquet".into(), row },
        key: Some(format!("key{row}")),
        outcome,
        image: image.map(Bytes::from_static),
    };
    vec![row(0, kept.clone(), image), row(1, lost, None), row(2, kept, image)]
}
