//! The coordinator in a process of its own, so that its memory is nobody else's.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use quern_coordinator::{ServeOptions, serve};
use quern_proto::coordinator_client::CoordinatorClient;
use quern_proto::{StatusReply, StatusRequest};
use quern_recipes::Recipe;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tonic::transport::Channel;

use crate::limits;

/// How often the bench looks whether something has come about.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A coordinator at work. It ends when this is dropped.
pub struct Process {
    child: Child,
    /// It stops when this is closed.
    _stdin: ChildStdin,
    /// Where it listens.
    pub url: String,
}

/// What a process has taken of the machine's memory, in MiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Now.
    pub now: f64,
    /// At most so far.
    pub peak: f64,
}

/// The child's part: serves `recipe` with `journal`, says where, and ends with its standard input.
///
/// # Errors
/// When it can't be served.
pub async fn be(recipe: &Path, journal: PathBuf) -> anyhow::Result<()> {
    let coordinator = serve(ServeOptions::new(Recipe::read(recipe)?, "127.0.0.1:0", journal)).await?;
    println!("{}", coordinator.url());
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    coordinator.shutdown().await;
    Ok(())
}

impl Process {
    /// Starts one; returns when it listens.
    ///
    /// # Errors
    /// When it ends instead.
    pub async fn start(recipe: &Path, journal: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("be-coordinator").arg(recipe).arg(journal);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().context("it has a standard input")?;
        let mut lines = BufReader::new(child.stdout.take().context("it has a standard output")?).lines();
        let Some(url) = lines.next_line().await? else { bail!("the coordinator ended: {}", child.wait().await?) };
        Ok(Process { child, _stdin: stdin, url })
    }

    /// Kills it, as a loss of power would.
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// A connection to it.
    ///
    /// # Errors
    /// When it doesn't listen.
    pub async fn connect(&self) -> anyhow::Result<CoordinatorClient<Channel>> {
        Ok(CoordinatorClient::connect(self.url.clone()).await?)
    }

    /// Waits until its run is at what is `wanted`; says for how long.
    ///
    /// # Errors
    /// When the run fails.
    pub async fn wait_until(&self, wanted: impl Fn(&StatusReply) -> bool) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let mut client = self.connect().await?;
        loop {
            let status = client.status(StatusRequest::default()).await?.into_inner();
            if wanted(&status) {
                return Ok(start.elapsed());
            }
            if status.phase == "failed" {
                bail!("the run failed: {}", status.explanation);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The processor time that it has taken.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        limits::cpu(&self.child.id().context("the coordinator is gone")?.to_string())
    }

    /// What it has taken of the machine's memory.
    ///
    /// # Errors
    /// When it is gone.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let id = self.child.id().context("the coordinator is gone")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let field = |name: &str| -> anyhow::Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("/proc lacks a field")?;
            Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
        };
        Ok(Memory { now: field("VmRSS")?, peak: field("VmHWM")? })
    }
}
