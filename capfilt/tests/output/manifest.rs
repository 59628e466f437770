//! The manifest: the same for the same work, in shard order, and only what it should hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;
use quern_capfilt::{MANIFEST, Manifest, ManifestError, PartEntry, Totals};
use quern_corpus::store::{Folder, StoreError};

use crate::fixture::{Output, part, provenance, recipe, shard};

fn entries() -> Vec<PartEntry> {
    [shard(0, 4), shard(1, 4)].map(|shard| PartEntry::new(&shard, &part(&shard))).into()
}

fn manifest(output: &str, workers: u32, parts: Vec<PartEntry>) -> Manifest {
    Manifest::new(&recipe(output, workers), &provenance(), BTreeMap::new(), parts, Vec::new())
}

#[test]
fn neither_order_of_commits_nor_workers_nor_output_shows() {
    let reversed = entries().into_iter().rev().collect();
    let one = manifest("/here", 1, entries());
    let other = manifest("/there", 3, reversed);
    assert_eq!(one.to_json(), other.to_json());
    let shards: Vec<_> = other.parts.iter().map(|part| part.shard.0.as_str()).collect();
    assert_eq!(shards, ["web-00000-000000000", "web-00000-000001000"]);
    for hidden in ["/here", "attempts", "lease_ms", "ranks"] {
        assert!(!one.to_json().contains(hidden), "{hidden}");
    }
    assert_eq!(one.recipe["datasets"][0]["path"], "/data/web");
    assert_eq!(one.recipe["cluster"]["threads"], 1);
    assert_eq!(one.recipe["capfilt"]["keep"], 2);
}

#[test]
fn totals_are_sums() {
    let manifest = manifest("/out", 1, entries());
    let bytes = entries().iter().map(|entry| entry.bytes).sum();
    let expected = Totals { shards: 2, rows: 8, kept: 4, passed: 2, quarantined: 2, bytes, ..Totals::default() };
    assert_eq!(manifest.totals, expected);
    let (shard, part) = (shard(0, 4), part(&shard(0, 4)));
    let size = part.data.unwrap().1.len() + part.quarantine.unwrap().1.len();
    assert_eq!(PartEntry::new(&shard, &crate::fixture::part(&shard)).bytes, size as u64);
}

#[tokio::test]
async fn it_reads_back() {
    let output = Output::whole().await;
    let read = Manifest::read(&output.folder).await.unwrap();
    assert_eq!(read, output.manifest());
    assert_eq!(read.provenance(), provenance());
    assert_eq!(read.parts[0].spec(), output.plan[0]);
    assert_eq!(read.quarantined_shards[0].shard, output.plan[2]);
    assert_eq!(read.totals.quarantined_shards, 1);
}

#[tokio::test]
async fn what_is_no_manifest_is_refused_with_its_place() {
    let folder = Folder::new(Arc::new(InMemory::new()), Path::default(), "memory://output");
    let missing = Manifest::read(&folder).await.unwrap_err();
    assert!(matches!(missing, ManifestError::Store(StoreError::NotFound { .. })), "{missing}");
    let newer = manifest("/out", 1, entries()).to_json().replace("\"layout\": 1", "\"layout\": 2");
    for (text, expected) in [("{", "no JSON"), ("{}", "layout"), (&newer, "layout 2"), ("{\"layout\": 1}", "run_id")] {
        folder.put(MANIFEST, text.to_owned().into()).await.unwrap();
        let error = Manifest::read(&folder).await.unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("memory://output/manifest.json"), "{error}");
    }
}
