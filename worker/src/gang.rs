//! A worker's place in the training world: join, connect to the other ranks, train, and report while doing so.
//!
//! A generation of the world ends for this rank when training is complete, when a peer is lost, when the coordinator
//! says that another generation is current, or when the worker is told to leave. Then the agent asks for work again,
//! and is invited to the next generation, which goes on from the last accepted checkpoint.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quern_collective::{Collective, NcclCollective, Solo, TcpCollective, TcpOptions};
use quern_proto::join_world_reply::Outcome as Join;
use quern_proto::{
    CommitCheckpointRequest, Credentials, JoinWorldRequest, LeaveWorldRequest, ReportStepsRequest, StepLosses, World,
};
use quern_recipes::Recipe;
use quern_trainer::stage1::{self, Control, Flow, StepReport};
use quern_trainer::{Refused, TrainError};
use tch::Device;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::agent::AgentError;
use crate::connection::{CallError, Connection, Membership};
use crate::heartbeat::Board;

/// How long one collective operation may take. A peer that dies is noticed at once; this bounds one that hangs, and
/// must leave time for the slowest rank to load its models.
const COLLECTIVE_DEADLINE: Duration = Duration::from_secs(120);
/// Steps are reported at most this often.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// How a generation ended for this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GangEnd {
    /// Ask the coordinator for work again.
    AskAgain,
    /// The worker was told to leave, and has.
    Left,
}

/// What is needed to take part.
pub struct Gang<'a> {
    /// To the coordinator.
    pub connection: &'a Connection,
    /// This worker's.
    pub member: &'a Membership,
    /// The run's.
    pub recipe: &'a Arc<Recipe>,
    /// Where tensors live.
    pub device: Device,
}

