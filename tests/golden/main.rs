//! The golden runner.
fn main() {}
