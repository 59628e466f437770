//! How much anyone may ask for. The defaults are far above what a cluster of a thousand workers needs.

use std::time::Duration;

/// Limits of a coordinator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Connections at a time; one more is closed at once. Fewer, where the process may open fewer files.
    pub connections: usize,
    /// Calls at a time on one connection.
    pub streams: u32,
    /// How long a connection may take from TCP to its first request: TLS, HTTP/2's preface, HTTP/1's headers.
    pub opening: Duration,
    /// How long the body of a request may take to come, and its answer to begin.
    pub answer: Duration,
    /// How long a silent HTTP/2 connection is left alone before it must answer a ping, and how long that may take.
    pub silence: Duration,
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Bytes of a request's headers.
    pub header_bytes: u32,
    /// Calls of one connection.
    pub calls: Rate,
    /// Calls of one address that carry no good token.
    pub failures: Rate,
}

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// At once, after a rest.
    pub burst: u32,
    /// From then on.
    pub per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 16_384,
            streams: 128,
            opening: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            silence: Duration::from_secs(20),
            message_bytes: 4 << 20,
            header_bytes: 16 << 10,
            calls: Rate { burst: 20_000, per_second: 5_000 },
            failures: Rate { burst: 20, per_second: 1 },
        }
    }
}

/// Open files that are kept free for journals, stores and logs.
const OTHER_FILES: usize = 256;

impl Limits {
    /// The same, with no more connections than the process may have open. The process's own limit is raised as far as
    /// the system lets it.
    pub(crate) fn within_open_files(self) -> Self {
        let files = raise_open_files();
        let connections = self.connections.min(files.saturating_sub(OTHER_FILES).max(1));
        if connections < self.connections {
            tracing::info!("{files} files may be open: {connections} connections at a time, not {}", self.connections);
        }
        Limits { connections, ..self }
    }
}

/// How many files the process may have open, after the limit has been raised as far as possible.
fn raise_open_files() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes to the structure that it is given, and nothing else.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 1_024;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: the call only reads the structure.
    let may = if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 { raised } else { limit };
    usize::try_from(may.rlim_cur).unwrap_or(usize::MAX)
}
