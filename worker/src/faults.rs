//! Scripted faults: `--fault kill-after-row:13`. They are always compiled in and do nothing unless asked for, so that
//! cluster tests drive the very binary that users run.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Something that goes wrong at a stated point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL once the n-th shard is leased.
    KillAfterLease(u64),
    /// SIGKILL once n rows have been captioned, over all shards.
    KillAfterRow(u64),
    /// SIGKILL once the n-th part is uploaded, before it is offered.
    KillAfterUpload(u64),
    /// The n-th upload of a part meets a full disk.
    NoSpaceAtUpload(u64),
    /// SIGKILL once the n-th part is offered and accepted, before the answer is used.
    KillAfterCommit(u64),
    /// SIGKILL once the n-th file of a task's result is written, before the result is offered.
    KillAfterFile(u64),
    /// SIGABRT when the image of row n of a file is about to be decoded, as a decoder's native code may do.
    CrashAtRow(u64),
    /// Waits this long, in milliseconds, before a task is begun, or until the worker is told to leave.
    DelayTask(u64),
    /// Waits for every fetched row: 0, 1 or 2 times this long, in milliseconds, in turn.
    DelayFetch(u64),
    /// Waits before every chunk of rows is decoded: 0, 1 or 2 times this long, in milliseconds, in turn.
    DelayDecode(u64),
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "kill-after-lease:N, kill-after-row:N, kill-after-upload:N, kill-after-commit:N, \
                      kill-after-file:N, crash-at-row:N, no-space-at-upload:N, delay-fetch:MS, delay-decode:MS or delay-task:MS";
        let refuse = || format!("“{text}” is no fault: say {wanted}");
        let (name, number) = text.split_once(':').ok_or_else(refuse)?;
        let number: u64 = number.parse().map_err(|_| refuse())?;
        match name {
            "kill-after-lease" => Ok(Fault::KillAfterLease(number)),
            "kill-after-row" => Ok(Fault::KillAfterRow(number)),
            "kill-after-upload" => Ok(Fault::KillAfterUpload(number)),
            "crash-at-row" => Ok(Fault::CrashAtRow(number)),
            "no-space-at-upload" => Ok(Fault::NoSpaceAtUpload(number)),
            "kill-after-commit" => Ok(Fault::KillAfterCommit(number)),
            "kill-after-file" => Ok(Fault::KillAfterFile(number)),
            "delay-task" => Ok(Fault::DelayTask(number)),
            "delay-fetch" => Ok(Fault::DelayFetch(number)),
            "delay-decode" => Ok(Fault::DelayDecode(number)),
            _ => Err(refuse()),
        }
    }
}

/// The script, and how far the worker has come in it.
#[derive(Debug, Clone, Default)]
pub struct Script {
    faults: Arc<Vec<Fault>>,
    progress: Arc<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    leases: AtomicU64,
    rows: AtomicU64,
    uploads: AtomicU64,
    commits: AtomicU64,
    files: AtomicU64,
    delays: AtomicU64,
}

impl Script {
    /// A script of these faults.
    pub fn new(faults: Vec<Fault>) -> Self {
        Script { faults: Arc::new(faults), progress: Arc::default() }
    }

    /// A shard was leased.
    pub fn leased(&self) {
        let count = self.progress.leases.fetch_add(1, Ordering::SeqCst) + 1;
        self.kill_if(|fault| fault == Fault::KillAfterLease(count));
    }

    /// This many further rows were captioned.
    pub fn captioned(&self, rows: u64) {
        let count = self.progress.rows.fetch_add(rows, Ordering::SeqCst) + rows;
        self.kill_if(|fault| matches!(fault, Fault::KillAfterRow(limit) if count >= limit));
    }

    /// The image of this row of a file is about to be decoded.
    pub fn decoding(&self, row: u64) {
        if self.faults.contains(&Fault::CrashAtRow(row)) {
            std::process::abort();
        }
    }

    /// As the command line of another process of this program has them.
    pub fn arguments(&self) -> Vec<String> {
        let crash = |fault: &Fault| match fault {
            Fault::CrashAtRow(row) => Some(format!("--fault=crash-at-row:{row}")),
            _ => None,
        };
        self.faults.iter().filter_map(crash).collect()
    }

    /// A part is about to be uploaded: whether there is no space for it.
    pub fn finds_no_space(&self) -> bool {
        let count = self.progress.uploads.load(Ordering::SeqCst) + 1;
        self.faults.contains(&Fault::NoSpaceAtUpload(count))
    }

    /// A part was uploaded.
    pub fn uploaded(&self) {
        let count = self.progress.uploads.fetch_add(1, Ordering::SeqCst) + 1;
        self.kill_if(|fault| fault == Fault::KillAfterUpload(count));
    }

    /// A part was accepted.
    pub fn committed(&self) {
        let count = self.progress.commits.fetch_add(1, Ordering::SeqCst) + 1;
        self.kill_if(|fault| fault == Fault::KillAfterCommit(count));
    }

    /// A file of a task's result was written.
    pub fn wrote_a_file(&self) {
        let count = self.progress.files.fetch_add(1, Ordering::SeqCst) + 1;
        self.kill_if(|fault| fault == Fault::KillAfterFile(count));
    }

    /// How long a task is held up.
    pub fn task_delay(&self) -> Option<Duration> {
        let delay =
            |fault: &Fault| if let Fault::DelayTask(ms) = fault { Some(Duration::from_millis(*ms)) } else { None };
        self.faults.iter().find_map(delay)
    }

    /// How long the fetch of a row is held up.
    pub fn fetch_delay(&self) -> Option<Duration> {
        self.delay(|fault| if let Fault::DelayFetch(ms) = fault { Some(ms) } else { None })
    }

    /// How long the decoding of a chunk is held up.
    pub fn decode_delay(&self) -> Option<Duration> {
        self.delay(|fault| if let Fault::DelayDecode(ms) = fault { Some(ms) } else { None })
    }

    fn delay(&self, which: impl Fn(Fault) -> Option<u64>) -> Option<Duration> {
        let ms = self.faults.iter().copied().find_map(which)?;
        let turn = self.progress.delays.fetch_add(1, Ordering::SeqCst) % 3;
        Some(Duration::from_millis(ms * turn))
    }

    fn kill_if(&self, hit: impl Fn(Fault) -> bool) {
        if self.faults.iter().copied().any(hit) {
            // SAFETY: a signal to ourselves; SIGKILL leaves no destructor a chance, which is the point.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_from_the_command_line() {
        assert_eq!("kill-after-row:13".parse(), Ok(Fault::KillAfterRow(13)));
        assert_eq!("delay-decode:5".parse(), Ok(Fault::DelayDecode(5)));
        assert_eq!("no-space-at-upload:2".parse(), Ok(Fault::NoSpaceAtUpload(2)));
        assert!("kill-after-row".parse::<Fault>().unwrap_err().contains("kill-after-commit:N"));
        assert!("kill-after-row:many".parse::<Fault>().is_err());
    }

    #[test]
    fn delays_are_found_and_nothing_else_happens() {
        let script = Script::new(vec![Fault::DelayFetch(7), Fault::KillAfterLease(2)]);
        script.leased();
        let delays: Vec<_> = (0..4).filter_map(|_| script.fetch_delay()).map(|delay| delay.as_millis()).collect();
        assert_eq!(delays, [0, 7, 14, 0]);
        assert_eq!(script.decode_delay(), None);
    }
}
