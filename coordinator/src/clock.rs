//! Where the machine's time comes from.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A clock that never goes back.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch, or since whatever a test's script says.
    fn now_ms(&self) -> u64;
}

/// Wall-clock time at the start, monotonic from there: setting the machine's clock expires no lease.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    started_ms: u64,
}

impl SystemClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        SystemClock { started: Instant::now(), started_ms: since_epoch.as_millis() as u64 }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        self.started_ms + self.started.elapsed().as_millis() as u64
    }
}

/// A clock that stands still until it is told to go on.
#[derive(Debug, Default)]
pub struct ScriptedClock(AtomicU64);

impl ScriptedClock {
    /// Lets time pass. The coordinator sees it at its next tick.
    pub fn advance(&self, by_ms: u64) {
        self.0.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for ScriptedClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
