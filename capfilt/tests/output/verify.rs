//! Verification: a whole output passes, and every way to spoil it is told.

use quern_capfilt::{Part, Provenance, Verification, Violation, encode_part, verify};
use quern_corpus::ShardSpec;

use crate::fixture::{Output, id, part, provenance, rows, shard};

async fn against_plan(output: &Output) -> Verification {
    verify(&output.folder, Some(&output.plan)).await.unwrap()
}

async fn violations(output: &Output) -> Vec<Violation> {
    against_plan(output).await.violations
}

fn data_name(part: &Part) -> String {
    part.data.as_ref().unwrap().0.clone()
}

#[tokio::test]
async fn a_whole_output_passes() {
    let output = Output::whole().await;
    let seen = against_plan(&output).await;
    assert_eq!(seen.violations, []);
    assert!(seen.is_whole());
    assert_eq!(seen.seen, output.manifest().totals);
    assert!(verify(&output.folder, None).await.unwrap().is_whole());
}

#[tokio::test]
async fn without_a_manifest_there_is_nothing_to_verify() {
    let output = Output::whole().await;
    output.folder.delete(quern_capfilt::MANIFEST).await.unwrap();
    let error = verify(&output.folder, None).await.unwrap_err().to_string();
    assert!(error.contains("manifest.json does not exist"), "{error}");
}

#[tokio::test]
async fn a_planned_shard_must_be_there() {
    let mut output = Output::whole().await;
    output.plan.push(shard(2, 4));
    assert_eq!(violations(&output).await, [Violation::ShardMissing { shard: shard(2, 4).shard }]);
}

#[tokio::test]
async fn a_shard_must_be_planned_and_as_planned() {
    let mut output = Output::whole().await;
    let planned = ShardSpec { rows: 5, ..shard(1, 4) };
    output.plan[1] = planned.clone();
    let differs = |planned: Option<ShardSpec>| Violation::ShardDiffers {
        shard: shard(1, 4).shard,
        found: Box::new(shard(1, 4)),
        planned: planned.map(Box::new),
    };
    assert_eq!(violations(&output).await, [differs(Some(planned))]);
    output.plan.remove(1);
    assert_eq!(violations(&output).await, [differs(None)]);
}

#[tokio::test]
async fn a_shard_is_there_once() {
    let mut output = Output::whole().await;
    output.entries.push(output.entries[0].clone());
    output.write_manifest().await;
    let found = violations(&output).await;
    assert!(found.contains(&Violation::ShardRepeated { shard: shard(0, 4).shard, times: 2 }), "{found:?}");
    for at in 0..4 {
        assert!(found.contains(&Violation::RowRepeated { row: id(&shard(0, 4), at), times: 2 }), "{found:?}");
    }
    assert_eq!(found.len(), 5, "{found:?}");
}

#[tokio::test]
async fn parts_are_in_shard_order() {
    let output = Output::whole().await;
    let mut manifest = output.manifest();
    manifest.parts.swap(0, 1);
    manifest.write(&output.folder).await.unwrap();
    assert_eq!(violations(&output).await, [Violation::OutOfOrder { shard: shard(0, 4).shard }]);
}

#[tokio::test]
async fn a_named_file_must_be_there() {
    let output = Output::whole().await;
    let gone = data_name(&part(&shard(0, 4)));
    output.folder.delete(&gone).await.unwrap();
    let found = violations(&output).await;
    assert!(found.contains(&Violation::FileMissing { file: gone }), "{found:?}");
    for at in [0, 2, 3] {
        let missing = Violation::RowMissing { shard: shard(0, 4).shard, row: id(&shard(0, 4), at) };
        assert!(found.contains(&missing), "{found:?}");
    }
}

#[tokio::test]
async fn one_flipped_bit_is_seen() {
    let output = Output::whole().await;
    let (name, bytes) = part(&shard(0, 4)).data.unwrap();
    for at in [20, bytes.len() / 2, bytes.len() - 20] {
        let mut spoilt = bytes.to_vec();
        spoilt[at] ^= 1;
        output.put(&name, spoilt.into()).await;
        let found = violations(&output).await;
        let is_digest =
            |violation: &Violation| matches!(violation, Violation::FileDigest { file, .. } if *file == name);
        assert!(found.iter().any(is_digest), "{found:?}");
        assert!(found.iter().any(|violation| matches!(violation, Violation::PartDigest { .. })), "{found:?}");
    }
}

