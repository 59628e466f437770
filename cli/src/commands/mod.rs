//! One file per command: its arguments, and what it does.

pub mod capfilt;
pub mod control;
pub mod coordinator;
pub mod corpus;
pub mod demo;
pub mod doctor;
pub mod explain;
pub mod k8s;
pub mod logs;
pub mod ls;
pub mod plan;
pub mod run;
pub mod status;
pub mod submit;
pub mod tensors;
pub mod watch;
pub mod worker;
