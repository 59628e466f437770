//! The agent's life: register, ask for work, do it, ask again, until the run is over or it is told to leave.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use quern_proto::client::ClientOptions;
use quern_proto::lease_reply::Work;
use quern_proto::{DrainRequest, FailRequest, LeaseRequest, RegisterRequest, ShardLease, Wait};
use quern_recipes::Recipe;
use tokio::sync::watch;
use tracing::Instrument;

use crate::connection::{CallError, Connection, Membership};
use crate::error::AgentError;
use crate::faults::Script;
use crate::gang::Gang;
use crate::heartbeat::{Board, Heartbeats};
use crate::outbox::Outbox;
use crate::post::{Post, noted, raise_on_leave};
use crate::shard::{Mill, ShardEnd};
use crate::spans;
use crate::tasks::Tasks;
use crate::torch;

/// How long a worker that leaves waits for the coordinator to take its work back.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the agent is started with.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The coordinator's URL.
    pub coordinator: String,
    /// What it shows the coordinator.
    pub client: ClientOptions,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// For people; default: host name and process id.
    pub name: String,
    /// Address that the collective binds to and announces, without a port.
    pub host: String,
    /// Scripted faults.
    pub script: Script,
    /// The lines that the coordinator is to see, too.
    pub log: Outbox,
}

/// How the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentEnd {
    /// The run is over.
    Finished,
    /// It was told to leave by a signal (SIGTERM, SIGINT), and has handed its work back.
    Left,
    /// An operator sent it away, and it has handed its work back.
    SentAway,
}

/// How its membership of one run ended.
enum Stint {
    /// The run is done.
    Finished,
    /// The run can do without it, and another one needs it.
    Released,
    /// It is to leave for good.
    Leave(AgentEnd),
}

