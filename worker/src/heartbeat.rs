//! Heartbeats: a task of their own that renews this worker's membership and hears what to do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quern_proto::{HeartbeatRequest, ShardLease, ShardProgress, ShardToken};
use tokio::task::JoinHandle;

use crate::connection::{CallError, Connection, Membership};

/// What the worker is doing, for the heartbeat to tell, and what the coordinator wants, for the worker to heed.
#[derive(Debug, Default)]
pub struct Board {
    shard: Mutex<Option<OnBoard>>,
    rows_done: AtomicU64,
    drained: AtomicBool,
    world_generation: AtomicU64,
}

#[derive(Debug)]
struct OnBoard {
    shard: String,
    token: Option<ShardToken>,
    stop: Arc<AtomicBool>,
}

impl Board {
    /// The worker begins a shard; `stop` is raised when the shard is revoked.
    pub fn begin(&self, lease: &ShardLease, stop: Arc<AtomicBool>) {
        self.rows_done.store(0, Ordering::SeqCst);
        *self.lock() = Some(OnBoard { shard: lease.shard.clone(), token: lease.token, stop });
    }

    /// This many rows of it are done.
    pub fn done(&self, rows: u64) {
        self.rows_done.store(rows, Ordering::SeqCst);
    }

    /// The worker is done with its shard.
    pub fn end(&self) {
        *self.lock() = None;
    }

    /// Was the worker told to finish nothing new and leave?
    pub fn drained(&self) -> bool {
        self.drained.load(Ordering::SeqCst)
    }

    /// The generation of the training world that is current; 0: none.
    pub fn world_generation(&self) -> u64 {
        self.world_generation.load(Ordering::SeqCst)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<OnBoard>> {
        self.shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> Vec<ShardProgress> {
        let rows_done = self.rows_done.load(Ordering::SeqCst);
        let on_board = self.lock();
        on_board.iter().map(|on| ShardProgress { shard: on.shard.clone(), token: on.token, rows_done }).collect()
    }

    fn revoke(&self, shards: &[String]) {
        if let Some(on) = self.lock().as_ref().filter(|on| shards.contains(&on.shard)) {
            on.stop.store(true, Ordering::SeqCst);
        }
    }
}

/// The task; it ends when this value is dropped.
#[derive(Debug)]
pub struct Heartbeats {
    task: JoinHandle<()>,
    lost: Arc<Mutex<Option<String>>>,
}

impl Heartbeats {
    /// Sends a heartbeat at once, and then one per interval.
    pub fn start(connection: Connection, member: Membership, board: Arc<Board>) -> Self {
        let lost = Arc::new(Mutex::new(None));
        let task = tokio::spawn(beat(connection, member, board, lost.clone()));
        Heartbeats { task, lost }
    }

    /// Why the coordinator no longer counts this worker as a member, if so.
    pub fn lost(&self) -> Option<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn beat(connection: Connection, member: Membership, board: Arc<Board>, lost: Arc<Mutex<Option<String>>>) {
    let mut interval = tokio::time::interval(member.heartbeat);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let request = HeartbeatRequest { credentials: Some(member.credentials.clone()), progress: board.progress() };
        let reply = connection
            .call("Heartbeat", |mut client| {
                let request = request.clone();
                async move { client.heartbeat(request).await }
            })
            .await;
        match reply {
            Ok(reply) => {
                board.revoke(&reply.revoked_shards);
                board.world_generation.store(reply.world_generation, Ordering::SeqCst);
                board.drained.fetch_or(reply.drain, Ordering::SeqCst);
            }
            Err(CallError::Unreachable { .. }) => {}
            Err(error) => {
                // Not a member any more: what is in hand can't be committed, so it is dropped.
                if let Some(on) = board.lock().as_ref() {
                    on.stop.store(true, Ordering::SeqCst);
                }
                *lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                return;
            }
        }
    }
}
