//! A coordinator as a whole: its runs and its gRPC server; started, watched and stopped.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use futures::future::OptionFuture;
use quern_machine::{Control, Event};
use quern_proto::coordinator_server::CoordinatorServer;
use quern_proto::{FileError, Rotating, StatusReply};
use quern_recipes::Recipe;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use crate::access::{self, Access, Counts, Door, Exposed, Guard};
use crate::clock::{Clock, SystemClock};
use crate::errors::CallError;
use crate::journal::JournalError;
use crate::metrics::{self, CoordinatorMetrics};
use crate::runs::{HomeError, Run, Runs, Stopping, Superseded};
use crate::service::Service;
use crate::spans;
use crate::web::Web;

/// How long calls that are under way may take when the server stops.
const STOP_MS: u64 = 3_000;

/// What a coordinator is started with.
pub struct ServeOptions {
    /// What it carries out.
    pub hosting: Hosting,
    /// Where to listen, `host:port`; port 0: any free one.
    pub listen: String,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Who is let in.
    pub access: Access,
}

/// What a coordinator carries out.
pub enum Hosting {
    /// One run, and no other.
    One {
        /// The run, resolved and valid.
        recipe: Box<Recipe>,
        /// The journal's file. It is created when it is missing; otherwise the run goes on where it stood. A journal of
        /// another recipe is refused.
        journal_path: PathBuf,
    },
    /// The runs that are handed in with `quern submit`.
    Submitted {
        /// The folder that keeps them and their journals. It is created when it is missing; otherwise all runs in it go on.
        state: PathBuf,
    },
}

impl ServeOptions {
    /// A coordinator of `recipe` on the system's clock.
    pub fn new(recipe: Recipe, listen: impl Into<String>, journal_path: impl Into<PathBuf>) -> Self {
        let hosting = Hosting::One { recipe: Box::new(recipe), journal_path: journal_path.into() };
        ServeOptions { hosting, listen: listen.into(), clock: Arc::new(SystemClock::new()), access: Access::default() }
    }

