//! Whether an output is whole: every input row in it exactly once, every file what its name and the manifest say, and
//! nothing else there. Parts are read one at a time; no image is looked at.

mod violation;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quern_corpus::store::{Folder, StoreError};
use quern_corpus::{RowId, ShardId, ShardSpec};

use crate::card::{CARD, card};
use crate::manifest::{Manifest, ManifestError, PartEntry, Totals};
use crate::part::{DATA_FOLDER, QUARANTINE_FOLDER, digest, file_name};
use crate::provenance::Provenance;
use crate::read::{ReadPartError, read_data, read_provenance, read_quarantine};
use crate::tasks::{ResultFiles, TaskEntry};

pub use violation::Violation;

/// What [`verify`] saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Verification {
    /// What the parts that could be read add up to.
    pub seen: Totals,
    /// Everything that is wrong; empty for a whole output.
    pub violations: Vec<Violation>,
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.violations.is_empty()
    }
}

/// The output can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no manifest to verify against.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Verifies an output against its manifest and, if given, against the plan of its inputs (all shards, with unreadable
/// files as shards of 0 rows). Without a plan the manifest's own shards are taken for the plan; whole files that it
/// leaves out, or rows at the end of a file, then go unnoticed.
///
/// # Errors
/// When there is no manifest or the store refuses. What is wrong with the output is no error but a [`Violation`].
pub async fn verify(output: &Folder, plan: Option<&[ShardSpec]>) -> Result<Verification, VerifyError> {
    let manifest = Manifest::read(output).await?;
    let mut violations = Vec::new();
    check_shards(&manifest, plan, &mut violations);
    if manifest.totals != Totals::of(&manifest.parts, &manifest.quarantined_shards) {
        violations.push(Violation::Totals);
    }
    let mut rows = RowsByFile::default();
    let mut seen = Totals {
        quarantined_shards: manifest.totals.quarantined_shards,
        quarantined_shard_rows: manifest.totals.quarantined_shard_rows,
        ..Totals::default()
    };
    for entry in &manifest.parts {
        let files = Files::get(output, entry, &mut violations).await?;
        files.check(entry, &manifest.provenance(), &mut violations);
        let content = files.read(&mut violations);
        content.check(entry, &mut violations);
        content.add_to(&mut seen, &files);
        rows.add(content);
    }
    rows.check_overlaps(&mut violations);
    check_orphans(output, &manifest, &mut violations).await?;
    check_card(output, &manifest, &mut violations).await?;
    check_tasks(output, &manifest, &mut violations).await?;
    Ok(Verification { seen, violations })
}

fn check_shards(manifest: &Manifest, plan: Option<&[ShardSpec]>, violations: &mut Vec<Violation>) {
    let mut found: BTreeMap<ShardId, Vec<ShardSpec>> = BTreeMap::new();
    for spec in manifest.shards() {
        found.entry(spec.shard.clone()).or_default().push(spec);
    }
    for (shard, specs) in found.iter().filter(|(_, specs)| specs.len() > 1) {
        violations.push(Violation::ShardRepeated { shard: shard.clone(), times: specs.len() });
    }
    for pair in manifest.parts.windows(2).filter(|pair| pair[0].shard > pair[1].shard) {
        violations.push(Violation::OutOfOrder { shard: pair[1].shard.clone() });
    }
    let Some(plan) = plan else { return };
    let planned: BTreeMap<&ShardId, &ShardSpec> = plan.iter().map(|spec| (&spec.shard, spec)).collect();
    for &shard in planned.keys().filter(|&&shard| !found.contains_key(shard)) {
        violations.push(Violation::ShardMissing { shard: shard.clone() });
    }
    for spec in found.values().flatten() {
        let planned = planned.get(&spec.shard).copied();
        if planned != Some(spec) {
            let planned = planned.map(|spec| Box::new(spec.clone()));
            let shard = spec.shard.clone();
            violations.push(Violation::ShardDiffers { shard, found: Box::new(spec.clone()), planned });
        }
    }
}

/// A part's files, as far as they are there.
struct Files {
    data: Option<(String, Bytes)>,
    quarantine: Option<(String, Bytes)>,
}

