//! A coordinator over loopback with workers that only pretend to work: the whole protocol, with time that stands still
//! unless the script lets it go on.

mod harness;
mod lost_disks;
mod metrics;
mod one_run;
mod several_runs;
mod web;
mod who_gets_work;
