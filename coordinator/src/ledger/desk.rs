//! The ledger's thread: it takes batches of calls, has the keeper decide them, answers, and shows what changed.
//!
//! A status lists all workers, so that of a large cluster costs about as much as a batch of calls. Up to
//! [`SHOWN_AT_ONCE`] workers it is shown after every batch, before the answers leave: who was answered finds it there.
//! Above that it is shown [`SHOW_EVERY`] at most.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use quern_proto::StatusReply;
use tokio::sync::{mpsc, watch};

use super::Entry;
use super::keeper::{Job, Keeper};
use crate::clock::Clock;
use crate::spans;
use crate::status::Describe;

/// Events per transaction at most.
const BATCH: usize = 2048;
/// Workers up to which the status is shown after every batch.
const SHOWN_AT_ONCE: usize = 64;
/// How old the status of a larger cluster may be.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// The thread's own: the keeper and who hears of it.
pub(super) struct Desk {
    keeper: Keeper,
    clock: Arc<dyn Clock>,
    describe: Describe,
    status_sender: watch::Sender<StatusReply>,
    job_sender: mpsc::UnboundedSender<Job>,
    /// Workers in the status that was shown last, and when that was.
    shown_workers: usize,
    shown_at: Instant,
    /// Whether something may have changed since.
    is_owed: bool,
}

impl Desk {
    pub fn new(
        keeper: Keeper,
        clock: Arc<dyn Clock>,
        describe: Describe,
        status_sender: watch::Sender<StatusReply>,
        job_sender: mpsc::UnboundedSender<Job>,
    ) -> Self {
        let shown_at = Instant::now();
        Desk { keeper, clock, describe, status_sender, job_sender, shown_workers: 0, shown_at, is_owed: true }
    }

    /// Serves until nobody can call any more.
    pub fn serve(mut self, mut entries: mpsc::Receiver<Entry>) {
        self.hand_out_job();
        loop {
            self.show_when_due();
            let due = self.is_owed.then(|| self.shown_at + SHOW_EVERY);
            match receive(&mut entries, due) {
                Received::Entry(first) => self.answer(first, &mut entries),
                Received::Nothing => {}
                Received::End => break,
            }
        }
        if self.is_owed {
            self.show();
        }
    }

    fn answer(&mut self, first: Entry, entries: &mut mpsc::Receiver<Entry>) {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = entries.try_recv()
        {
            batch.push(next);
        }
        let (mut events, mut spans, mut callers, mut looks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for entry in batch {
            match entry {
                Entry::Call { event, span, answer } => {
                    events.push(event);
                    spans.push(span);
                    callers.push(answer);
                }
                Entry::Look(look) => looks.push(look),
            }
        }
        // Who only looks is no turn.
        if !events.is_empty() {
            let first = spans::first(&events, &spans);
            let verdicts = first.in_scope(|| self.keeper.turn(self.clock.now_ms(), &events));
            self.is_owed = true;
            self.show_when_due();
            self.hand_out_job();
            for (caller, verdict) in callers.into_iter().zip(verdicts) {
                // A caller that has gone away doesn't care.
                let _ = caller.send(verdict);
            }
        }
        if self.keeper.is_sound() {
            looks.into_iter().for_each(|look| look(self.keeper.machine()));
        }
    }

    fn show_when_due(&mut self) {
        let is_due = self.shown_workers <= SHOWN_AT_ONCE || self.shown_at.elapsed() >= SHOW_EVERY;
        if self.is_owed && is_due {
            self.show();
        }
    }

    /// Tells the watchers what changed.
    fn show(&mut self) {
        self.shown_at = Instant::now();
        if !self.keeper.is_sound() {
            return;
        }
        let status = self.describe.status(self.keeper.machine(), self.keeper.outage());
        self.shown_workers = status.workers.len();
        self.status_sender.send_if_modified(|known| self.describe.replace(known, status));
        self.is_owed = false;
    }

    /// Hands out the chore that has become due.
    fn hand_out_job(&mut self) {
        if let Some(job) = self.keeper.next_job() {
            // Nobody takes jobs any more when the coordinator is stopping.
            let _ = self.job_sender.send(job);
        }
    }
}

/// What came of waiting for a call.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
enum Received {
    Entry(Entry),
    /// The time was up.
    Nothing,
    /// Nobody can call any more.
    End,
}

/// Waits for a call, until `due` at most if that is said. (Tokio's channels can't, without a runtime that is alive.)
fn receive(entries: &mut mpsc::Receiver<Entry>, due: Option<Instant>) -> Received {
    let Some(due) = due else { return entries.blocking_recv().map_or(Received::End, Received::Entry) };
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(entry) = entries.poll_recv(&mut context) {
            return entry.map_or(Received::End, Received::Entry);
        }
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Received::Nothing;
        }
        std::thread::park_timeout(left);
    }
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