impl Files {
    async fn get(output: &Folder, entry: &PartEntry, violations: &mut Vec<Violation>) -> Result<Self, StoreError> {
        let mut found = [None, None];
        for (file, slot) in [&entry.data, &entry.quarantine].into_iter().zip(&mut found) {
            let Some(name) = file else { continue };
            match output.get(name).await {
                Ok(bytes) => *slot = Some((name.clone(), bytes)),
                Err(StoreError::NotFound { .. }) => violations.push(Violation::FileMissing { file: name.clone() }),
                Err(error) => return Err(error),
            }
        }
        let [data, quarantine] = found;
        Ok(Files { data, quarantine })
    }

    /// Digests and provenance.
    fn check(&self, entry: &PartEntry, run: &Provenance, violations: &mut Vec<Violation>) {
        let expected_run = if entry.kept > 0 { run.clone() } else { run.without_models() };
        for (folder, file) in [(DATA_FOLDER, &self.data), (QUARANTINE_FOLDER, &self.quarantine)] {
            let Some((name, bytes)) = file else { continue };
            let expected = file_name(folder, &entry.shard.0, bytes);
            if *name != expected {
                violations.push(Violation::FileDigest { file: name.clone(), expected });
            }
            // A file that can't be read at all is reported when its rows are.
            if let Some(found) = read_provenance(bytes.clone()).ok().filter(|found| *found != expected_run) {
                let (found, expected) = (Box::new(found), Box::new(expected_run.clone()));
                violations.push(Violation::Provenance { file: name.clone(), found, expected });
            }
        }
        let bytes = |file: &Option<(String, Bytes)>| file.as_ref().map(|(_, bytes)| bytes.clone());
        let found = digest(bytes(&self.data).as_ref(), bytes(&self.quarantine).as_ref());
        if found != entry.digest {
            let (shard, expected) = (entry.shard.clone(), entry.digest.clone());
            violations.push(Violation::PartDigest { shard, expected, found });
        }
    }

    fn read(&self, violations: &mut Vec<Violation>) -> Content {
        let mut content = Content::default();
        let unreadable = |name: &str, error: ReadPartError| Violation::Unreadable {
            file: name.to_owned(),
            reason: error.to_string(),
        };
        if let Some((name, bytes)) = &self.data {
            match read_provenance(bytes.clone()).and_then(|_| read_data(bytes.clone())) {
                Ok(rows) => {
                    content.passed = rows.iter().filter(|row| row.candidates.is_empty()).count() as u64;
                    content.kept = rows.len() as u64 - content.passed;
                    content.take(name, rows.into_iter().map(|row| row.id), violations);
                }
                Err(error) => violations.push(unreadable(name, error)),
            }
        }
        if let Some((name, bytes)) = &self.quarantine {
            match read_provenance(bytes.clone()).and_then(|_| read_quarantine(bytes.clone())) {
                Ok(rows) => {
                    content.quarantined = rows.len() as u64;
                    for row in &rows {
                        *content.reasons.entry(format!("{}/{}", row.stage, row.reason)).or_default() += 1;
                    }
                    content.take(name, rows.into_iter().map(|row| row.id), violations);
                }
                Err(error) => violations.push(unreadable(name, error)),
            }
        }
        content
    }
}

/// `1 decode/truncated, 2 read/image_missing`
fn listed(reasons: &BTreeMap<String, u64>) -> String {
    reasons.iter().map(|(reason, rows)| format!("{rows} {reason}")).collect::<Vec<_>>().join(", ")
}

/// The rows of a part's files.
#[derive(Default)]
struct Content {
    kept: u64,
    passed: u64,
    quarantined: u64,
    /// Rows in quarantine by stage and reason.
    reasons: BTreeMap<String, u64>,
    ids: Vec<RowId>,
}

impl Content {
    fn take(&mut self, file: &str, ids: impl Iterator<Item = RowId>, violations: &mut Vec<Violation>) {
        let start = self.ids.len();
        self.ids.extend(ids);
        let late = self.ids[start..].windows(2).find(|pair| pair[0].row > pair[1].row);
        if let Some(pair) = late {
            violations.push(Violation::RowOrder { file: file.to_owned(), row: pair[1].clone() });
        }
    }

