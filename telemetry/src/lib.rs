//! What quern's programs say while they work: their log on standard error, as text or as JSON, and traces that go to an
//! OpenTelemetry collector.
//!
//! A program calls [`start`] once and keeps what it gets until it ends. Spans are those of `tracing`; a call to another
//! process carries the span that it is made in along ([`outgoing`]), and the other process goes on with the trace
//! ([`continue_trace`]). docs/reference/logs-and-traces.md has the options, variables, names and attributes.

mod context;
mod export;
mod log;

use tracing_subscriber::filter::{EnvFilter, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

pub use context::{continue_trace, leave_out, outgoing, rename};
pub use export::Traces;
pub use log::{FORMAT_VARIABLE, LogFormat, LogOptions, say, say_failure};

/// Spans and events of ours have targets that begin so.
const OURS: &str = "quern";

/// Which program it is.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The service in its traces, unless the environment names another one.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The level of its log when `RUST_LOG` says nothing.
    pub level: &'static str,
    /// Whether a line of text says which module wrote it.
    pub shows_target: bool,
}

/// Begins to log and to trace. `beside` sees what is logged, too.
///
/// # Panics
/// When it has been called before.
pub fn start<L>(program: Program, options: LogOptions, beside: L) -> Traces
where
    L: Layer<Registry> + Send + Sync,
{
    let asked = EnvFilter::try_from_default_env().unwrap_or_else(|_| program.level.into());
    // Finer spans are traced where finer lines are logged.
    let finest = asked.max_level_hint().unwrap_or(LevelFilter::TRACE).max(LevelFilter::INFO);
    let lines = log::lines(options.log_format, program.shows_target).and_then(beside);
    let lines = lines.with_filter(log::filter(options.log_format, asked));

    let (traces, problem) = Traces::from_environment(program);
    let is_traced = filter_fn(move |what| what.is_span() && *what.level() <= finest && what.target().starts_with(OURS));
    let spans = traces.tracer().map(|tracer| {
        let spans = tracing_opentelemetry::layer().with_tracer(tracer);
        let spans = spans.with_location(false).with_threads(false).with_tracked_inactivity(false).with_target(false);
        spans.with_filter(is_traced.with_max_level_hint(finest))
    });
    tracing_subscriber::registry().with(lines).with(spans).init();
    if let Some(problem) = problem {
        tracing::warn!("{problem}");
    }
    traces
}
