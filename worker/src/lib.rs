//! The agent: register, lease, run, report; one process per device. And the commands that need tensors.
//!
//! [`agent`] is the life of a worker, [`shard`] its work in the CapFilt phase, [`gang`] its place in a training world
//! with [`report`] on what it does there, [`tasks`] what it does with what was trained; [`heartbeat`] keeps it a member
//! beside all that. [`connection`] is how it talks to the coordinator.

mod again;
pub mod agent;
pub mod apart;
pub mod calibrate;
pub mod caption;
mod checkpoint;
pub mod connection;
pub mod doctor;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod faults;
pub mod gang;
mod generation;
pub mod heartbeat;
pub mod outbox;
pub mod post;
pub mod report;
pub mod shard;
mod spans;
pub mod tasks;
pub mod torch;