    /// Each row of the shard is there, no other one is, and the manifest counts them right.
    fn check(&self, entry: &PartEntry, violations: &mut Vec<Violation>) {
        let range = entry.row_start..entry.row_start.saturating_add(entry.rows);
        let belongs = |id: &RowId| *id.dataset == *entry.dataset && *id.file == *entry.file && range.contains(&id.row);
        for id in self.ids.iter().filter(|id| !belongs(id)) {
            violations.push(Violation::RowForeign { shard: entry.shard.clone(), row: id.clone() });
        }
        let there: BTreeSet<u64> = self.ids.iter().filter(|id| belongs(id)).map(|id| id.row).collect();
        for row in range.clone().filter(|row| !there.contains(row)) {
            let row = RowId { dataset: entry.dataset.as_str().into(), file: entry.file.as_str().into(), row };
            violations.push(Violation::RowMissing { shard: entry.shard.clone(), row });
        }
        let counts = |kept, passed, quarantined| format!("{kept}, {passed} and {quarantined}");
        let found = counts(self.kept, self.passed, self.quarantined);
        let expected = counts(entry.kept, entry.passed, entry.quarantined);
        if found != expected {
            violations.push(Violation::Counts { shard: entry.shard.clone(), expected, found });
        } else if !entry.reasons.is_empty() && entry.reasons != self.reasons {
            let (expected, found) = (listed(&entry.reasons), listed(&self.reasons));
            violations.push(Violation::Reasons { shard: entry.shard.clone(), expected, found });
        }
    }

    fn add_to(&self, seen: &mut Totals, files: &Files) {
        seen.shards += 1;
        seen.rows += self.ids.len() as u64;
        seen.kept += self.kept;
        seen.passed += self.passed;
        seen.quarantined += self.quarantined;
        seen.bytes += files.data.iter().chain(&files.quarantine).map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
    }
}

/// Which rows of which file were seen, over all parts: (data set, file) to row numbers.
#[derive(Default)]
struct RowsByFile(BTreeMap<(String, String), Vec<u64>>);

impl RowsByFile {
    fn add(&mut self, content: Content) {
        for id in content.ids {
            self.0.entry((id.dataset.to_string(), id.file.to_string())).or_default().push(id.row);
        }
    }

    fn check_overlaps(mut self, violations: &mut Vec<Violation>) {
        for ((dataset, file), rows) in &mut self.0 {
            rows.sort_unstable();
            for same in rows.chunk_by(|a, b| a == b).filter(|same| same.len() > 1) {
                let row = RowId { dataset: dataset.as_str().into(), file: file.as_str().into(), row: same[0] };
                violations.push(Violation::RowRepeated { row, times: same.len() });
            }
        }
    }
}

async fn check_orphans(
    output: &Folder,
    manifest: &Manifest,
    violations: &mut Vec<Violation>,
) -> Result<(), StoreError> {
    let named: BTreeSet<&String> =
        manifest.parts.iter().flat_map(|part| part.data.iter().chain(&part.quarantine)).collect();
    for folder in [DATA_FOLDER, QUARANTINE_FOLDER] {
        let files = output.list(folder).await?;
        let orphans = files.into_iter().filter(|file| !named.contains(file));
        violations.extend(orphans.map(|file| Violation::Orphan { file }));
    }
    Ok(())
}

/// The card is there, and what this version makes of the manifest; another version may word it otherwise.
async fn check_card(output: &Folder, manifest: &Manifest, violations: &mut Vec<Violation>) -> Result<(), StoreError> {
    let Some(expected) = card(manifest) else { return Ok(()) };
    let is_ours = manifest.versions.get("quern").is_some_and(|version| version == env!("CARGO_PKG_VERSION"));
    match output.get(CARD).await {
        Ok(found) if is_ours && found != expected => violations.push(Violation::CardDiffers),
        Ok(_) => {}
        Err(StoreError::NotFound { .. }) => violations.push(Violation::CardMissing),
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn check_tasks(output: &Folder, manifest: &Manifest, violations: &mut Vec<Violation>) -> Result<(), StoreError> {
    for TaskEntry { path, digest, .. } in &manifest.tasks {
        let found = ResultFiles::read(output, path).await?.digest();
        if found != *digest {
            violations.push(Violation::TaskDigest { path: path.clone(), expected: digest.clone(), found });
        }
    }
    Ok(())
}
