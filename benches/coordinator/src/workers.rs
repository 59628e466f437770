//! Simulated workers: a connection of its own for each, heartbeats at the interval that they are told, and shards that
//! are done as soon as they are leased (or when the schedule says so).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use quern_proto::coordinator_client::CoordinatorClient;
use quern_proto::{
    CommitRequest, Credentials, HeartbeatRequest, LeaseRequest, PartSummary, RegisterRequest, ShardLease,
    ShardProgress, lease_reply,
};
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::{Channel, Endpoint};

/// Connections that are made at a time.
const CONCURRENT_CONNECTS: usize = 64;

/// All workers, registered. Their heartbeats end when this is dropped.
pub struct Fleet {
    workers: Vec<Worker>,
    heartbeats: Vec<JoinHandle<()>>,
}

/// A worker of the fleet.
#[derive(Clone)]
struct Worker {
    client: CoordinatorClient<Channel>,
    credentials: Credentials,
    /// What it works on.
    held: Arc<Mutex<Option<ShardLease>>>,
}

/// What a fleet did.
#[derive(Debug)]
pub struct Work {
    /// From the first request to the last acceptance.
    pub took: Duration,
    /// The shards that were accepted, each once.
    pub shards: u64,
    /// How long each lease took, from when it was due.
    pub leases: Vec<Duration>,
    /// How long each commit took, from when it was due.
    pub commits: Vec<Duration>,
}

impl Work {
    /// Leases and commits per second.
    pub fn cycles_per_s(&self) -> f64 {
        self.shards as f64 / self.took.as_secs_f64()
    }

    /// What a lease and its commit cost the machine, in microseconds.
    pub fn cycle_us(&self) -> f64 {
        1e6 / self.cycles_per_s()
    }
}

/// How a worker goes about it.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// The next shard as soon as one is done.
    AsFastAsPossible,
    /// Together so many shards per second, evenly; each is committed `hold` after its lease.
    PerSecond {
        /// Shards.
        cycles: u64,
        /// How long a worker has its shard.
        hold: Duration,
    },
}

impl Fleet {
    /// Connects and registers `workers` workers and starts their heartbeats.
    ///
    /// # Errors
    /// When one of them isn't taken in.
    pub async fn muster(url: &str, workers: usize) -> anyhow::Result<Self> {
        let mustered: Vec<(Worker, Duration)> = stream::iter(0..workers)
            .map(|index| Worker::register(url, index))
            .buffered(CONCURRENT_CONNECTS)
            .try_collect()
            .await?;
        let mut fleet = Fleet { workers: Vec::new(), heartbeats: Vec::new() };
        for (index, (worker, every)) in mustered.into_iter().enumerate() {
            let first = every.mul_f64(index as f64 / workers as f64);
            fleet.heartbeats.push(tokio::spawn(worker.clone().beat(first, every)));
            fleet.workers.push(worker);
        }
        Ok(fleet)
    }

    /// Does `shards` shards.
    ///
    /// # Errors
    /// When a call fails, a heartbeat has, or a shard is accepted twice.
    pub async fn work(&self, shards: u64, pace: Pace) -> anyhow::Result<Work> {
        // Numbers of cycles that are taken: each is done by one worker.
        let taken = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let mut running = JoinSet::new();
        for (index, worker) in self.workers.iter().cloned().enumerate() {
            let schedule = Schedule { start, pace, first: index as u64, stride: self.workers.len() as u64 };
            running.spawn(worker.work(shards, Arc::clone(&taken), schedule));
        }
        let mut names = BTreeSet::new();
        let mut work = Work { took: Duration::ZERO, shards, leases: Vec::new(), commits: Vec::new() };
        let mut last = start;
        while let Some(done) = running.join_next().await {
            for cycle in done?? {
                last = last.max(cycle.accepted);
                work.leases.push(cycle.lease);
                work.commits.push(cycle.commit);
                ensure!(names.insert(cycle.shard), "a shard is accepted twice");
            }
        }
        work.took = last - start;
        ensure!(names.len() as u64 == shards, "{} shards are accepted, not {shards}", names.len());
        ensure!(!self.heartbeats.iter().any(JoinHandle::is_finished), "a worker's heartbeat failed");
        Ok(work)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.heartbeats.iter().for_each(JoinHandle::abort);
    }
}

