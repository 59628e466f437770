//! `quern capfilt inspect`: rows of an output, picked by a condition.

mod condition;
mod line;

use std::ops::ControlFlow;

use quern_capfilt::{Manifest, visit_rows};
use quern_corpus::store;

use crate::outcome::{Done, Failure, chain};
use crate::view::Output;

use condition::Condition;
use line::{facts, json_line, text};

/// Print rows of an output: what was kept and what failed, with candidates and scores.
#[derive(clap::Args)]
pub struct Arguments {
    /// The run's output: folder or URL.
    output: String,
    /// Which rows, as an expression in CEL: `score < 0.2`, `source == "web" && dataset == "cc3m"`,
    /// `caption.contains("dog")`, `status == "quarantined" && reason == "truncated"`,
    /// `candidates.exists(c, c.score > 0.4)`. A row for which it has no value is left out.
    ///
    /// A row has `dataset`, `file`, `row`, `key`, and `status`: `kept`, `passed` or `quarantined`. Kept and passed: `caption`,
    /// `score`, `source` (`web`, `synthetic`) and `words` of its best caption; `captions`, each with `text`, `source`, `score`
    /// and `rank`; `candidates`, each with `text`, `source`, `score` and `index`; `web_score`. Quarantined: `stage`, `reason`,
    /// `detail`.
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// Rows that are printed at most; 0: all.
    #[arg(long, default_value_t = 20)]
    limit: u64,
    /// `json`: a line of JSON per row, with all that is known about it but the image.
    #[arg(short = 'o', long = "format", value_enum, default_value_t)]
    format: Output,
}

/// Reads part by part and prints what the condition picks.
pub async fn inspect(arguments: Arguments) -> Result<Done, Failure> {
    let Arguments { output, condition, limit, format } = arguments;
    let condition = condition.as_deref().map(Condition::parse).transpose()?;
    let folder = store::open(&output).map_err(|error| Failure::bad_input(chain(&error)))?;
    let manifest = Manifest::read(&folder).await.map_err(|error| Failure::failed(chain(&error)))?;
    let (mut printed, mut unclear, mut more) = (0, None, false);
    let visited = visit_rows(&folder, &manifest, |row| {
        let facts = facts(&row);
        match condition.as_ref().map_or(Ok(true), |condition| condition.holds(&facts)) {
            Ok(false) => return ControlFlow::Continue(()),
            Ok(true) => {}
            Err(failure) => {
                unclear = Some(failure);
                return ControlFlow::Break(());
            }
        }
        if limit > 0 && printed == limit {
            more = true;
            return ControlFlow::Break(());
        }
        printed += 1;
        match format {
            Output::Json => println!("{}", json_line(&facts)),
            Output::Text => println!("{}", text(&row)),
        }
        ControlFlow::Continue(())
    });
    visited.await.map_err(|error| Failure::failed(chain(&error)))?;
    if let Some(failure) = unclear {
        return Err(failure);
    }
    if more {
        quern_telemetry::say("… and more: --limit 0 prints all");
    } else if printed == 0 {
        quern_telemetry::say("no row");
    }
    Ok(Done::Completely)
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command};

    use super::Arguments;
    use super::line::NAMES;

    #[test]
    fn the_help_names_all_that_a_condition_can_be_about() {
        let help = Arguments::augment_args(Command::new("inspect")).render_long_help().to_string();
        for name in NAMES {
            assert!(help.contains(&format!("`{name}`")), "`{name}` is not in:\n{help}");
        }
    }
}
