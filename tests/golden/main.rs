//! The golden runner: `golden DIR…` checks cases that the original implementations produced.
//!
//! A case is a folder with `config.json`, `inputs.safetensors`, `expected.safetensors` and mostly `weights.safetensors`
//! (`README.md` beside this file). Its kind is the stem of its folder's name (`qformer_stage1_w2` is a
//! `qformer_stage1`), or its parent folder's name (`preprocess/china_rgb_jpeg`). A kind maps names to tensors and
//! calls the public functions that the worker calls; it holds no model arithmetic. Every expected tensor must be
//! compared: one that is missing, or that nothing compared, is an error, as is a kind that nobody knows.
//!
//! Exit code 0: all within tolerance; 1: a miss or an error; 2: wrong usage.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

mod blip;
mod blip2;
mod captions;
mod case;
mod checks;
mod clip;
mod exchange;
mod kinds;
mod language;
mod optimiser;
mod parameters;
mod preprocess;
mod qformer;
mod stage2;
mod text;
mod vit;

use case::Case;
use checks::Checks;

fn main() -> ExitCode {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if folders.is_empty() {
        eprintln!("usage: golden DIR…   (DIR: a case, or a folder of cases)");
        return ExitCode::from(2);
    }
    let mut cases = Vec::new();
    for folder in &folders {
        if let Err(error) = find_cases(folder, &mut cases) {
            eprintln!("golden: {error:#}");
            return ExitCode::from(2);
        }
    }
    let failed = cases.iter().filter(|folder| !passes(folder)).count();
    println!("{} of {} cases pass", cases.len() - failed, cases.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The cases at or below `folder`, in the order of their names.
fn find_cases(folder: &Path, cases: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if Case::is_at(folder) {
        cases.push(folder.to_path_buf());
        return Ok(());
    }
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut below: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    below.retain(|path| path.is_dir());
    below.sort();
    if below.is_empty() {
        bail!("{} is neither a case nor a folder of cases", folder.display());
    }
    below.iter().try_for_each(|path| find_cases(path, cases))
}

/// Checks one case and prints what was found.
fn passes(folder: &Path) -> bool {
    let result = check(folder);
    match result {
        Ok(misses) => misses == 0,
        Err(error) => {
            println!("{}: ERROR {error:#}", folder.display());
            false
        }
    }
}

/// The number of misses in a case.
fn check(folder: &Path) -> anyhow::Result<usize> {
    let kind = kinds::of(folder)?;
    let case = Case::open(folder)?;
    let mut checks = Checks::new(&case);
    let outcome = kind(&case, &mut checks);
    let report = checks.finish();
    print!("{report}");
    outcome?;
    report.verdict()
}