/// A shard from its lease to its acceptance.
struct Cycle {
    shard: String,
    lease: Duration,
    commit: Duration,
    accepted: Instant,
}

/// When a worker's shards are due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    start: Instant,
    pace: Pace,
    /// The number of the worker's first shard, and the distance to the next.
    first: u64,
    stride: u64,
}

impl Schedule {
    /// Waits for the worker's turn of this number; says when it was due.
    async fn turn(&self, number: u64) -> Instant {
        let Pace::PerSecond { cycles, .. } = self.pace else { return Instant::now() };
        let due = self.start + Duration::from_secs_f64((self.first + number * self.stride) as f64 / cycles as f64);
        tokio::time::sleep_until(due.into()).await;
        due
    }

    /// Has the shard for as long as the pace says; says when its commit was due.
    async fn hold(&self) -> Instant {
        let Pace::PerSecond { hold, .. } = self.pace else { return Instant::now() };
        let due = Instant::now() + hold;
        tokio::time::sleep_until(due.into()).await;
        due
    }
}

impl Worker {
    async fn register(url: &str, index: usize) -> anyhow::Result<(Self, Duration)> {
        let channel = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).connect().await?;
        let mut client = CoordinatorClient::new(channel);
        let request = RegisterRequest {
            name: format!("node-{:03}.example:{index}", index / 8),
            device: format!("cuda:{}", index % 8),
            version: quern_coordinator::VERSION.into(),
            address: format!("node-{:03}.example:{}", index / 8, 4_000 + index % 8),
            ..RegisterRequest::default()
        };
        let reply = client.register(request).await?.into_inner();
        let credentials = reply.credentials.context("a worker has credentials")?;
        let every = Duration::from_millis(reply.heartbeat_ms);
        Ok((Worker { client, credentials, held: Arc::default() }, every))
    }

    /// Beats until a heartbeat fails.
    async fn beat(mut self, first: Duration, every: Duration) {
        let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + first, every);
        loop {
            interval.tick().await;
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let progress =
                held.map(|lease| ShardProgress { shard: lease.shard, token: lease.token, rows_done: lease.rows / 2 });
            let request = HeartbeatRequest {
                credentials: Some(self.credentials.clone()),
                progress: progress.into_iter().collect(),
                ..HeartbeatRequest::default()
            };
            if let Err(error) = self.client.heartbeat(request).await {
                eprintln!("a heartbeat failed: {error}");
                return;
            }
        }
    }

    async fn work(mut self, shards: u64, taken: Arc<AtomicU64>, schedule: Schedule) -> anyhow::Result<Vec<Cycle>> {
        let mut cycles = Vec::new();
        while taken.fetch_add(1, Ordering::Relaxed) < shards {
            let due = schedule.turn(cycles.len() as u64).await;
            let lease = self.lease().await?;
            let leased = due.elapsed();
            let due = schedule.hold().await;
            let shard = lease.shard.clone();
            self.commit(lease).await?;
            cycles.push(Cycle { shard, lease: leased, commit: due.elapsed(), accepted: Instant::now() });
        }
        Ok(cycles)
    }

    async fn lease(&mut self) -> anyhow::Result<ShardLease> {
        let request = LeaseRequest { credentials: Some(self.credentials.clone()) };
        let reply = self.client.lease(request).await?.into_inner();
        let Some(lease_reply::Work::Shard(lease)) = reply.work else {
            anyhow::bail!("there is no shard left: {:?}", reply.work)
        };
        self.hold(Some(lease.clone()));
        Ok(lease)
    }

    async fn commit(&mut self, lease: ShardLease) -> anyhow::Result<()> {
        // As long as a digest of content.
        let digest = format!("{:0>64}", lease.row_start);
        let part = PartSummary {
            data: format!("data/{}-{digest}.parquet", lease.shard),
            digest,
            rows: lease.rows,
            passed: lease.rows,
            bytes: 1_000_000,
            ..PartSummary::default()
        };
        let credentials = Some(self.credentials.clone());
        let request = CommitRequest { credentials, shard: lease.shard, token: lease.token, part: Some(part) };
        let reply = self.client.commit(request).await?.into_inner();
        ensure!(reply.accepted, "a part is refused: {}", reply.reason);
        self.hold(None);
        Ok(())
    }

    fn hold(&self, lease: Option<ShardLease>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = lease;
    }
}
