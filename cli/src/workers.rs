//! Local worker processes: started, started again when they crash, stopped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use quern_proto::client::ClientOptions;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::companion;
use crate::outcome::Failure;

/// Crashes of one worker after which it isn't started again.
const CRASHES: u32 = 5;

/// Time between a crash and the next start.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// How long a worker may take to hand its work back after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What the workers of a run are started with.
#[derive(Clone)]
pub struct WorkerOptions {
    /// The coordinator's URL.
    pub coordinator: String,
    /// What they show it.
    pub client: ClientOptions,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// Folder of the logs, `worker-N.log`.
    pub logs: PathBuf,
}

/// A group of local workers. Dropping it kills them.
pub struct Workers {
    ends: JoinSet<Result<(), String>>,
    stop: watch::Sender<bool>,
}

impl Workers {
    /// Starts `count` workers.
    pub fn start(count: usize, options: &WorkerOptions) -> Result<Self, Failure> {
        let worker = companion::path()?;
        std::fs::create_dir_all(&options.logs).map_err(|error| {
            Failure::failed(format!("the folder {} for logs can't be made: {error}", options.logs.display()))
        })?;
        let (stop, stopping) = watch::channel(false);
        let mut ends = JoinSet::new();
        for index in 0..count {
            let slot = Slot { index, worker: worker.clone(), options: options.clone() };
            ends.spawn(slot.keep_running(stopping.clone()));
        }
        Ok(Workers { ends, stop })
    }

    /// Waits until a worker has been given up and fewer than `needed` are left, and says why. Workers that end well
    /// have heard that the run is over: then this never returns.
    pub async fn too_few(&mut self, needed: usize) -> String {
        while let Some(end) = self.ends.join_next().await {
            match end.unwrap_or_else(|panic| Err(panic.to_string())) {
                Err(reason) if self.ends.len() < needed => return reason,
                Err(reason) => tracing::warn!("{reason}"),
                Ok(()) => {}
            }
        }
        std::future::pending().await
    }

    /// Waits until all have ended by themselves.
    pub async fn all_ended(&mut self) {
        while self.ends.join_next().await.is_some() {}
    }

    /// Asks all workers to leave (SIGTERM) and waits until they have.
    pub async fn stop(&mut self) {
        self.stop.send_replace(true);
        self.all_ended().await;
    }
}

/// One worker's place, which outlives its crashes.
struct Slot {
    index: usize,
    worker: PathBuf,
    options: WorkerOptions,
}

impl Slot {
    /// Runs the worker until it ends well, is told to stop, or has crashed too often.
    async fn keep_running(self, mut stopping: watch::Receiver<bool>) -> Result<(), String> {
        let log = self.options.logs.join(format!("worker-{}.log", self.index));
        for crash in 1..=CRASHES {
            let mut child = self.spawn(&log)?;
            let ended = tokio::select! {
                ended = child.wait() => ended.map_err(|error| format!("worker {} is lost: {error}", self.index))?,
                () = told_to(&mut stopping) => {
                    leave(&mut child).await;
                    return Ok(());
                }
            };
            if ended.success() || *stopping.borrow() {
                return Ok(());
            }
            tracing::warn!("worker {} ended with {ended} ({crash} of {CRASHES})", self.index);
            if crash == CRASHES {
                return Err(self.obituary(ended, &log));
            }
            tokio::time::sleep(RESTART_PAUSE).await;
        }
        unreachable!("the last crash returns")
    }

    fn spawn(&self, log: &Path) -> Result<Child, String> {
        let describe = |error: std::io::Error| format!("{}: {error}", log.display());
        let output = File::options().create(true).append(true).open(log).map_err(describe)?;
        let errors = output.try_clone().map_err(describe)?;
        Command::from(companion::command(&self.worker))
            .args(["run", "--coordinator", &self.options.coordinator, "--device", &self.options.device])
            .args(self.options.client.arguments())
            .args(["--name", &format!("worker-{}", self.index)])
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{} does not start: {error}", self.worker.display()))
    }

    /// Why the worker is given up, with the last line that it wrote.
    fn obituary(&self, ended: ExitStatus, log: &Path) -> String {
        let text = std::fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it wrote nothing");
        format!("worker {} ended {CRASHES} times, at last with {ended}: {last} (log: {})", self.index, log.display())
    }
}

/// Waits until the workers are to stop, which they also are when nobody is left to tell them.
async fn told_to(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// SIGTERM, patience, SIGKILL.
async fn leave(child: &mut Child) {
    if let Some(id) = child.id().and_then(|id| libc::pid_t::try_from(id).ok()) {
        // SAFETY: a signal to our own child, which has not been waited for, so the id is still its.
        unsafe { libc::kill(id, libc::SIGTERM) };
    }
    if tokio::time::timeout(STOP_PATIENCE, child.wait()).await.is_err() {
        // It is gone already when it can't be killed.
        let _ = child.kill().await;
    }
}
