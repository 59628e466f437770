//! The log: lines on standard error, for people or for programs. Secrets in addresses are left out of both.

use std::io::{IsTerminal, stderr};
use std::sync::OnceLock;

use quern_recipes::{Redacting, redacted};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::Filter;
use tracing_subscriber::registry::LookupSpan;

use crate::OURS;

/// The variable that says how the log is written.
pub const FORMAT_VARIABLE: &str = "QUERN_LOG_FORMAT";

/// Target of what is said to whoever started the program: as JSON it is an event, whatever the level of the log.
const SAID: &str = "quern::said";

/// How the log of this process is written.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}

impl LogFormat {
    /// How the log of this process is written.
    pub fn of_this_process() -> Self {
        FORMAT.get().copied().unwrap_or_default()
    }

    /// As it is named on the command line.
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// The options of the log, on the command line of every program.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct LogOptions {
    /// How the log on standard error is written.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", env = FORMAT_VARIABLE, default_value_t)]
    pub log_format: LogFormat,
}

/// Says something to whoever started the program, on standard error: a line of text, or an event at INFO of a JSON log.
pub fn say(text: &str) {
    match LogFormat::of_this_process() {
        LogFormat::Text => eprintln!("{}", redacted(text)),
        LogFormat::Json => tracing::info!(target: SAID, "{text}"),
    }
}

/// Says why the program fails: a line of text that begins with its name, or an event at ERROR of a JSON log.
pub fn say_failure(program: &str, text: &str) {
    match LogFormat::of_this_process() {
        LogFormat::Text => eprintln!("{program}: {}", redacted(text)),
        LogFormat::Json => tracing::error!(target: SAID, "{text}"),
    }
}

/// What writes the lines.
pub(crate) fn lines<S>(format: LogFormat, shows_target: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    FORMAT.set(format).expect("a program starts to log once");
    let lines = tracing_subscriber::fmt::layer().with_writer(|| Redacting(stderr()));
    match format {
        LogFormat::Text => lines.with_ansi(stderr().is_terminal()).with_target(shows_target).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    }
}

/// Which events are written, and of which spans they tell: of all in JSON, of none in text.
pub(crate) fn filter<S>(format: LogFormat, asked: EnvFilter) -> Box<dyn Filter<S> + Send + Sync>
where
    S: Subscriber,
{
    let always = filter_fn(is_always_in_json).with_max_level_hint(LevelFilter::INFO);
    match format {
        LogFormat::Text => asked.and(filter_fn(|what| what.is_event())).boxed(),
        LogFormat::Json => asked.or(always).boxed(),
    }
}

fn is_always_in_json(what: &Metadata<'_>) -> bool {
    let is_our_span = what.is_span() && *what.level() <= LevelFilter::INFO && what.target().starts_with(OURS);
    is_our_span || what.target() == SAID
}