/// Lives until the run is over, or until `leave` turns true.
pub async fn run(options: AgentOptions, leave: watch::Receiver<bool>) -> Result<AgentEnd, AgentError> {
    let device = torch::device(&options.device).map_err(AgentError::Setup)?;
    let connection = Connection::new(&options.coordinator, &options.client)?;
    loop {
        let Some(mut member) = register(&connection, &options, device, leave.clone()).await? else {
            return Ok(AgentEnd::Left);
        };
        match live(&connection, &options, &mut member, leave.clone()).await {
            // A coordinator that was restarted without its journal, or that gave us up for lost: introduce ourselves anew.
            Err(AgentError::Call(CallError::Unknown(reason))) => tracing::info!(reason, "registering anew"),
            Ok(Stint::Released) => {}
            Ok(Stint::Finished) if member.more => tracing::info!("the run is over; asking for another one"),
            Err(AgentError::RunFailed(reason)) if member.more => {
                tracing::warn!(reason, "the run is over; asking for another one");
            }
            Ok(Stint::Finished) => return Ok(AgentEnd::Finished),
            Ok(Stint::Leave(left)) => {
                hand_back(&connection, &member.membership, "it was told to leave").await;
                return Ok(left);
            }
            Err(error @ AgentError::Setup(_)) => {
                hand_back(&connection, &member.membership, &error.to_string()).await;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Hands back whatever this worker holds, so that nobody has to wait for its terms to run out.
async fn hand_back(connection: &Connection, member: &Membership, reason: &str) {
    let request = DrainRequest { credentials: Some(member.credentials.clone()), reason: reason.to_owned() };
    let call = connection.call("Drain", |mut client| {
        let request = request.clone();
        async move { client.drain(request).await }
    });
    match tokio::time::timeout(FAREWELL, call).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "nothing was handed back; the leases run out by themselves"),
        Err(_) => tracing::warn!("the coordinator is away; the leases run out by themselves"),
    }
}

/// A member, with what it was told when it registered and what it has loaded since.
struct Registered {
    membership: Membership,
    listener: std::net::TcpListener,
    recipe: Arc<Recipe>,
    mill: Mill,
    device: tch::Device,
    /// Whether other runs may come when this one is over.
    more: bool,
}

/// Becomes a member of a run, as soon as one needs it; `None`: it was told to leave before.
async fn register(
    connection: &Connection,
    options: &AgentOptions,
    device: tch::Device,
    mut leave: watch::Receiver<bool>,
) -> Result<Option<Registered>, AgentError> {
    let cannot_listen = |e| AgentError::Setup(format!("cannot listen on {} for the other ranks: {e}", options.host));
    let listener = std::net::TcpListener::bind((options.host.as_str(), 0)).map_err(cannot_listen)?;
    let port = listener.local_addr().map_err(cannot_listen)?.port();
    let request = RegisterRequest {
        name: options.name.clone(),
        device: torch::device_name(device),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: format!("{}:{port}", options.host),
        host: host_name(),
        memory_bytes: torch::memory_bytes(device),
    };
    let mut idle = false;
    let reply = loop {
        let reply = connection
            .call("Register", |mut client| {
                let request = request.clone();
                async move { client.register(request).await }
            })
            .await?;
        let Some(wait) = reply.wait else { break reply };
        if !idle {
            tracing::info!("no run needs a worker; waiting for one");
            idle = true;
        }
        if pause(wait, &mut leave).await {
            return Ok(None);
        }
    };
    let recipe: Recipe = serde_json::from_str(&reply.recipe_json)
        .map_err(|e| AgentError::Setup(format!("the coordinator's recipe is not one that this version reads: {e}")))?;
    let recipe = Arc::new(recipe);
    tch::set_num_threads(recipe.cluster.threads as i32);
    let credentials =
        reply.credentials.ok_or_else(|| AgentError::Setup("the coordinator gave no credentials".into()))?;
    tracing::info!(worker = credentials.worker, run = credentials.run, device = request.device, "registered");
    let membership = Membership {
        credentials,
        incarnation: reply.incarnation,
        heartbeat: Duration::from_millis(reply.heartbeat_ms.max(1)),
        lease: Duration::from_millis(reply.lease_ms.max(1)),
    };
    let mill = Mill::new(recipe.clone(), reply.run_id, reply.recipe_hash, device, options.script.clone());
    Ok(Some(Registered { membership, listener, recipe, mill, device, more: reply.more }))
}

/// The name of this machine, by which the coordinator knows it again; empty where it can't be told.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Waits before asking again; true: it was told to leave meanwhile.
async fn pause(wait: Wait, leave: &mut watch::Receiver<bool>) -> bool {
    let pause = Duration::from_millis(wait.retry_ms.clamp(10, 10_000));
    tokio::select! {
        _ = tokio::time::sleep(pause) => false,
        _ = leave.wait_for(|leaving| *leaving) => true,
    }
}

async fn live(
    connection: &Connection,
    options: &AgentOptions,
    member: &mut Registered,
    mut leave: watch::Receiver<bool>,
) -> Result<Stint, AgentError> {
    let board = Arc::new(Board::default());
    let (membership, log) = (member.membership.clone(), options.log.clone());
    let _heartbeats = Heartbeats::start(connection.clone(), membership, board.clone(), log);
    loop {
        if *leave.borrow() {
            return Ok(Stint::Leave(AgentEnd::Left));
        }
        if board.drained() {
            return Ok(Stint::Leave(AgentEnd::SentAway));
        }
        if let Some(error) = board.lost() {
            return Err(error.into());
        }
        let turn = spans::turn(&member.membership.credentials);
        let question = turn.in_scope(|| spans::call!("lease", "Lease"));
        let request = LeaseRequest { credentials: Some(member.membership.credentials.clone()) };
        let reply = connection
            .call("Lease", |mut client| {
                let request = request.clone();
                async move { client.lease(request).await }
            })
            .instrument(question.clone())
            .await?;
        spans::took(&turn, &question, reply.work.as_ref());
        drop(question);
        match reply.work {
            Some(Work::Shard(lease)) => {
                work_on_shard(connection, options, member, &board, lease, &leave).instrument(turn).await?;
            }
            Some(Work::World(invitation)) => {
                // CapFilt is over: its models make room.
                member.mill.unload();
                let gang = Gang(post(connection, member, &board, &leave));
                gang.take_part(invitation.generation, &member.listener).instrument(turn).await?;
            }
            Some(Work::Task(task)) => {
                member.mill.unload();
                let tasks = Tasks { post: post(connection, member, &board, &leave), script: &options.script };
                tasks.carry_out(task).instrument(turn).await?;
            }
            Some(Work::Finished(finished)) if finished.succeeded => return Ok(Stint::Finished),
            Some(Work::Finished(finished)) => return Err(AgentError::RunFailed(finished.message)),
            Some(Work::Released(released)) => {
                tracing::info!(reason = released.reason, "moving on to another run");
                return Ok(Stint::Released);
            }
            // Told to leave meanwhile, it sees so at once.
            Some(Work::Wait(wait)) => drop(pause(wait, &mut leave).await),
            None => return Err(AgentError::Setup("the coordinator's answer to Lease is empty".into())),
        }
    }
}

/// Where the worker stands for work that is no shard.
fn post<'a>(
    connection: &'a Connection,
    member: &'a Registered,
    board: &'a Arc<Board>,
    leave: &watch::Receiver<bool>,
) -> Post<'a> {
    Post {
        connection,
        member: &member.membership,
        recipe: &member.recipe,
        device: member.device,
        board,
        leave: leave.clone(),
    }
}

/// Does one shard, and says when it can't be done.
async fn work_on_shard(
    connection: &Connection,
    options: &AgentOptions,
    member: &mut Registered,
    board: &Arc<Board>,
    lease: ShardLease,
    leave: &watch::Receiver<bool>,
) -> Result<(), AgentError> {
    options.script.leased();
    let stop = Arc::new(AtomicBool::new(false));
    board.begin(&lease, stop.clone());
    let watcher = tokio::spawn(raise_on_leave(leave.clone(), stop.clone()));
    let end = member.mill.grind(connection, &member.membership, &lease, &stop, board).await;
    watcher.abort();
    board.end();
    tracing::Span::current().record("end", spans::end_of(&end));
    if member.mill.is_loaded() {
        board.set_warm("capfilt");
    }
    let (reason, permanent) = match end {
        Ok(ShardEnd::Committed | ShardEnd::Lost) => return Ok(()),
        // Told to leave, it hands everything back at once; revoked, the shard is another's.
        Ok(ShardEnd::Stopped) => return Ok(()),
        Ok(ShardEnd::Unreadable { reason, permanent }) => (reason, permanent),
        Err(error) => return Err(error),
    };
    let request = FailRequest {
        credentials: Some(member.membership.credentials.clone()),
        shard: lease.shard,
        token: lease.token,
        reason,
        permanent,
    };
    let answer = connection
        .call("Fail", |mut client| {
            let request = request.clone();
            async move { client.fail(request).await }
        })
        .instrument(spans::call!("fail", "Fail"))
        .await;
    noted(answer)
}
