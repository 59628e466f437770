//! One file per command: its arguments, and what it does.

pub mod corpus;
pub mod doctor;
pub mod eval;
pub mod status;
pub mod watch;
pub mod worker;
