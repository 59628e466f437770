//! What happened, as lines: their digest says whether two runs are the same, and one may read them.

use std::fmt::{Arguments, Write};

/// The event log.
#[derive(Debug, Default)]
pub struct Log {
    hasher: blake3::Hasher,
    line: String,
    print: bool,
}

impl Log {
    /// An empty log; with `print` its lines go to standard output as well.
    pub fn new(print: bool) -> Self {
        Log { print, ..Log::default() }
    }

    /// Adds a line.
    pub fn add(&mut self, now_ms: u64, what: Arguments<'_>) {
        self.line.clear();
        writeln!(self.line, "{now_ms:>7} {what}").expect("a string takes all");
        self.hasher.update(self.line.as_bytes());
        if self.print {
            print!("{}", self.line);
        }
    }

    /// The digest of all lines.
    pub fn digest(&self) -> String {
        self.hasher.finalize().to_hex()[..16].to_owned()
    }
}
