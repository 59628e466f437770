//! Heartbeats: a task of their own that renews this worker's membership and hears what to do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quern_proto::{HeartbeatRequest, ShardLease, ShardProgress, ShardToken};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{Instrument, debug_span};

use crate::connection::{CallError, Connection, Membership};
use crate::outbox::Outbox;

/// What the coordinator has said last.
#[derive(Debug, Clone, Default)]
struct News {
    drained: bool,
    paused: bool,
    /// The generation of the training world that is current; 0: none.
    world_generation: u64,
    /// Why this worker is no member any more.
    lost: Option<CallError>,
}

/// What the worker is doing, for the heartbeat to tell, and what the coordinator wants, for the worker to heed.
#[derive(Debug, Default)]
pub struct Board {
    work: Mutex<Option<OnBoard>>,
    rows_done: AtomicU64,
    /// What the worker has its models at hand for.
    warm: Mutex<Vec<String>>,
    news: watch::Sender<News>,
}

#[derive(Debug)]
struct OnBoard {
    /// None: it is a task of the run.
    shard: Option<(String, Option<ShardToken>)>,
    stop: Arc<AtomicBool>,
}

impl Board {
    /// The worker begins a shard; `stop` is raised when the shard is revoked.
    pub fn begin(&self, lease: &ShardLease, stop: Arc<AtomicBool>) {
        self.rows_done.store(0, Ordering::SeqCst);
        *self.lock() = Some(OnBoard { shard: Some((lease.shard.clone(), lease.token)), stop });
    }

    /// The worker begins a task of the run; `stop` is raised when the worker is no member any more.
    pub fn begin_task(&self, stop: Arc<AtomicBool>) {
        *self.lock() = Some(OnBoard { shard: None, stop });
    }

    /// This many rows of it are done.
    pub fn done(&self, rows: u64) {
        self.rows_done.store(rows, Ordering::SeqCst);
    }

    /// The worker is done with its shard or task.
    pub fn end(&self) {
        *self.lock() = None;
    }

    /// The worker has its models at hand for this work now: `capfilt`, `stage1`, `stage2`.
    pub fn set_warm(&self, work: &str) {
        *self.warm.lock().unwrap_or_else(PoisonError::into_inner) = vec![work.to_owned()];
    }

    fn warm(&self) -> Vec<String> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Was the worker told to finish nothing new and leave?
    pub fn drained(&self) -> bool {
        self.news.borrow().drained
    }

    /// Is the run paused?
    pub fn paused(&self) -> bool {
        self.news.borrow().paused
    }

    /// Why the coordinator no longer counts this worker as a member, or can't be asked, if so.
    pub fn lost(&self) -> Option<CallError> {
        self.news.borrow().lost.clone()
    }

    /// Returns when this generation of the training world is over for this worker: another one is current, or the
    /// worker is no member any more.
    pub async fn generation_is_over(&self, generation: u64) {
        let over = |news: &News| news.lost.is_some() || news.world_generation > generation;
        // An error would mean that the board is gone; it is borrowed.
        let _ = self.news.subscribe().wait_for(over).await;
    }

    fn lock(&self) -> MutexGuard<'_, Option<OnBoard>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> Vec<ShardProgress> {
        let rows_done = self.rows_done.load(Ordering::SeqCst);
        let on_board = self.lock();
        let shard = on_board.iter().find_map(|on| on.shard.clone());
        shard.into_iter().map(|(shard, token)| ShardProgress { shard, token, rows_done }).collect()
    }

    /// Stops the work on the shard, if it is one of these.
    fn revoke(&self, shards: &[String]) {
        let is_revoked = |on: &&OnBoard| on.shard.as_ref().is_some_and(|(shard, _)| shards.contains(shard));
        if let Some(on) = self.lock().as_ref().filter(is_revoked) {
            on.stop.store(true, Ordering::SeqCst);
        }
    }

    /// Stops whatever is in hand.
    fn stop(&self) {
        if let Some(on) = self.lock().as_ref() {
            on.stop.store(true, Ordering::SeqCst);
        }
    }
}

/// The task; it ends when this value is dropped.
#[derive(Debug)]
pub struct Heartbeats {
    task: JoinHandle<()>,
}

impl Heartbeats {
    /// Sends a heartbeat at once, and then one per interval.
    pub fn start(connection: Connection, member: Membership, board: Arc<Board>, log: Outbox) -> Self {
        Heartbeats { task: tokio::spawn(beat(connection, member, board, log)) }
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn beat(connection: Connection, member: Membership, board: Arc<Board>, outbox: Outbox) {
    let mut interval = tokio::time::interval(member.heartbeat);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let log = outbox.waiting();
        let told = log.last().map_or(0, |line| line.number);
        let credentials = Some(member.credentials.clone());
        let request = HeartbeatRequest { credentials, progress: board.progress(), log, warm: board.warm() };
        let reply = connection
            .call("Heartbeat", |mut client| {
                let request = request.clone();
                async move { client.heartbeat(request).await }
            })
            .instrument(debug_span!("heartbeat", otel.kind = "client", rpc.system = "grpc", rpc.method = "Heartbeat"))
            .await;
        match reply {
            Ok(reply) => {
                outbox.told(told);
                board.revoke(&reply.revoked_shards);
                board.news.send_modify(|news| {
                    news.world_generation = reply.world_generation;
                    news.drained |= reply.drain;
                    news.paused = reply.pause;
                });
            }
            Err(error) => {
                // Not a member any more: what is in hand can't be committed, so it is dropped.
                board.stop();
                board.news.send_modify(|news| news.lost = Some(error));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn lease(shard: &str) -> ShardLease {
        ShardLease { shard: shard.to_owned(), ..ShardLease::default() }
    }

    #[test]
    fn only_the_shard_that_is_revoked_is_stopped() {
        let board = Board::default();
        let stop = Arc::new(AtomicBool::new(false));
        board.begin(&lease("a"), stop.clone());
        board.done(7);
        assert_eq!(board.progress()[0].rows_done, 7);
        board.revoke(&["b".into()]);
        assert!(!stop.load(Ordering::SeqCst));
        board.revoke(&["a".into()]);
        assert!(stop.load(Ordering::SeqCst));
        board.end();
        assert!(board.progress().is_empty());
    }

    #[test]
    fn a_task_is_no_shard_and_stops_when_the_worker_is_lost() {
        let board = Board::default();
        let stop = Arc::new(AtomicBool::new(false));
        board.begin_task(stop.clone());
        assert!(board.progress().is_empty());
        board.revoke(&[String::new()]);
        assert!(!stop.load(Ordering::SeqCst));
        board.stop();
        assert!(stop.load(Ordering::SeqCst));
    }

    #[test]
    fn a_generation_is_over_when_a_later_one_is_current_or_the_worker_is_lost() {
        let board = Board::default();
        let over = |generation| board.generation_is_over(generation).now_or_never().is_some();
        board.news.send_modify(|news| news.world_generation = 3);
        assert!(over(2));
        assert!(!over(3), "it is the current one");
        assert!(board.lost().is_none());
        board.news.send_modify(|news| news.lost = Some(CallError::Unknown("silent".into())));
        assert!(over(3));
        assert!(matches!(board.lost(), Some(CallError::Unknown(_))));
    }
}
