//! The coordinator: gRPC, journal and clock around the machine.
//!
//! ```text
//!   gRPC calls ──▶ service ──events──▶ ledger ──records──▶ journal (SQLite, one sync per batch)
//!   workers, CLI      ▲                  │  owns the machine
//!                     └────answers───────┤  only after the sync
//!   clock ────────ticks────▶             ├──chores──▶ plan the corpus, write the manifest
//!                                        └──status──▶ Status, Watch, progress bars; web page, metrics
//! ```
//!
//! All decisions are [`quern_machine`]'s. What is here carries them out: [`serve`] opens the journal, recovers the
//! machine from it, and answers calls until it is told to stop. Killing the process at any moment loses nothing that a
//! worker was told was accepted.

mod access;
mod beside;
mod chores;
mod clock;
mod errors;
mod journal;
mod ledger;
mod metrics;
mod planning;
mod rebuild;
mod runs;
mod secrets;
mod serve;
mod service;
mod spans;
mod status;
mod web;

/// What a simulator drives: the ledger without its thread, and its journals. See `tests/sim`.
pub mod simulation {
    pub use crate::beside::{Taken, knows_less};
    pub use crate::errors::CallError;
    pub use crate::journal::{Journal, MemoryJournal, RunIdentity, Snapshot, SqliteJournal};
    pub use crate::ledger::{Job, Keeper};
}

pub use access::{Access, Exposed, Limits, Rate, TlsFiles};
pub use clock::{Clock, ScriptedClock, SystemClock};
pub use errors::CallError;
pub use journal::{JournalError, back_up};
pub use rebuild::{RebuildError, Rebuilt, kept_recipe, rebuild};
pub use runs::{HomeError, Superseded};
pub use serve::{Coordinator, Hosting, Outcome, ServeError, ServeOptions, serve};

/// The version of this build; a worker of another version is refused.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