impl Gang<'_> {
    /// Takes part in this generation, to its end for this rank.
    pub async fn take_part(
        &self,
        generation: u64,
        listener: &TcpListener,
        board: &Arc<Board>,
        leave: watch::Receiver<bool>,
    ) -> Result<GangEnd, AgentError> {
        let Some(world) = self.join(generation, &leave).await? else {
            return Ok(if *leave.borrow() { GangEnd::Left } else { GangEnd::AskAgain });
        };
        tracing::info!(generation = world.generation, rank = world.rank, ranks = world.addresses.len(), "training");
        let incarnation = world.incarnation;
        let watcher = Watcher {
            connection: self.connection.clone(),
            credentials: self.member.credentials.clone(),
            generation: world.generation,
            incarnation,
            rank: world.rank,
            board: board.clone(),
            leave: leave.clone(),
            handle: Handle::current(),
            unreported: Vec::new(),
            reported: Instant::now(),
        };
        let listener = listener.try_clone().map_err(|e| AgentError::Setup(format!("cannot listen for the other ranks: {e}")))?;
        let (recipe, device, generation) = (self.recipe.clone(), self.device, world.generation);
        let trained = tokio::task::spawn_blocking(move || train(&recipe, world, listener, device, watcher)).await;
        let trained = trained.map_err(|e| AgentError::Setup(format!("the training thread died: {e}")))?;
        let reason = match trained {
            Ok(true) => return Ok(GangEnd::AskAgain),
            Ok(false) => "the worker is leaving".to_owned(),
            Err(Failure { message, fatal: true }) => {
                self.leave(generation, incarnation, &message).await?;
                return Err(AgentError::Setup(message));
            }
            Err(Failure { message, fatal: false }) => message,
        };
        tracing::warn!(generation, reason, "this generation is over for this rank");
        self.leave(generation, incarnation, &reason).await?;
        Ok(if *leave.borrow() { GangEnd::Left } else { GangEnd::AskAgain })
    }

    /// Waits until the world runs; `None` when this generation never will, or when the worker is leaving.
    async fn join(&self, generation: u64, leave: &watch::Receiver<bool>) -> Result<Option<World>, AgentError> {
        let mut leave = leave.clone();
        loop {
            let request = JoinWorldRequest { credentials: Some(self.member.credentials.clone()), generation };
            let answer = self
                .connection
                .call("JoinWorld", |mut client| {
                    let request = request.clone();
                    async move { client.join_world(request).await }
                })
                .await;
            let pause = match answer.map(|reply| reply.outcome) {
                Ok(Some(Join::World(world))) => return Ok(Some(world)),
                Ok(Some(Join::Wait(wait))) => Duration::from_millis(wait.retry_ms.clamp(10, 10_000)),
                Ok(Some(Join::Finished(_)) | None) | Err(CallError::Stale(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            tokio::select! {
                _ = tokio::time::sleep(pause) => {}
                _ = leave.wait_for(|leaving| *leaving) => return Ok(None),
            }
        }
    }

    async fn leave(&self, generation: u64, incarnation: u64, reason: &str) -> Result<(), AgentError> {
        let request = LeaveWorldRequest {
            credentials: Some(self.member.credentials.clone()),
            generation,
            incarnation,
            reason: reason.to_owned(),
        };
        let answer = self
            .connection
            .call("LeaveWorld", |mut client| {
                let request = request.clone();
                async move { client.leave_world(request).await }
            })
            .await;
        match answer {
            Ok(_) | Err(CallError::Stale(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Why a generation ended early. What another generation can't mend is fatal to this worker.
struct Failure {
    message: String,
    fatal: bool,
}

/// Trains on this thread. `Ok(false)`: stopped on request, with a checkpoint.
fn train(recipe: &Recipe, world: World, listener: TcpListener, device: Device, mut watcher: Watcher) -> Result<bool, Failure> {
    let lost = |error: quern_collective::CollectiveError| Failure { message: error.to_string(), fatal: false };
    let resume = (!world.checkpoint.is_empty()).then(|| world.checkpoint.clone());
    let collective = connect(world, listener, device).map_err(lost)?;
    let outcome = stage1::run(recipe, &*collective, resume.as_deref(), device, &mut watcher);
    match outcome {
        Ok(outcome) => Ok(outcome.complete),
        Err(error) => {
            let fatal = !matches!(error, TrainError::Collective(_) | TrainError::Refused(_));
            Err(Failure { message: error.to_string(), fatal })
        }
    }
}

fn connect(world: World, listener: TcpListener, device: Device) -> quern_collective::Result<Box<dyn Collective>> {
    if world.addresses.len() == 1 {
        return Ok(Box::new(Solo));
    }
    let options = TcpOptions {
        rank: world.rank as usize,
        addresses: world.addresses,
        token: world.generation,
        deadline: COLLECTIVE_DEADLINE,
    };
    Ok(match device {
        Device::Cuda(ordinal) => Box::new(NcclCollective::connect(listener, options, ordinal)?),
        _ => Box::new(TcpCollective::connect(listener, options)?),
    })
}

/// Reports to the coordinator from the training thread.
struct Watcher {
    connection: Connection,
    credentials: Credentials,
    generation: u64,
    incarnation: u64,
    rank: u32,
    board: Arc<Board>,
    leave: watch::Receiver<bool>,
    handle: Handle,
    unreported: Vec<StepLosses>,
    reported: Instant,
}

impl Watcher {
    fn report(&mut self) -> Result<(), Refused> {
        let request = ReportStepsRequest {
            credentials: Some(self.credentials.clone()),
            generation: self.generation,
            incarnation: self.incarnation,
            steps: std::mem::take(&mut self.unreported),
        };
        self.reported = Instant::now();
        let call = self.connection.call("ReportSteps", |mut client| {
            let request = request.clone();
            async move { client.report_steps(request).await }
        });
        self.handle.block_on(call).map(drop).map_err(|e| Refused(e.to_string()))
    }
}

impl Control for Watcher {
    fn steps(&mut self, report: &StepReport) -> Result<Flow, Refused> {
        let current = self.board.world_generation();
        if current > self.generation {
            return Err(Refused(format!("generation {} of the world is over, {current} is current", self.generation)));
        }
        if self.rank == 0 {
            self.unreported.push(StepLosses {
                step: report.step + 1,
                itc: report.losses.itc,
                itg: report.losses.itg,
                itm: report.losses.itm,
                lr: report.learning_rate,
                seconds: report.seconds,
            });
            if self.reported.elapsed() >= REPORT_INTERVAL || report.step + 1 == report.steps {
                self.report()?;
            }
        }
        Ok(if *self.leave.borrow() || self.board.drained() { Flow::Stop } else { Flow::Continue })
    }

    fn checkpoint(&mut self, step: u64, path: &str, digest: &str, last: bool) -> Result<(), Refused> {
        let request = CommitCheckpointRequest {
            credentials: Some(self.credentials.clone()),
            generation: self.generation,
            incarnation: self.incarnation,
            step,
            path: path.to_owned(),
            digest: digest.to_owned(),
            last,
        };
        let call = self.connection.call("CommitCheckpoint", |mut client| {
            let request = request.clone();
            async move { client.commit_checkpoint(request).await }
        });
        let reply = self.handle.block_on(call).map_err(|e| Refused(e.to_string()))?;
        if reply.accepted { Ok(()) } else { Err(Refused(reply.reason)) }
    }
}
