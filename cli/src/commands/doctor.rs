//! `quern doctor`: what this machine has for quern, and what to do about what is missing.

mod machine;
mod stores;
mod tensors;

use crate::outcome::{Done, Failure};

/// Show what was found on this machine, and what to do about what is missing.
#[derive(clap::Args)]
pub struct Arguments {
    /// Folder whose disk is looked at: where outputs are to go.
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    folder: std::path::PathBuf,
}

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do; empty where there is nothing to do.
    advice: String,
}

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    Good,
    /// It is not there, and only some uses need it.
    Absent,
    /// Nothing works without it.
    Missing,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Finding { what, verdict: Verdict::Good, found: found.into(), advice: String::new() }
    }
    fn absent(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding { what, verdict: Verdict::Absent, found: found.into(), advice: advice.into() }
    }
    fn missing(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding { what, verdict: Verdict::Missing, found: found.into(), advice: advice.into() }
    }
}

/// Looks around and prints the table; fails when something is missing that everything needs.
pub fn doctor(arguments: Arguments) -> Result<Done, Failure> {
    let mut findings = tensors::findings();
    findings.extend(machine::findings(&arguments.folder));
    findings.extend(stores::findings());
    print!("{}", table(&findings));
    let missing: Vec<&str> =
        findings.iter().filter(|finding| finding.verdict == Verdict::Missing).map(|finding| finding.what).collect();
    if missing.is_empty() {
        return Ok(Done::Completely);
    }
    Err(Failure::failed(format!("missing and needed: {}; the table says what to do", missing.join(", "))))
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.verdict {
            Verdict::Good => "ok",
            Verdict::Absent => "-",
            Verdict::Missing => "MISSING",
        };
        text.push_str(&format!("{:<width$}  {mark:<7}  {}\n", finding.what, finding.found));
        if !finding.advice.is_empty() {
            text.push_str(&format!("{:<width$}  {:<7}  → {}\n", "", "", finding.advice));
        }
    }
    text
}

/// Bytes as people write them, in binary units.
fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_aligns_and_gives_advice_under_what_is_missing() {
        let findings = [Finding::good("cores", "2"), Finding::missing("libtorch", "none", "run `make setup`")];
        assert_eq!(
            table(&findings),
            "cores     ok       2\nlibtorch  MISSING  none\n                   → run `make setup`\n"
        );
    }
}
