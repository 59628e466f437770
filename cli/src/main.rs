//! `quern`: the command line and the coordinator.
fn main() {}