    /// A coordinator of the runs that are kept in a folder, and of those that will be handed in, on the system's clock.
    pub fn submitted(state: impl Into<PathBuf>, listen: impl Into<String>) -> Self {
        let hosting = Hosting::Submitted { state: state.into() };
        ServeOptions { hosting, listen: listen.into(), clock: Arc::new(SystemClock::new()), access: Access::default() }
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
    /// Strangers could come in, or listen to what is said.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// A certificate, a key or the tokens can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The journal can't be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The folder of submitted runs, or what is in it, can't be used.
    #[error(transparent)]
    Home(#[from] HomeError),
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
    is_encrypted: bool,
    runs: Arc<Runs>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

/// Starts a coordinator: opens or recovers the journals, listens, and carries the runs on in the background.
///
/// # Errors
/// When the address, a file of [`Access`] or a journal can't be used, or strangers could come in. What goes wrong later
/// is in the status.
pub async fn serve(options: ServeOptions) -> Result<Coordinator, ServeError> {
    let ServeOptions { hosting, listen, clock, access } = options;
    let listener = bind(&listen).await?;
    let address = listener.local_addr().map_err(|source| ServeError::Listen { listen, source })?;
    access.check(address)?;
    let tls = access.tls.as_ref().map(access::configuration).transpose()?;
    let tokens = access.tokens.map(|file| Rotating::open(vec![file], access::read_tokens)).transpose()?;
    let limits = access.limits.within_open_files();
    let counts = Arc::new(Counts::default());
    let is_encrypted = tls.is_some();
    let guard = Arc::new(Guard::new(tokens, is_encrypted, limits, Arc::clone(&counts)));
    let probed = match &access.health_listen {
        Some(listen) => Some(bind(listen).await?),
        None => None,
    };
    let runs = Arc::new(match hosting {
        Hosting::One { recipe, journal_path } => Runs::one(*recipe, &journal_path, clock).await?,
        Hosting::Submitted { state } => Runs::submitted(&state, clock).await?,
    });
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(stop_when(runs.superseded(), stop.clone()));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<CoordinatorServer<Service>>().await;
    let probes = probed.map(|listener| {
        let door = Door { listener, tls: None, limits, counts: Arc::clone(&counts) };
        door.serve(Routes::new(health.clone()).into_axum_router(), stopping.clone())
    });
    let router = router(health, access.reflection, guard, Arc::clone(&runs), limits.message_bytes, stopping.clone());
    let door = Door { listener, tls, limits, counts }.serve(router, stopping);
    let server = tokio::spawn(async move {
        // Both end when the server stops.
        tokio::join!(door, OptionFuture::from(probes));
    });
    Ok(Coordinator { address, is_encrypted, runs, stop, server })
}

/// Ends the service of a coordinator that has been superseded, whoever looks.
async fn stop_when(superseded: impl Future<Output = Superseded>, stop: watch::Sender<bool>) {
    tokio::select! {
        by = superseded => {
            tracing::error!("{by}");
            // Nobody listens any more when the server has stopped by itself.
            let _ = stop.send(true);
        }
        () = stop.closed() => {}
    }
}

async fn bind(listen: &str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(listen).await.map_err(|source| ServeError::Listen { listen: listen.into(), source })
}

/// Everything that is answered, behind the guard.
fn router(
    health: HealthServer<impl Health>,
    reflection: bool,
    guard: Arc<Guard>,
    runs: Arc<Runs>,
    message_bytes: usize,
    stopping: Stopping,
) -> Router {
    let service = Service { runs: Arc::clone(&runs), stopping: stopping.clone() };
    let calls = CoordinatorServer::new(service).max_decoding_message_size(message_bytes);
    let metrics = Arc::new(CoordinatorMetrics::start());
    let web = Web::new(runs, stopping, Arc::clone(&guard), Arc::clone(&metrics));
    let mut routes = Routes::new(health).add_service(calls);
    if reflection {
        routes = routes.add_service(describe());
    }
    routes
        .into_axum_router()
        .merge(web.router())
        .merge(access::login(Arc::clone(&guard)))
        // Behind the guard: strangers make no spans.
        .layer(from_fn(spans::traced))
        .layer(from_fn_with_state(guard, access::admit))
        .layer(from_fn_with_state(metrics, metrics::count))
}

/// Tells clients which calls there are, and their messages.
fn describe() -> ServerReflectionServer<impl ServerReflection> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(quern_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors are those that the code was generated from")
}

impl Coordinator {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL for workers on this machine.
    pub fn url(&self) -> String {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The status now, and its changes, of the one run that it carries out.
    ///
    /// # Panics
    /// When it carries out what is submitted.
    pub fn status(&self) -> watch::Receiver<StatusReply> {
        self.only().statuses()
    }

    /// Waits until its one run is done, has failed or was cancelled.
    ///
    /// # Panics
    /// When it carries out what is submitted.
    pub async fn finished(&self) -> Outcome {
        let mut status = self.status();
        let last = match status.wait_for(is_over).await {
            Ok(last) => last.clone(),
            // The ledger's thread is gone, which only a bug explains.
            Err(_) => self.only().status().clone(),
        };
        Outcome { succeeded: last.phase == "done", message: last.explanation.clone(), status: last }
    }

    /// Has its one run go on with files of the data sets that nobody has milled, if there are any.
    ///
    /// # Errors
    /// When they can't be read, or the run can't be taken up: it trains, or was cancelled.
    ///
    /// # Panics
    /// When it carries out what is submitted.
    pub async fn extend(&self) -> Result<(), CallError> {
        self.only().extend().await
    }

    /// Has its one run do those rows again that are in quarantine for one of `reasons` (`STAGE/REASON` or `REASON`).
    ///
    /// # Errors
    /// When no row is, or the run can't be taken up: it trains, or was cancelled.
    ///
    /// # Panics
    /// When it carries out what is submitted.
    pub async fn retry(&self, reasons: BTreeSet<String>) -> Result<(), CallError> {
        self.only().control(Control::Retry { reasons }).await
    }

    /// Waits until another coordinator has taken the output of a run over. This one answers no calls any more then, and
    /// is to be shut down.
    pub fn superseded(&self) -> impl Future<Output = Superseded> + Send + 'static {
        self.runs.superseded()
    }

    /// Makes the coordinator look at its clock now, and waits until it has drawn the consequences.
    pub async fn tick(&self) {
        for run in self.runs.list() {
            // Refusals are in the status.
            let _ = run.tell(Event::Tick { now_ms: 0 }).await;
        }
    }

    /// Stops: ends streams, lets calls finish, closes the journals.
    pub async fn shutdown(mut self) {
        // Nobody listens any more when the server has stopped by itself.
        let _ = self.stop.send(true);
        if tokio::time::timeout(Duration::from_millis(STOP_MS), &mut self.server).await.is_err() {
            self.server.abort();
            let _ = (&mut self.server).await;
        }
        self.runs.close().await;
    }

    fn only(&self) -> Arc<Run> {
        assert!(!self.runs.are_submitted(), "a coordinator of submitted runs has no one run");
        self.runs.list().swap_remove(0)
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.server.abort();
        self.runs.abort();
    }
}