#[tokio::test]
async fn a_truncated_file_is_unreadable() {
    let output = Output::whole().await;
    let (name, bytes) = part(&shard(0, 4)).data.unwrap();
    output.put(&name, bytes.slice(..bytes.len() - 9)).await;
    let found = violations(&output).await;
    let is_unreadable =
        |violation: &Violation| matches!(violation, Violation::Unreadable { file, .. } if *file == name);
    assert!(found.iter().any(is_unreadable), "{found:?}");
}

/// The output with shard 0's part replaced by another, whose names and digests are in order.
async fn with_part(spec: &ShardSpec, part: &Part) -> Output {
    let mut output = Output::whole().await;
    let old = crate::fixture::part(&shard(0, 4));
    for (name, _) in old.data.iter().chain(&old.quarantine) {
        output.folder.delete(name).await.unwrap();
    }
    output.entries.remove(0);
    output.add(spec, part).await;
    output.write_manifest().await;
    output
}

#[tokio::test]
async fn a_part_of_another_run_is_seen() {
    let spec = shard(0, 4);
    let strangers: [fn(&mut Provenance); 5] = [
        |run| run.run_id = "run-2".into(),
        |run| run.recipe_hash = "other".into(),
        |run| run.seed = 8,
        |run| run.version = "0.2.0".into(),
        |run| run.models.insert("ranker/model.safetensors".into(), "cc".into()).map_or((), drop),
    ];
    for change in strangers {
        let mut other = provenance();
        change(&mut other);
        let part = encode_part(&spec, rows(&spec), &other).unwrap();
        let found = violations(&with_part(&spec, &part).await).await;
        assert_eq!(found.len(), 2, "data and quarantine: {found:?}");
        for violation in found {
            assert!(matches!(&violation, Violation::Provenance { found, .. } if **found == other), "{violation:?}");
        }
    }
}

#[tokio::test]
async fn every_row_is_there_exactly_once() {
    // A part that covers three of the four rows, entered as if it covered all.
    let spec = shard(0, 4);
    let short = ShardSpec { rows: 3, ..spec.clone() };
    let part = encode_part(&short, rows(&spec)[..3].to_vec(), &provenance()).unwrap();
    let mut output = with_part(&spec, &part).await;
    let last = output.entries.len() - 1;
    output.entries[last].rows = 4;
    output.entries[last].passed = 1;
    output.write_manifest().await;
    let expected = [
        Violation::RowMissing { shard: spec.shard.clone(), row: id(&spec, 3) },
        Violation::Counts { shard: spec.shard.clone(), expected: "2, 1 and 1".into(), found: "2, 0 and 1".into() },
    ];
    assert_eq!(violations(&output).await, expected);
}

#[tokio::test]
async fn a_row_of_another_shard_is_seen() {
    let spec = shard(0, 4);
    let foreign = ShardSpec { row_start: 1000, ..spec.clone() };
    let part = encode_part(&foreign, rows(&foreign), &provenance()).unwrap();
    let output = with_part(&spec, &part).await;
    let found = violations(&output).await;
    for at in 0..4 {
        let row = id(&foreign, at);
        assert!(found.contains(&Violation::RowForeign { shard: spec.shard.clone(), row: row.clone() }), "{found:?}");
        assert!(found.contains(&Violation::RowMissing { shard: spec.shard.clone(), row: id(&spec, at) }), "{found:?}");
        // Shard 1 has these rows too.
        assert!(found.contains(&Violation::RowRepeated { row, times: 2 }), "{found:?}");
    }
    assert_eq!(found.len(), 12, "{found:?}");
}

#[tokio::test]
async fn totals_must_be_the_sum() {
    let output = Output::whole().await;
    let mut manifest = output.manifest();
    manifest.totals.kept += 1;
    manifest.write(&output.folder).await.unwrap();
    assert_eq!(violations(&output).await, [Violation::Totals]);
}

#[tokio::test]
async fn what_no_one_accepted_is_an_orphan() {
    let output = Output::whole().await;
    let mut other = provenance();
    other.seed = 8;
    let (name, bytes) = encode_part(&shard(0, 4), rows(&shard(0, 4)), &other).unwrap().data.unwrap();
    output.put(&name, bytes).await;
    output.put("quarantine/stray", "x".into()).await;
    output.put("report.html", "no part, no orphan".into()).await;
    let expected = [name, "quarantine/stray".to_owned()].map(|file| Violation::Orphan { file });
    assert_eq!(violations(&output).await, expected);
}
