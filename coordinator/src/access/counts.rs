//! What happened at the door, for `/metrics`.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

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

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counts {
    /// In Prometheus' text format.
    pub fn exposition(&self) -> String {
        let mut text = String::new();
        let mut add = |name: &str, kind: &str, help: &str, samples: &[(&str, &Count)]| {
            // Writing to a string can't fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for (labels, count) in samples {
                let _ = writeln!(text, "{name}{labels} {}", count.get());
            }
        };
        add("quern_connections", "gauge", "Connections that are open.", &[("", &self.open)]);
        let refused = [("{reason=\"crowded\"}", &self.crowded_out), ("{reason=\"handshake\"}", &self.bad_handshakes)];
        add("quern_connections_refused_total", "counter", "Connections that were closed at once, by reason.", &refused);
        let refused = [
            ("{reason=\"unknown\"}", &self.unknown),
            ("{reason=\"role\"}", &self.denied),
            ("{reason=\"rate\"}", &self.too_many),
        ];
        add("quern_requests_refused_total", "counter", "Requests that were not let in, by reason.", &refused);
        text
    }
}
