//! Whole clusters of real processes: the same bytes whatever happens, and one clear sentence for bad input.

mod again;
mod bad_input;
mod caption;
mod collector;
mod harness;
mod inputs;
mod kubernetes;
mod operated;
mod planned;
mod progress;
mod same_bytes;
mod short_form;
mod stages;
mod submitted;
mod tasks;
mod telemetry;
mod training;
