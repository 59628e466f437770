//! A worker's place in the training world: join, connect to the other ranks, train, and report while doing so.
//!
//! A generation of the world ends for this rank when training is complete, when a peer is lost, when the coordinator
//! says that another generation is current, or when the worker is told to leave. Then the agent asks for work again,
//! and is invited to the next generation, which goes on from the last accepted checkpoint.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use quern_collective::{Collective, CollectiveError, NcclCollective, Solo, TcpCollective, TcpOptions};
use quern_proto::join_world_reply::Outcome as Join;
use quern_proto::{JoinWorldRequest, LeaveWorldRequest, World};
use quern_recipes::Recipe;
use quern_trainer::stage2::Beginning;
use quern_trainer::training::{Control, Outcome};
use quern_trainer::{TrainError, stage1, stage2};
use tch::Device;
use tokio::task::{JoinError, spawn_blocking};

use crate::connection::{CallError, PATIENCE};
use crate::error::AgentError;
use crate::post::{Post, noted};
use crate::report::Reporter;

/// How long one collective operation may take. A peer that dies is noticed at once; this bounds one that hangs. It leaves
/// time for the slowest rank to load its models, and for rank 0 to wait for a coordinator that is being restarted.
const COLLECTIVE_DEADLINE: Duration = PATIENCE.saturating_add(Duration::from_secs(60));

/// A worker that takes part.
pub struct Gang<'a>(pub Post<'a>);

/// Why a generation ended early for this rank.
enum Cause {
    /// The worker is leaving, or another rank is, or the run is paused: training stopped with a checkpoint.
    Stopped,
    /// A peer is lost, or the coordinator has gone on to another generation: the next one may do better.
    World(String),
    /// Nothing that another generation would mend.
    Own(String),
}

impl Gang<'_> {
    /// Takes part in this generation, to its end for this rank: then ask the coordinator for work again.
    ///
    /// # Errors
    /// When this worker can't go on at all.
    pub async fn take_part(&self, generation: u64, listener: &TcpListener) -> Result<(), AgentError> {
        let Some(world) = self.join(generation).await? else {
            return Ok(());
        };
        tracing::info!(generation, rank = world.rank, ranks = world.addresses.len(), stage = world.stage, "training");
        self.0.board.set_warm(&world.stage);
        let incarnation = world.incarnation;
        let listener =
            listener.try_clone().map_err(|e| AgentError::Setup(format!("cannot listen for the other ranks: {e}")))?;
        let Err(cause) = self.train(world, listener).await else {
            return Ok(());
        };
        let reason = match &cause {
            Cause::Stopped if *self.0.leave.borrow() || self.0.board.drained() => return Ok(()),
            Cause::Stopped if self.0.board.paused() => "the run is paused",
            Cause::Stopped => "another rank is leaving",
            Cause::World(reason) | Cause::Own(reason) => reason,
        };
        tracing::warn!(generation, reason, "this generation is over for this rank");
        if !matches!(cause, Cause::Own(_)) {
            // The rank that caused this knows more about it: let it be the first to say so.
            let _ = tokio::time::timeout(self.0.member.heartbeat, self.0.board.generation_is_over(generation)).await;
        }
        self.say_that_it_is_over(generation, incarnation, reason).await?;
        match cause {
            Cause::Own(reason) => Err(AgentError::Setup(reason)),
            _ => Ok(()),
        }
    }

    /// Waits until the world runs; `None` when this generation never will, or when the worker is leaving.
    async fn join(&self, generation: u64) -> Result<Option<World>, AgentError> {
        let mut leave = self.0.leave.clone();
        loop {
            let request = JoinWorldRequest { credentials: Some(self.0.member.credentials.clone()), generation };
            let answer = self
                .0
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

    /// Connects to the other ranks and trains to the end, unless the generation ends before.
    async fn train(&self, world: World, listener: TcpListener) -> Result<(), Cause> {
        let generation = world.generation;
        let died = |e: JoinError| Cause::Own(format!("a thread of the training died: {e}"));
        let another = || Cause::World(format!("generation {generation} of the world is over"));
        let mut leave = self.0.leave.clone();
        let task = Task::of(&world, self.0.recipe).map_err(Cause::Own)?;
        let mut reporter = Reporter::start(self.0.connection.clone(), self.0.member.credentials.clone(), &world, {
            let (leave, board) = (self.0.leave.clone(), self.0.board.clone());
            move || *leave.borrow() || board.drained() || board.paused()
        });
        let device = self.0.device;
        let connecting = spawn_blocking(move || connect(world, listener, device));
        let collective = tokio::select! {
            connected = connecting => connected.map_err(died)?.map_err(|e| cause_of(e.into()))?,
            // The thread ends by itself: the newer world's ranks tell it that it is stale.
            _ = self.0.board.generation_is_over(generation) => return Err(another()),
            _ = leave.wait_for(|leaving| *leaving) => return Err(Cause::Stopped),
        };
        let (recipe, world, mut control) = (self.0.recipe.clone(), collective.clone(), reporter.control());
        let mut training = spawn_blocking(move || task.run(&recipe, &*world, device, &mut control).map_err(cause_of));
        let outcome = tokio::select! {
            outcome = &mut training => outcome,
            _ = self.0.board.generation_is_over(generation) => {
                collective.abort();
                training.await
            }
            _ = reporter.refused() => {
                collective.abort();
                training.await
            }
        };
        match outcome.map_err(died)??.complete {
            true => Ok(()),
            false => Err(Cause::Stopped),
        }
    }

    async fn say_that_it_is_over(&self, generation: u64, incarnation: u64, reason: &str) -> Result<(), AgentError> {
        let request = LeaveWorldRequest {
            credentials: Some(self.0.member.credentials.clone()),
            generation,
            incarnation,
            reason: reason.to_owned(),
        };
        let answer = self
            .0
            .connection
            .call("LeaveWorld", |mut client| {
                let request = request.clone();
                async move { client.leave_world(request).await }
            })
            .await;
        noted(answer)
    }
}

/// What a world trains, and from where on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Task {
    /// Stage 1, from this checkpoint or from the beginning.
    Stage1(Option<String>),
    /// Stage 2, from the beginning, after this stage-1 checkpoint.
    Stage2After(String),
    /// Stage 2, from this checkpoint.
    Stage2(String),
}

