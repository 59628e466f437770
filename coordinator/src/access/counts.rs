//! What happened at the door, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::{Page, of, one};

/// How often what happened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections that are open.
    pub open: Count,
    /// Connections that came when all places were taken.
    pub crowded_out: Count,
    /// TLS handshakes that failed or took too long.
    pub bad_handshakes: Count,
    /// Requests without a good token.
    pub unknown: Count,
    /// Requests whose token has not the role for it.
    pub denied: Count,
    /// Requests that came too fast.
    pub too_many: Count,
}

/// One number.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn take_off(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counts {
    /// For `/metrics`.
    pub fn tell(&self, page: &mut Page) {
        page.gauge("quern_connections", "Connections that are open.", one(self.open.get() as f64));
        let by_reason = |reason, count: &Count| ([("reason", reason)], count.get() as f64);
        let refused = [by_reason("crowded", &self.crowded_out), by_reason("handshake", &self.bad_handshakes)];
        page.counter(
            "quern_connections_refused_total",
            "Connections that were closed at once, by reason.",
            of(&refused),
        );
        let refused =
            [by_reason("unknown", &self.unknown), by_reason("role", &self.denied), by_reason("rate", &self.too_many)];
        page.counter("quern_requests_refused_total", "Requests that were not let in, by reason.", of(&refused));
    }
}
