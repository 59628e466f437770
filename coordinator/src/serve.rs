//! A coordinator as a whole: journal, ledger, chores, gRPC server; started, watched and stopped.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quern_machine::{Config, Event, StageConfig};
use quern_proto::StatusReply;
use quern_proto::coordinator_server::CoordinatorServer;
use quern_recipes::Recipe;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::chores::Chores;
use crate::clock::{Clock, SystemClock};
use crate::journal::{JournalError, RunIdentity, SqliteJournal};
use crate::ledger::{self, Ledger, Opened, Opening};
use crate::service::{Service, Terms};
use crate::status::Describe;
use crate::web::Web;

/// Digits of the recipe's hash that name a run.
const RUN_ID_DIGITS: usize = 16;
/// How long calls that are under way may take when the server stops.
const STOP_MS: u64 = 3_000;

/// What a coordinator is started with.
pub struct ServeOptions {
    /// The run, resolved and valid.
    pub recipe: Recipe,
    /// The recipe's hash: a journal of another one is refused.
    pub recipe_hash: String,
    /// Where to listen, `host:port`; port 0: any free one.
    pub listen: String,
    /// The journal's file. It is created when it is missing; otherwise the run goes on where it stood.
    pub journal_path: PathBuf,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
}

impl ServeOptions {
    /// A coordinator of `recipe` on the system's clock.
    pub fn new(recipe: Recipe, listen: impl Into<String>, journal_path: impl Into<PathBuf>) -> Self {
        ServeOptions {
            recipe_hash: recipe.hash(),
            recipe,
            listen: listen.into(),
            journal_path: journal_path.into(),
            clock: Arc::new(SystemClock::new()),
        }
    }
}

/// Why a coordinator doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can't be listened on.
    #[error("can't listen on {listen}: {source}; stop what listens there, or name another address")]
    Listen {
        /// The address as given.
        listen: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The journal can't be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Whether all phases are done.
    pub succeeded: bool,
    /// One sentence: the explanation in `status`.
    pub message: String,
    /// The last status.
    pub status: StatusReply,
}

/// Whether a status is a run's last one.
pub(crate) fn is_over(status: &StatusReply) -> bool {
    matches!(status.phase.as_str(), "done" | "failed" | "cancelled")
}

