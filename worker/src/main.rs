//! `quern-worker`: the agent, and the commands that need tensors.
fn main() {}
