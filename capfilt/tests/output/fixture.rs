//! A small run's rows, parts and outputs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use quern_capfilt::{
    Candidate, Manifest, Part, PartEntry, PartRow, Provenance, QuarantinedShard, RowOutcome, Source, Stage, encode_part,
};
use quern_corpus::store::Folder;
use quern_corpus::{RowId, ShardId, ShardSpec};
use quern_recipes::Recipe;

/// Captions that survive as they are, whatever they hold.
pub const NASTY: &str = "a\0b\t\u{1b}[31m\u{202e}<script>alert(1)</script> & \"quotes\" \u{1f415}\r\n";

pub fn provenance() -> Provenance {
    let models = [("captioner/model.safetensors", "aa"), ("ranker/model.safetensors", "bb")];
    Provenance {
        run_id: "run-1".into(),
        recipe_hash: "0123456789abcdef".into(),
        seed: 7,
        models: models.map(|(file, digest)| (file.to_owned(), digest.to_owned())).into(),
        version: "0.1.0".into(),
    }
}

/// Shard `index` of `rows` rows of the data set `web`.
pub fn shard(index: u64, rows: u64) -> ShardSpec {
    ShardSpec {
        shard: ShardId(format!("web-00000-{:09}", index * 1000)),
        dataset: "web".into(),
        file: "a/b.parquet".into(),
        row_start: index * 1000,
        rows,
    }
}

pub fn id(shard: &ShardSpec, at: u64) -> RowId {
    RowId { dataset: shard.dataset.as_str().into(), file: shard.file.as_str().into(), row: shard.row_start + at }
}

pub fn kept(texts: &[(&str, f32)], kept: &[usize]) -> RowOutcome {
    let last = texts.len() - 1;
    let candidate = |(at, &(text, score)): (usize, &(&str, f32))| Candidate {
        text: text.into(),
        source: if at == last { Source::Web } else { Source::Synthetic },
        score,
        index: at as u32,
    };
    RowOutcome::Kept { candidates: texts.iter().enumerate().map(candidate).collect(), kept: kept.to_vec() }
}

pub fn row(shard: &ShardSpec, at: u64, outcome: RowOutcome) -> PartRow {
    PartRow { id: id(shard, at), key: Some(format!("key{at}")), outcome, image: None }
}

/// Kept, quarantined, kept with a nasty caption and without a key, passed.
pub fn rows(shard: &ShardSpec) -> Vec<PartRow> {
    assert_eq!(shard.rows, 4);
    let first = kept(&[("a red square", 0.25), ("a blue disc", 0.5), ("buy now", -0.125)], &[1, 0]);
    let broken = RowOutcome::quarantined(Stage::Decode, "image_corrupt", "JPEG: premature end");
    let nasty = PartRow { key: None, ..row(shard, 2, kept(&[("a dog", 0.25), (NASTY, 0.75)], &[1, 0])) };
    let passed = RowOutcome::Passed { caption: "as it was".into() };
    vec![row(shard, 0, first), row(shard, 1, broken), nasty, row(shard, 3, passed)]
}

pub fn part(shard: &ShardSpec) -> Part {
    encode_part(shard, rows(shard), &provenance()).unwrap()
}

pub fn recipe(output: &str, workers: u32) -> Recipe {
    let text = format!(
        r#"{{"name": "toy", "seed": 7, "output": "{output}", "datasets": [{{"name": "web", "path": "/data/web"}}],
            "capfilt": {{"captioner": "/zoo/blip", "ranker": "/zoo/clip"}},
            "stage1": {{"image_encoder": "/zoo/clip", "tokenizer": "/zoo/bert", "batch": 8, "steps": 3, "ranks": {workers}}},
            "cluster": {{"attempts": {workers}}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

/// An output that can be spoilt before it is verified.
pub struct Output {
    pub folder: Folder,
    pub plan: Vec<ShardSpec>,
    pub entries: Vec<PartEntry>,
    pub quarantined: Vec<QuarantinedShard>,
}

impl Output {
    /// Two parts and a file that could not be read.
    pub async fn whole() -> Self {
        let folder = Folder::new(Arc::new(InMemory::new()), Path::default(), "memory://output");
        let unreadable = ShardSpec {
            shard: ShardId("web-00001-000000000".into()),
            dataset: "web".into(),
            file: "a/c.parquet".into(),
            row_start: 0,
            rows: 0,
        };
        let mut output = Output {
            folder,
            plan: vec![shard(0, 4), shard(1, 4), unreadable.clone()],
            entries: Vec::new(),
            quarantined: vec![QuarantinedShard { shard: unreadable, reason: "no footer".into() }],
        };
        for spec in [shard(0, 4), shard(1, 4)] {
            let part = part(&spec);
            output.add(&spec, &part).await;
        }
        output.write_manifest().await;
        output
    }

    /// Uploads a part and enters it.
    pub async fn add(&mut self, spec: &ShardSpec, part: &Part) {
        for (name, bytes) in part.data.iter().chain(&part.quarantine) {
            self.put(name, bytes.clone()).await;
        }
        self.entries.push(PartEntry::new(spec, part));
    }

    pub async fn put(&self, name: &str, bytes: Bytes) {
        self.folder.put(name, bytes).await.unwrap();
    }

    pub fn manifest(&self) -> Manifest {
        let recipe = recipe("/out", 2);
        Manifest::new(&recipe, &provenance(), BTreeMap::new(), self.entries.clone(), self.quarantined.clone())
    }

    pub async fn write_manifest(&self) {
        self.manifest().write(&self.folder).await.unwrap();
    }
}