/// A coordinator at work. Dropping it stops it at once; [`Coordinator::shutdown`] lets calls finish first.
pub struct Coordinator {
    address: SocketAddr,
    ledger: Option<Ledger>,
    status: watch::Receiver<StatusReply>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Starts a coordinator: opens or recovers the journal, listens, and carries the run on in the background.
///
/// # Errors
/// When the address or the journal can't be used. What goes wrong later is in the status.
pub async fn serve(options: ServeOptions) -> Result<Coordinator, ServeError> {
    let ServeOptions { recipe, recipe_hash, listen, journal_path, clock } = options;
    let cannot_listen = |source| ServeError::Listen { listen: listen.clone(), source };
    let listener = TcpListener::bind(&listen).await.map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(cannot_listen)?;
    let run_id: String = recipe_hash.chars().take(RUN_ID_DIGITS).collect();
    let opened = open_ledger(&recipe, &recipe_hash, &run_id, journal_path, Arc::clone(&clock)).await?;
    let Opened { ledger, jobs, status, thread } = opened;

    let (stop, stopping) = watch::channel(false);
    let heartbeat_ms = recipe.cluster.heartbeat_ms;
    let terms = Terms {
        heartbeat_ms,
        lease_ms: recipe.cluster.lease_ms,
        recipe_json: recipe.to_json(),
        recipe_hash: recipe_hash.clone(),
        run_id: run_id.clone(),
        retry_ms: (heartbeat_ms / 8).clamp(20, 1_000),
    };
    let service = Service { ledger: ledger.clone(), terms, status: status.clone(), stopping: stopping.clone() };
    let tick_ms = (recipe.cluster.lease_ms / 8).clamp(10, 1_000);
    let chores = Chores { recipe, recipe_hash, run_id, ledger: ledger.clone() };
    let mut tasks =
        vec![tokio::spawn(chores.carry_out(jobs)), tokio::spawn(tick(ledger.clone(), Duration::from_millis(tick_ms)))];
    let web = Web::new(status.clone(), stopping.clone());
    tasks.push(tokio::spawn(web.clone().remember(clock)));
    let server = tokio::spawn(answer_calls(listener, service, web, stopping));
    Ok(Coordinator { address, ledger: Some(ledger), status, stop, tasks, server, thread: Some(thread) })
}

/// Opens the journal and recovers the machine, which may take its time, off the runtime's threads.
async fn open_ledger(
    recipe: &Recipe,
    recipe_hash: &str,
    run_id: &str,
    journal_path: PathBuf,
    clock: Arc<dyn Clock>,
) -> Result<Opened, JournalError> {
    let identity = RunIdentity { recipe_hash: recipe_hash.into(), output: recipe.output.clone() };
    let describe = Describe { run_id: run_id.into(), name: recipe.name.clone(), output: recipe.output.clone() };
    let config = Config {
        lease_ms: recipe.cluster.lease_ms,
        attempts: recipe.cluster.attempts,
        stage1: recipe.stage1.as_ref().map(|stage1| StageConfig { ranks: stage1.ranks, steps: stage1.steps }),
        stage2: recipe.stage2.as_ref().map(|stage2| StageConfig { ranks: stage2.ranks, steps: stage2.steps }),
    };
    let opening = tokio::task::spawn_blocking(move || {
        let journal = Box::new(SqliteJournal::open(&journal_path, &identity)?);
        ledger::open(Opening { config, journal, clock, describe })
    });
    opening.await.expect("recovery doesn't panic on a journal that the machine wrote")
}

async fn tick(ledger: Ledger, every: Duration) {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        // The ledger reads the clock itself at every turn, and says in the status what is wrong.
        let _ = ledger.tell(Event::Tick { now_ms: 0 }).await;
    }
}

async fn answer_calls(
    listener: TcpListener,
    service: Service,
    web: Web,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<CoordinatorServer<Service>>().await;
    let calls = Routes::new(health).add_service(CoordinatorServer::new(service)).into_axum_router();
    let server = Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .add_routes(Routes::from(calls.merge(web.router())));
    let stop = async move {
        // An error means that the coordinator was dropped: stop too.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    server.serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop).await
}

impl Coordinator {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL for workers on this machine.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The status now, and its changes.
    pub fn status(&self) -> watch::Receiver<StatusReply> {
        self.status.clone()
    }

    /// Waits until the run is done, has failed or was cancelled.
    pub async fn finished(&self) -> Outcome {
        let mut status = self.status.clone();
        let last = match status.wait_for(is_over).await {
            Ok(last) => last.clone(),
            // The ledger's thread is gone, which only a bug explains.
            Err(_) => self.status.borrow().clone(),
        };
        Outcome { succeeded: last.phase == "done", message: last.explanation.clone(), status: last }
    }

    /// Makes the coordinator look at its clock now, and waits until it has drawn the consequences.
    pub async fn tick(&self) {
        if let Some(ledger) = &self.ledger {
            // Refusals are in the status.
            let _ = ledger.tell(Event::Tick { now_ms: 0 }).await;
        }
    }

    /// Stops: ends streams, lets calls finish, closes the journal.
    pub async fn shutdown(mut self) {
        // Nobody listens any more when the server has stopped by itself.
        let _ = self.stop.send(true);
        if tokio::time::timeout(Duration::from_millis(STOP_MS), &mut self.server).await.is_err() {
            self.server.abort();
            let _ = (&mut self.server).await;
        }
        for task in self.tasks.drain(..) {
            task.abort();
            // It ends by being aborted: that is the error.
            let _ = task.await;
        }
        self.ledger = None;
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            assert!(matches!(joined, Ok(Ok(()))), "the ledger's thread panicked");
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.server.abort();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
