//! How many rows became what, per data set and in total.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::text::markdown;
use crate::manifest::Manifest;

/// Whole shards in quarantine that are named at most; the manifest has all.
const SHARDS: usize = 50;

/// Rows of a data set.
#[derive(Default)]
struct Counts {
    kept: u64,
    passed: u64,
    quarantined: u64,
    /// Rows of shards that failed as a whole.
    lost: u64,
}

pub(super) fn counts(manifest: &Manifest) -> String {
    let mut by_dataset: BTreeMap<&str, Counts> = BTreeMap::new();
    for part in &manifest.parts {
        let counts = by_dataset.entry(&part.dataset).or_default();
        counts.kept += part.kept;
        counts.passed += part.passed;
        counts.quarantined += part.quarantined;
    }
    for shard in &manifest.quarantined_shards {
        by_dataset.entry(&shard.shard.dataset).or_default().lost += shard.shard.rows;
    }
    let mut section = String::from(
        "\n## Rows\n\n*Kept*: captions were written and ranked. *Passed*: the data set's captions are kept as they are. *In \
         quarantine*: the row could not be used. *Lost*: rows of shards that failed as a whole, as far as they are known.\n\n\
         | Data set | Kept | Passed | In quarantine | Lost |\n|---|--:|--:|--:|--:|\n",
    );
    for (dataset, counts) in &by_dataset {
        line(&mut section, &markdown(dataset), counts);
    }
    let totals = &manifest.totals;
    let total = Counts {
        kept: totals.kept,
        passed: totals.passed,
        quarantined: totals.quarantined,
        lost: totals.quarantined_shard_rows,
    };
    line(&mut section, "**all**", &total);
    section + &reasons(manifest) + &shards(manifest)
}

fn line(section: &mut String, name: &str, counts: &Counts) {
    let Counts { kept, passed, quarantined, lost } = counts;
    let _ = writeln!(section, "| {name} | {kept} | {passed} | {quarantined} | {lost} |");
}

/// Rows in quarantine by data set, stage and reason.
fn reasons(manifest: &Manifest) -> String {
    let mut rows: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for part in manifest.parts.iter().filter(|part| part.quarantined > 0) {
        for (reason, count) in &part.reasons {
            *rows.entry((&part.dataset, reason)).or_default() += count;
        }
        if part.reasons.is_empty() {
            *rows.entry((&part.dataset, "?/not_counted")).or_default() += part.quarantined;
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let mut section =
        String::from("\nIn quarantine, by cause:\n\n| Data set | Stage | Reason | Rows |\n|---|---|---|--:|\n");
    for ((dataset, reason), count) in rows {
        let (stage, reason) = reason.split_once('/').unwrap_or(("?", reason));
        let _ = writeln!(section, "| {} | {} | {} | {count} |", markdown(dataset), markdown(stage), markdown(reason));
    }
    section
}

fn shards(manifest: &Manifest) -> String {
    let shards = &manifest.quarantined_shards;
    if shards.is_empty() {
        return String::new();
    }
    let mut section =
        String::from("\nShards that failed as a whole:\n\n| Data set | File | Rows | Reason |\n|---|---|--:|---|\n");
    for failed in shards.iter().take(SHARDS) {
        let shard = &failed.shard;
        let (dataset, file) = (markdown(&shard.dataset), markdown(&shard.file));
        let _ = writeln!(section, "| {dataset} | {file} | {} | {} |", shard.rows, markdown(&failed.reason));
    }
    if shards.len() > SHARDS {
        let _ = writeln!(section, "\n… and {} more, which `manifest.json` names.", shards.len() - SHARDS);
    }
    section
}