impl Task {
    /// Errs when the coordinator names what the recipe has not.
    fn of(world: &World, recipe: &Recipe) -> Result<Self, String> {
        let given = |path: &str| (!path.is_empty()).then(|| path.to_owned());
        let resume = given(&world.checkpoint);
        match world.stage.as_str() {
            "stage1" => Ok(Task::Stage1(resume)),
            "stage2" => {
                let named = || recipe.stage2.as_ref().and_then(|stage2| stage2.qformer.clone());
                let stage1 = given(&world.stage1_checkpoint).or_else(named);
                let missing = || "stage 2 is to begin, but no checkpoint of stage 1 is known".to_owned();
                resume.map(Task::Stage2).or(stage1.map(Task::Stage2After)).ok_or_else(missing)
            }
            other => Err(format!("the coordinator wants {other:?} trained, which this version doesn't know")),
        }
    }

    fn run(
        &self,
        recipe: &Recipe,
        collective: &dyn Collective,
        device: Device,
        control: &mut dyn Control,
    ) -> Result<Outcome, TrainError> {
        match self {
            Task::Stage1(resume) => stage1::run(recipe, collective, resume.as_deref(), device, control),
            Task::Stage2After(path) => stage2::run(recipe, collective, Beginning::Stage1(path), device, control),
            Task::Stage2(path) => stage2::run(recipe, collective, Beginning::Checkpoint(path), device, control),
        }
    }
}

fn cause_of(error: TrainError) -> Cause {
    match &error {
        // Without NCCL, the next generation has none either.
        TrainError::Collective(CollectiveError::NcclMissing { .. } | CollectiveError::Usage { .. }) => {
            Cause::Own(error.to_string())
        }
        TrainError::Collective(_) | TrainError::Refused(_) => Cause::World(error.to_string()),
        _ => Cause::Own(error.to_string()),
    }
}

/// The world as a collective: NCCL where this rank has a GPU, else TCP.
fn connect(world: World, listener: TcpListener, device: Device) -> Result<Arc<dyn Collective>, CollectiveError> {
    if world.addresses.len() == 1 {
        return Ok(Arc::new(Solo::new()));
    }
    let options = TcpOptions {
        rank: world.rank as usize,
        token: token(&world),
        addresses: world.addresses,
        deadline: COLLECTIVE_DEADLINE,
    };
    Ok(match device {
        Device::Cuda(ordinal) => Arc::new(NcclCollective::connect(listener, options, ordinal)?),
        _ => Arc::new(TcpCollective::connect(listener, options)?),
    })
}

/// (incarnation, generation) as one number of the same order.
fn token(world: &World) -> u64 {
    (world.incarnation << 32) | (world.generation & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_rise_with_incarnation_then_generation() {
        let token = |incarnation, generation| token(&World { incarnation, generation, ..World::default() });
        assert!(token(1, 1) < token(1, 2));
        assert!(token(1, 900) < token(2, 1));
    }

    #[test]
    fn the_coordinator_says_what_is_trained_from_where_on() {
        let recipe = |qformer: &str| {
            let head = "{\"name\": \"t\", \"output\": \"o\", \"datasets\": [{\"name\": \"w\", \"path\": \"w\", \"capfilt\": false}], ";
            let stage2 =
                "\"stage2\": {\"language_model\": \"m\", \"image_encoder\": \"e\", \"batch\": 1, \"steps\": 3000, ";
            Recipe::from_json(&format!("{head}{stage2}\"qformer\": \"{qformer}\"}}}}")).expect("a sound recipe")
        };
        let world = |stage: &str, checkpoint: &str, stage1: &str| World {
            stage: stage.into(),
            checkpoint: checkpoint.into(),
            stage1_checkpoint: stage1.into(),
            ..World::default()
        };
        let task = |world: World| Task::of(&world, &recipe("named"));
        assert_eq!(task(world("stage1", "", "")), Ok(Task::Stage1(None)));
        assert_eq!(task(world("stage1", "c", "")), Ok(Task::Stage1(Some("c".into()))));
        assert_eq!(task(world("stage2", "", "one")), Ok(Task::Stage2After("one".into())));
        assert_eq!(task(world("stage2", "", "")), Ok(Task::Stage2After("named".into())));
        assert_eq!(task(world("stage2", "two", "one")), Ok(Task::Stage2("two".into())));
        assert!(task(world("stage3", "", "")).is_err_and(|reason| reason.contains("stage3")));
    }

    #[test]
    fn what_the_next_generation_may_mend_is_told_from_what_it_can_not() {
        let lost = CollectiveError::Aborted { operation: quern_collective::Operation::Barrier };
        assert!(matches!(cause_of(lost.into()), Cause::World(_)));
        let missing = CollectiveError::NcclMissing { detail: "libnccl".into() };
        assert!(matches!(cause_of(missing.into()), Cause::Own(reason) if reason.contains("libnccl")));
        assert!(matches!(cause_of(TrainError::Diverged { step: 3 }), Cause::Own(_)));
    }
}
