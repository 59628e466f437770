//! Rows of the toy world and an engine on the zoo's models.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use quern_capfilt::{Candidate, PartRow, Provenance, RowOutcome, Source, encode_part};
use quern_capfilt_engine::Engine;
use quern_corpus::reader::RawRow;
use quern_corpus::toy::{Scene, render, seeds};
use quern_corpus::{RowId, ShardId, ShardSpec};
use quern_recipes::{CapFilt, ImageLimits};
use tch::Device;

/// Rows per chunk.
pub const BATCH: usize = 4;
pub const LIMITS: ImageLimits = ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 16, max_side: 256, max_frames: 1 };

pub fn zoo(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../zoo").join(model)
}

pub fn config() -> CapFilt {
    config_of(&zoo("blip"), &zoo("clip"))
}

pub fn config_of(captioner: &Path, ranker: &Path) -> CapFilt {
    let json = serde_json::json!({
        "captioner": captioner, "ranker": ranker, "candidates": 5, "keep": 2, "batch_images": BATCH,
        "sampling": {"max_length": 16},
    });
    serde_json::from_value(json).unwrap()
}

pub fn engine(config: &CapFilt) -> Engine {
    // Every test has a thread of its own.
    tch::set_num_threads(1);
    Engine::load(config, &LIMITS, 7, Device::Cpu).unwrap()
}

pub fn jpeg(scene: u64) -> Bytes {
    render::render_jpeg(&Scene::sample(seeds::DEMO, scene), 64).unwrap().into()
}

pub fn row(at: u64, image: Option<Bytes>, caption: Option<&str>) -> RawRow {
    let id = RowId { dataset: "toy".into(), file: "00000.parquet".into(), row: at };
    RawRow { id, key: Some(format!("key{at}")), image, missing: None, caption: caption.map(str::to_owned) }
}

/// Two and a half chunks of readable rows.
pub fn rows() -> Vec<RawRow> {
    (0..10).map(|at| row(at, Some(jpeg(at)), Some("best price, free shipping"))).collect()
}

pub fn run(engine: &Engine, rows: Vec<RawRow>) -> Vec<PartRow> {
    engine.run_rows(rows).unwrap()
}

/// The digest of the part that these rows make.
pub fn digest(engine: &Engine, rows: Vec<PartRow>) -> String {
    let shard = ShardSpec {
        shard: ShardId("toy-00000-000000000".into()),
        dataset: "toy".into(),
        file: "00000.parquet".into(),
        row_start: 0,
        rows: rows.len() as u64,
    };
    let models = engine.model_digests().clone();
    encode_part(&shard, rows, &Provenance { models, ..Provenance::default() }).unwrap().digest
}

pub fn candidates(row: &PartRow) -> &[Candidate] {
    match &row.outcome {
        RowOutcome::Kept { candidates, .. } => candidates,
        other => panic!("{}: {other:?}", row.id),
    }
}

pub fn written(row: &PartRow) -> Vec<&str> {
    let written = candidates(row).iter().filter(|candidate| candidate.source == Source::Synthetic);
    written.map(|candidate| candidate.text.as_str()).collect()
}
