//! The process that the coordinator is part of, under the names that Prometheus' own clients use.

use std::time::{SystemTime, UNIX_EPOCH};

use super::page::{Page, one};

/// When it started.
pub(crate) struct Process {
    started: SystemTime,
}

impl Process {
    /// One that starts now.
    pub fn start() -> Self {
        Process { started: SystemTime::now() }
    }

    pub fn tell(&self, page: &mut Page) {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let help = "When the coordinator started, since the Unix epoch.";
        page.gauge("process_start_time_seconds", help, one(started.as_secs_f64()));
        let resident = resident_bytes().map(|bytes| one(bytes as f64));
        let help = "Memory that the process has in use, where the system tells.";
        page.gauge("process_resident_memory_bytes", help, resident.into_iter().flatten());
    }
}

/// Linux tells it in KiB: `VmRSS:     1234 kB`.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}
