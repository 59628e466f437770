//! `quern capfilt report`: an output as an HTML page.

use quern_capfilt::report::{Marks, ReportOptions, write};
use quern_corpus::store;

use crate::outcome::{Done, Failure, chain};

/// Write a self-contained HTML page with thumbnails, candidates and scores into an output.
#[derive(clap::Args)]
pub struct Arguments {
    /// The run's output: folder or URL.
    output: String,
    /// Rows to show, a sample that is the same each time.
    #[arg(long, default_value_t = ReportOptions::default().examples)]
    examples: usize,
    /// Rows to show whose best caption has the lowest score.
    #[arg(long, default_value_t = ReportOptions::default().weakest)]
    weakest: usize,
}

/// Writes the page and prints where.
pub async fn report(arguments: Arguments) -> Result<Done, Failure> {
    let options =
        ReportOptions { examples: arguments.examples, weakest: arguments.weakest, ..ReportOptions::default() };
    println!("{}", write_page(&arguments.output, &options, None).await?);
    Ok(Done::Completely)
}

/// Writes the page with the usual sample, captions marked where the caller knows which are right; gives its place.
pub async fn write_report(output: &str, marks: Option<Marks<'_>>) -> Result<String, Failure> {
    write_page(output, &ReportOptions::default(), marks).await
}

async fn write_page(output: &str, options: &ReportOptions, marks: Option<Marks<'_>>) -> Result<String, Failure> {
    let folder = store::open(output).map_err(|error| Failure::bad_input(chain(&error)))?;
    write(&folder, options, marks).await.map_err(|error| Failure::failed(chain(&error)))
}
