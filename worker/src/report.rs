//! What rank 0 tells the coordinator while it trains: steps, beside the training, and checkpoints, which it waits for.

use quern_proto::{CommitCheckpointRequest, Credentials, ReportStepsRequest, StepLosses, World};
use quern_trainer::Refused;
use quern_trainer::step::Losses;
use quern_trainer::training::{Control, Flow, StageLosses, StepReport};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use crate::connection::{CallError, Connection};
use crate::spans;

/// What the training thread hands to the reporting task.
enum Told {
    Step(StepLosses),
    /// Answered when everything before it has been reported.
    Flush(oneshot::Sender<()>),
}

/// The reporting task of one generation; it ends with this value.
pub struct Reporter {
    place: Place,
    told: mpsc::UnboundedSender<Told>,
    wants_to_stop: Option<Box<dyn Fn() -> bool + Send>>,
    task: JoinHandle<()>,
}

/// Whose reports they are.
#[derive(Clone)]
struct Place {
    connection: Connection,
    credentials: Credentials,
    generation: u64,
    incarnation: u64,
    rank: u32,
}

impl Reporter {
    /// Starts the task. `wants_to_stop` is asked after every step.
    pub fn start(
        connection: Connection,
        credentials: Credentials,
        world: &World,
        wants_to_stop: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        let World { generation, incarnation, rank, .. } = *world;
        let place = Place { connection, credentials, generation, incarnation, rank };
        let (told, hears) = mpsc::unbounded_channel();
        let task = tokio::spawn(report(place.clone(), hears));
        Reporter { place, told, wants_to_stop: Some(Box::new(wants_to_stop)), task }
    }

    /// The training thread's end of it; there is one.
    pub fn control(&mut self) -> impl Control + Send + 'static {
        ToCoordinator {
            place: self.place.clone(),
            told: self.told.clone(),
            wants_to_stop: self.wants_to_stop.take().expect("one training per generation"),
            handle: Handle::current(),
            generation: Span::current(),
            stretch: None,
        }
    }

    /// Returns when the coordinator has refused a report: this generation is not the current one.
    pub async fn refused(&mut self) {
        // A panic of the task ends the training as well.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reports steps as they come, many at a time when the coordinator is slow; ends when one is refused.
async fn report(place: Place, mut hears: mpsc::UnboundedReceiver<Told>) {
    let mut batch = Vec::new();
    while hears.recv_many(&mut batch, 4_096).await > 0 {
        let (mut steps, mut waiting) = (Vec::new(), Vec::new());
        for told in batch.drain(..) {
            match told {
                Told::Step(losses) => steps.push(losses),
                Told::Flush(done) => waiting.push(done),
            }
        }
        if !steps.is_empty()
            && let Err(error) = place.report(steps).await
        {
            tracing::warn!(%error, "the coordinator takes no more steps of this generation");
            return;
        }
        for done in waiting {
            // Who no longer waits needs no answer.
            let _ = done.send(());
        }
    }
    // All senders are gone: the generation is over, and its owner drops this task.
    std::future::pending().await
}

impl Place {
    async fn report(&self, steps: Vec<StepLosses>) -> Result<(), CallError> {
        let request = ReportStepsRequest {
            credentials: Some(self.credentials.clone()),
            generation: self.generation,
            incarnation: self.incarnation,
            steps,
        };
        let call = self.connection.call("ReportSteps", |mut client| {
            let request = request.clone();
            async move { client.report_steps(request).await }
        });
        call.await.map(drop)
    }

    async fn commit(&self, step: u64, path: &str, digest: &str, last: bool) -> Result<(), Refused> {
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
        let reply = call
            .instrument(spans::call!("commit_checkpoint", "CommitCheckpoint"))
            .await
            .map_err(|error| Refused(error.to_string()))?;
        if reply.accepted { Ok(()) } else { Err(Refused(reply.reason)) }
    }
}

fn to_wire(report: &StepReport) -> StepLosses {
    let step = StepLosses {
        step: report.step + 1,
        lr: report.learning_rate,
        seconds: report.seconds,
        ..StepLosses::default()
    };
    match report.losses {
        StageLosses::Stage1(Losses { itc, itg, itm }) => StepLosses { itc, itg, itm, ..step },
        StageLosses::Stage2 { lm } => StepLosses { lm: Some(lm), ..step },
    }
}

/// The training thread's end.
struct ToCoordinator {
    place: Place,
    told: mpsc::UnboundedSender<Told>,
    wants_to_stop: Box<dyn Fn() -> bool + Send>,
    handle: Handle,
    /// The span that all of it is part of.
    generation: Span,
    /// The span of the steps since the last checkpoint.
    stretch: Option<Span>,
}

impl ToCoordinator {
    fn tell(&self, told: Told) -> Result<(), Refused> {
        let gone = || Refused(format!("generation {} of the world is over", self.place.generation));
        self.told.send(told).map_err(|_| gone())
    }
}

impl Control for ToCoordinator {
    fn steps(&mut self, report: &StepReport) -> Result<Flow, Refused> {
        let new = || info_span!(parent: &self.generation, "steps", first = report.step as i64 + 1, last = Empty);
        self.stretch.get_or_insert_with(new);
        if self.place.rank == 0 {
            self.tell(Told::Step(to_wire(report)))?;
        }
        Ok(if (self.wants_to_stop)() { Flow::Stop } else { Flow::Continue })
    }

    fn checkpoint(&mut self, step: u64, path: &str, digest: &str, last: bool) -> Result<(), Refused> {
        let stretch = self.stretch.take().unwrap_or_else(Span::none);
        stretch.record("last", step as i64);
        // Its steps first: with the last checkpoint the run is over, and then none is heard any more.
        let (done, reported) = oneshot::channel();
        self.tell(Told::Flush(done))?;
        self.handle.block_on(async {
            reported.await.map_err(|_| Refused("the coordinator takes no more steps of this generation".into()))?;
            self.place.commit(step, path, digest, last).instrument(stretch).await
        })
    }
}
