//! What a run's workers and its coordinator wrote lately: bounded, in memory. A worker's own log has all of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use futures::future::BoxFuture;
use quern_proto::LogLine;
use quern_recipes::redacted;
use tokio::sync::watch;

use super::Stopping;

/// Lines that are kept.
const LINES: usize = 10_000;
/// Characters of a line that are kept.
const LINE_CHARS: usize = 2_000;

/// The last lines.
#[derive(Debug, Default)]
pub(crate) struct Log {
    book: Mutex<Book>,
    /// How many lines there have ever been.
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Book {
    lines: VecDeque<LogLine>,
    /// How many lines there have ever been.
    written: u64,
    /// The last number of each worker's lines: a heartbeat may come twice.
    heard: BTreeMap<String, u64>,
}

impl Log {
    /// A line of the coordinator's.
    pub fn note(&self, at_ms: u64, level: &str, text: impl Into<String>) {
        let line = LogLine { at_ms, level: level.into(), text: text.into(), ..LogLine::default() };
        self.write(|book| book.push(line));
    }

    /// Lines of a worker's; those that came before are left out.
    pub fn hear(&self, worker: &str, lines: Vec<LogLine>) {
        if lines.is_empty() {
            return;
        }
        self.write(|book| {
            for line in lines {
                let heard = book.heard.entry(worker.into()).or_default();
                if line.number > *heard {
                    *heard = line.number;
                    book.push(LogLine { worker: worker.into(), ..line });
                }
            }
        });
    }

    /// The `last` lines (0: all that are kept) of those that `wanted` wants, and with `until_over` those to come, until
    /// that or the server's stop.
    pub fn lines(
        self: Arc<Self>,
        last: u64,
        wanted: impl Fn(&LogLine) -> bool + Send + 'static,
        until_over: Option<BoxFuture<'static, ()>>,
        stopping: Stopping,
    ) -> impl Stream<Item = LogLine> + Send {
        let (mut ready, next) = self.after(0, &wanted);
        let kept = if last == 0 { ready.len() } else { ready.len().min(last as usize) };
        ready.drain(..ready.len() - kept);
        let state = Reader { log: self, ready, next, over: until_over, stopping };
        futures::stream::unfold((state, wanted), |(mut reader, wanted)| async move {
            loop {
                if let Some(line) = reader.ready.pop_front() {
                    return Some((line, (reader, wanted)));
                }
                let mut written = reader.log.written.subscribe();
                let next = reader.next;
                let over = reader.over.as_mut()?;
                let ends = tokio::select! {
                    biased;
                    grown = written.wait_for(|written| *written > next) => grown.is_err(),
                    () = over => true,
                    _ = reader.stopping.wait_for(|stopping| *stopping) => true,
                };
                if ends {
                    // What came with the end is told, too.
                    reader.over = None;
                }
                let (ready, next) = reader.log.after(reader.next, &wanted);
                (reader.ready, reader.next) = (ready, next);
            }
        })
    }

    /// The kept lines from the `from`-th on, and how many there have been.
    fn after(&self, from: u64, wanted: &impl Fn(&LogLine) -> bool) -> (VecDeque<LogLine>, u64) {
        let book = self.lock();
        let gone = book.written - book.lines.len() as u64;
        let skip = from.saturating_sub(gone) as usize;
        (book.lines.iter().skip(skip).filter(|line| wanted(line)).cloned().collect(), book.written)
    }

    fn write(&self, write: impl FnOnce(&mut Book)) {
        let mut book = self.lock();
        write(&mut book);
        self.written.send_replace(book.written);
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn push(&mut self, mut line: LogLine) {
        if let Some((end, _)) = line.text.char_indices().nth(LINE_CHARS) {
            line.text.truncate(end);
        }
        line.text = redacted(&line.text);
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
        self.written += 1;
    }
}

/// Where a reader is.
struct Reader {
    log: Arc<Log>,
    ready: VecDeque<LogLine>,
    next: u64,
    /// Ends the reading; `None`: nothing more is waited for.
    over: Option<BoxFuture<'static, ()>>,
    stopping: Stopping,
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn line(number: u64, text: &str) -> LogLine {
        LogLine { number, text: text.into(), ..LogLine::default() }
    }

    async fn texts(stream: impl Stream<Item = LogLine>) -> Vec<String> {
        stream.map(|line| line.text).collect().await
    }

    fn never() -> Stopping {
        let (sender, stopping) = watch::channel(false);
        std::mem::forget(sender);
        stopping
    }

    #[tokio::test]
    async fn a_heartbeat_that_comes_twice_is_heard_once() {
        let log = Arc::new(Log::default());
        log.note(1, "info", "w1 joined");
        log.hear("w1", vec![line(1, "a"), line(2, "b")]);
        log.hear("w1", vec![line(1, "a"), line(2, "b"), line(3, "c")]);
        log.hear("w2", vec![line(1, "d")]);
        let all = |_: &LogLine| true;
        assert_eq!(texts(Arc::clone(&log).lines(0, all, None, never())).await, ["w1 joined", "a", "b", "c", "d"]);
        let of_w1 = |line: &LogLine| line.worker == "w1";
        assert_eq!(texts(log.lines(2, of_w1, None, never())).await, ["b", "c"]);
    }

    #[tokio::test]
    async fn a_reader_that_follows_hears_what_comes_until_the_end() {
        let log = Arc::new(Log::default());
        log.note(1, "info", "before");
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let over = async move { drop(ended.await) };
        let mut lines = Box::pin(Arc::clone(&log).lines(0, |_| true, Some(Box::pin(over)), never()));
        assert_eq!(lines.next().await.unwrap().text, "before");
        log.note(2, "info", "meanwhile");
        assert_eq!(lines.next().await.unwrap().text, "meanwhile");
        log.note(3, "info", "at the end");
        end.send(()).unwrap();
        assert_eq!(texts(lines).await, ["at the end"]);
    }

    #[tokio::test]
    async fn the_last_lines_are_kept_and_long_ones_are_cut() {
        let log = Arc::new(Log::default());
        log.note(1, "info", "é".repeat(LINE_CHARS + 7));
        let kept = |log: &Arc<Log>| texts(Arc::clone(log).lines(0, |_| true, None, never()));
        assert_eq!(kept(&log).await[0].chars().count(), LINE_CHARS);
        (0..LINES + 3).for_each(|number| log.note(2, "info", number.to_string()));
        let kept = kept(&log).await;
        assert_eq!((kept.len(), &*kept[0]), (LINES, "3"));
    }
}
