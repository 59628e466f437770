//! The files: every row of the plan is in one named part, or in a shard that was given up.

use std::collections::{BTreeMap, HashSet};

use quern_machine::{Acceptance, SettledShard, SettledTask, ShardId};

use crate::journal::{Ledger, Settled};
use crate::{Verdict, ensure};

/// A part's file: whose rows it holds, each a row index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartFile {
    /// The shard.
    pub shard: ShardId,
    /// Its rows.
    pub rows: Vec<u64>,
}

/// The output folder.
#[derive(Debug, Default)]
pub struct Output {
    /// Files by name.
    pub files: BTreeMap<String, PartFile>,
    /// What is written beside them of what was accepted.
    pub acceptances: Vec<Acceptance>,
    /// The last incarnation that was taken.
    pub incarnation: u64,
    /// The manifest, when it is written.
    pub manifest: Option<Vec<SettledShard>>,
    /// The tasks that it names.
    pub tasks: Vec<SettledTask>,
}

impl Output {
    /// Deletes the files of these shards that none of their parts is made of.
    pub fn sweep(&mut self, shards: &[SettledShard]) {
        let ours: HashSet<_> = shards.iter().map(|shard| &shard.plan.shard).collect();
        let named: HashSet<_> = shards.iter().flat_map(SettledShard::files).collect();
        self.files.retain(|name, file| named.contains(name) || !ours.contains(&file.shard));
    }
}

pub(crate) fn check(ledger: &Ledger, output: &Output) -> Verdict {
    let manifest = output.manifest.as_ref().ok_or("there is no manifest")?;
    let named: Vec<_> = manifest.iter().map(|shard| &shard.plan.shard).collect();
    ensure(named.iter().copied().eq(ledger.plans.keys()), || "the manifest doesn't name every shard once".into())?;
    let tasks = output.tasks.iter().map(|named| (&named.task, &named.result));
    let done = ledger.tasks.done.iter().map(|(task, (_, result))| (task, result));
    ensure(tasks.eq(done), || "the manifest doesn't name what was accepted of every task".into())?;
    let written: HashSet<_> = output.acceptances.iter().collect();
    for entry in manifest {
        let shard = &entry.plan.shard;
        match (&entry.outcome, &ledger.settled[shard]) {
            (quern_machine::Settled::Done(part), Settled::Done(_, accepted) | Settled::Read(accepted)) => {
                ensure(part == accepted, || format!("the manifest has another part of {shard}"))?;
                let mut rows: Vec<u64> = Vec::new();
                for name in part.files() {
                    let file = output.files.get(name).ok_or_else(|| format!("{name} is not there"))?;
                    ensure(file.shard == *shard, || format!("{name} has rows of {}", file.shard))?;
                    rows.extend(&file.rows);
                }
                let file = entry.plan.file.clone();
                let kept = Acceptance::Part { shard: shard.clone(), file, part: part.clone() };
                ensure(written.contains(&kept), || {
                    format!("that {shard} is accepted is not written beside the output")
                })?;
                rows.sort_unstable();
                let plan = &ledger.plans[shard];
                let whole = rows.iter().copied().eq(plan.row_start..plan.row_start + plan.rows);
                ensure(whole, || format!("the part of {shard} doesn't hold every row once"))?;
            }
            (quern_machine::Settled::Quarantined { .. }, Settled::Quarantined) => {}
            _ => return Err(format!("the manifest and the journal differ about {shard}")),
        }
    }
    Ok(())
}
