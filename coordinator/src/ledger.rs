//! The ledger: one thread around the [`Keeper`], which owns the machine and its journal.
//!
//! Calls queue up as events. The thread takes all that are there as one batch, and answers when the keeper has made it
//! durable: under load, one sync serves many calls.

mod desk;
mod keeper;

use std::sync::Arc;
use std::thread::JoinHandle;

use quern_machine::{Answer, Config, Event, Incarnation, Machine};
use quern_proto::StatusReply;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Span;

use crate::beside::Taken;
use crate::clock::Clock;
use crate::errors::CallError;
use crate::journal::{Journal, JournalError};
use crate::status::Describe;

use desk::Desk;
pub use keeper::{Job, Keeper};

/// Calls that wait for the ledger at most; more wait outside.
const QUEUE: usize = 4096;
/// Records beyond a snapshot that a start may have to read, before it leaves a new one: about a fifth of a second's worth.
const SNAPSHOT_AFTER: u64 = 50_000;

/// What waits for the ledger.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
enum Entry {
    /// An event that waits for its answer, with the span of who tells it.
    Call { event: Event, span: Span, answer: oneshot::Sender<Result<Answer, CallError>> },
    /// Someone who wants to see the machine, and changes nothing.
    Look(Look),
}

/// Called with the machine, or dropped when it can't be shown.
type Look = Box<dyn FnOnce(&Machine) + Send>;

/// A handle on the ledger; its thread ends when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Ledger {
    inbox: mpsc::Sender<Entry>,
}

impl Ledger {
    /// Tells an event and waits for the answer.
    ///
    /// # Errors
    /// When the machine refuses, or when nothing happened since the journal can't be written.
    pub async fn tell(&self, event: Event) -> Result<Answer, CallError> {
        let (answer, answered) = oneshot::channel();
        let stopped = || CallError::Unavailable("the coordinator is stopping".into());
        self.inbox.send(Entry::Call { event, span: Span::current(), answer }).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    /// Shows the machine to `look` and gives what that made of it. The ledger stands still meanwhile.
    ///
    /// # Errors
    /// When the machine is being rebuilt, or the coordinator is stopping.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Machine) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let (seen, found) = oneshot::channel();
        let unseen = || CallError::Unavailable("the coordinator is stopping or recovering".into());
        // Whoever has gone away doesn't care.
        let look = Box::new(move |machine: &Machine| drop(seen.send(look(machine))));
        self.inbox.send(Entry::Look(look)).await.map_err(|_| unseen())?;
        found.await.map_err(|_| unseen())
    }
}

/// Takes the next incarnation, given what the journal says.
pub(crate) type Take = dyn FnMut(&Machine) -> Result<Taken, JournalError>;

/// What a ledger is opened with.
pub(crate) struct Opening {
    pub config: Config,
    pub journal: Box<dyn Journal>,
    pub clock: Arc<dyn Clock>,
    pub describe: Describe,
    /// Makes the next incarnation of what the journal says.
    pub take: Box<Take>,
}

/// An open ledger and what comes out of it.
pub(crate) struct Opened {
    pub ledger: Ledger,
    pub jobs: mpsc::UnboundedReceiver<Job>,
    pub status: watch::Receiver<StatusReply>,
    pub thread: JoinHandle<()>,
    /// Under which it goes on.
    pub incarnation: Incarnation,
}

/// Recovers the machine from the journal and starts the ledger's thread.
///
/// # Errors
/// When the journal can't be read, or doesn't take the record of this start.
pub(crate) fn open(opening: Opening) -> Result<Opened, JournalError> {
    let Opening { config, journal, clock, describe, mut take } = opening;
    let keeper = Keeper::open(config, journal, SNAPSHOT_AFTER, clock.now_ms(), &mut take)?;
    let incarnation = keeper.machine().incarnation();
    let (status_sender, status) = watch::channel(describe.status(keeper.machine(), None));
    let (job_sender, jobs) = mpsc::unbounded_channel();
    let (inbox, entries) = mpsc::channel(QUEUE);
    let desk = Desk::new(keeper, clock, describe, status_sender, job_sender);
    let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || desk.serve(entries));
    let thread =
        thread.map_err(|error| JournalError::Io { path: "ledger thread".into(), reason: error.to_string() })?;
    Ok(Opened { ledger: Ledger { inbox }, jobs, status, thread, incarnation })
}

#[cfg(test)]
mod tests;
