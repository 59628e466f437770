//! What this worker writes into its log, kept for the next heartbeat to take along: `quern logs` shows it.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use quern_proto::LogLine;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines that wait at most while the coordinator is away; older ones are dropped.
const WAITING: usize = 1_000;
/// Lines that a heartbeat takes along at most.
const PER_HEARTBEAT: usize = 200;

/// The lines that wait. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    /// How this worker is called.
    name: String,
    lines: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: VecDeque<LogLine>,
    last_number: u64,
}

impl Outbox {
    /// An empty one of a worker that is called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Outbox { name: name.into(), lines: Arc::default() }
    }

    /// How the worker is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What collects the lines: a layer of the process's subscriber.
    pub fn layer(&self) -> Collector {
        Collector { outbox: self.clone() }
    }

    /// The oldest lines that the coordinator has not seen.
    pub fn waiting(&self) -> Vec<LogLine> {
        self.lock().waiting.iter().take(PER_HEARTBEAT).cloned().collect()
    }

    /// The coordinator has seen the lines up to this number.
    pub fn told(&self, number: u64) {
        self.lock().waiting.retain(|line| line.number > number);
    }

    fn put(&self, level: Level, text: String) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut lines = self.lock();
        lines.last_number += 1;
        let line = LogLine {
            at_ms: now.as_millis() as u64,
            name: self.name.clone(),
            level: level.as_str().to_lowercase(),
            text,
            number: lines.last_number,
            ..LogLine::default()
        };
        if lines.waiting.len() == WAITING {
            lines.waiting.pop_front();
        }
        lines.waiting.push_back(line);
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Outbox::layer`].
#[derive(Debug)]
pub struct Collector {
    outbox: Outbox,
}

impl<S: Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Libraries' and finer lines stay in the worker's own log.
        if *event.metadata().level() <= Level::INFO && event.metadata().target().starts_with("quern") {
            let mut text = Text::default();
            event.record(&mut text);
            self.outbox.put(*event.metadata().level(), text.message + &text.fields);
        }
    }
}

/// An event's message, and its fields as ` name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("a String takes all");
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn lines_wait_until_the_coordinator_has_seen_them() {
        let outbox = Outbox::new("host");
        let subscriber = tracing_subscriber::registry().with(outbox.layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(shard = "a", rows = 3, "committed");
            tracing::debug!("too fine");
            tracing::info!(target: "hyper", "a library's");
            tracing::warn!("late");
        });
        let texts =
            || outbox.waiting().into_iter().map(|line| (line.number, line.level, line.text)).collect::<Vec<_>>();
        let committed = (1, "info".to_owned(), "committed shard=\"a\" rows=3".to_owned());
        assert_eq!(texts(), [committed, (2, "warn".into(), "late".into())]);
        outbox.told(1);
        assert_eq!(texts().len(), 1);
        (0..WAITING + 5).for_each(|_| outbox.put(Level::INFO, String::new()));
        assert_eq!(outbox.lock().waiting.len(), WAITING);
        assert_eq!(outbox.waiting().len(), PER_HEARTBEAT);
    }
}
