//! The agent: register, lease, run, report; one process per device.
