//! The coordinator as a value.
//!
//! A [`Machine`] is the whole state of one run: its shards, its workers, its training world, its phase. It has no
//! clock, no randomness, no IO, no log and no threads, and its maps are ordered; so the same events give the same
//! state everywhere, and every fault can be scripted.
//!
//! Two functions carry it:
//!
//! - [`Machine::decide`] looks at the state and an [`Event`] and says which [`Record`]s that makes true, and what may be
//!   answered once they are durable. It changes nothing.
//! - [`Machine::absorb`] makes one record true. It is the only thing that changes the state, and it decides nothing:
//!   recovery is absorbing the journal's records in order. Records are facts (`lease_granted`), never requests, so that
//!   a newer version, which may decide otherwise, still reads an older journal.
//!
//! Some facts are not worth a sync: that time passed, that a worker was heard, how far it is. Those records say
//! `false` to [`Record::is_durable`]; they are absorbed, but not journalled. [`Record::CoordinatorStarted`] sets all that
//! they touch to a known value: after a recovery, every member and every lease gets one full term.
//!
//! What fences stale workers:
//!
//! - a **shard** is worked on in *attempts*. Every attempt gets a new [`Epoch`], larger than all before. A commit is
//!   accepted iff its attempt is live; expiry, drain, failure and an accepted commit end attempts.
//! - the **training world** is a gang of ranks that runs under a [`Generation`]. Any loss of a rank ends the generation,
//!   and the survivors form the next one. Steps and checkpoints of an older generation are refused.
//! - both tokens carry the [`Incarnation`] of the coordinator that gave them out, so that two coordinators which, after
//!   a lost disk, count the same epochs twice still can't be confused.

#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
#![forbid(unsafe_code)]

mod absorb;
mod acceptances;
mod again;
mod capability;
mod config;
mod control;
mod demand;
mod denylist;
mod event;
mod explain;
mod holdings;
mod ids;
mod invariants;
mod leasing;
mod machine;
mod members;
mod membership;
mod mutation;
mod pace;
mod part;
mod ranks;
mod record;
mod run;
mod shards;
mod slowest;
mod status;
mod tasks;
mod training;

pub use acceptances::Acceptance;
pub use config::{Config, MemoryNeeds, StageConfig};
pub use event::{
    Answer, Call, Caller, Control, Decision, Event, Finished, Redo, Refusal, Registration, Seat, ShardProgress,
    UnreadableFile, Work,
};
pub use ids::{Epoch, Generation, Incarnation, Place, Rank, SecretDigest, ShardId, ShardToken, WorkerId, WorldToken};
pub use invariants::Violation;
pub use machine::{Machine, STATE};
pub use members::{MemberState, Warmth};
#[cfg(feature = "mutations")]
pub use mutation::plant;
pub use mutation::{Mutation, planted};
pub use part::PartSummary;
pub use record::Record;
pub use run::{Chore, End, Phase, Stage};
pub use shards::{DatasetTotals, SecondAttempts, Settled, SettledShard, ShardPlan, Standing, Totals};
pub use slowest::ShardTime;
pub use status::{DeniedPlace, ShardFailure, StageStatus, Status, TaskStatus, WorkerStatus};
pub use tasks::{SettledTask, Task, TaskResult};
pub use training::{Checkpoint, Losses, StepLosses};
