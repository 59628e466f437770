//! The coordinator as a value: a pure state machine.
