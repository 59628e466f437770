//! `quern-worker`: the agent, one process per device, and the commands that need tensors.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use quern_proto::client::ClientOptions;
use quern_recipes::ImageLimits;
use quern_telemetry::{LogOptions, Program};
use quern_worker::agent::{self, AgentEnd, AgentOptions};
use quern_worker::faults::{Fault, Script};
use quern_worker::outbox::Outbox;
use quern_worker::{apart, calibrate, caption, doctor, evaluate, export, torch};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Exit code after SIGTERM: 128 + 15.
const TERMINATED: u8 = 143;

/// This program, as its logs and traces know it.
const WORKER: Program =
    Program { name: "quern-worker", version: env!("CARGO_PKG_VERSION"), level: "info", shows_target: false };

#[derive(Parser)]
#[command(
    name = "quern-worker",
    version,
    about = "Works for a quern coordinator; carries out the commands that need tensors."
)]
struct Arguments {
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Works for a coordinator until its run is over.
    Run(RunArguments),
    /// Measures a checkpoint.
    #[command(subcommand)]
    Eval(evaluate::Command),
    /// Captions images, or answers prompts about them, with a checkpoint.
    Caption(caption::CaptionArguments),
    /// Writes a checkpoint for transformers or LAVIS.
    Export(export::Arguments),
    /// Prints what libtorch, CUDA and NCCL are here, as JSON.
    Doctor,
    /// Decodes what another worker sends it.
    #[command(hide = true)]
    Decode(DecodeArguments),
    /// Measures how fast rows that it is sent are captioned and ranked.
    #[command(hide = true)]
    Calibrate {
        /// auto, cpu or cuda:N.
        #[arg(long, default_value = "auto")]
        device: String,
    },
}

#[derive(Args)]
struct DecodeArguments {
    /// The recipe's `limits`, as JSON.
    #[arg(long, value_parser = |text: &str| serde_json::from_str::<ImageLimits>(text))]
    limits: ImageLimits,
    /// Scripted faults, for tests.
    #[arg(long, hide = true)]
    fault: Vec<Fault>,
}

#[derive(Args)]
struct RunArguments {
    /// The coordinator's address, http://HOST:PORT or https://HOST:PORT.
    #[arg(long)]
    coordinator: String,
    #[command(flatten)]
    client: ClientOptions,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// How this worker is called in the status; default: worker-PID.
    #[arg(long)]
    name: Option<String>,
    /// Address of this machine at which the other ranks reach it.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Scripted faults, for tests.
    #[arg(long, hide = true)]
    fault: Vec<Fault>,
}

fn main() -> ExitCode {
    quern_models::memory::keep_freed_memory();
    let arguments = Arguments::parse();
    let outbox = Outbox::new(arguments.command.name());
    // Writes the log to standard error, and keeps it for the coordinator.
    let _traces = quern_telemetry::start(WORKER, arguments.log, outbox.layer());
    torch::open_cuda();
    let outcome = match arguments.command {
        Command::Run(arguments) => run(arguments, outbox),
        Command::Eval(command) => evaluate::run(command).map(|()| ExitCode::SUCCESS),
        Command::Caption(arguments) => caption::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Export(arguments) => export::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Decode(DecodeArguments { limits, fault }) => apart::decode(&limits, &Script::new(fault))
            .map(|()| ExitCode::SUCCESS)
            .map_err(|error| format!("the worker that sends the images is gone: {error}")),
        Command::Calibrate { device } => calibrate::run(&device).map(|()| ExitCode::SUCCESS),
        Command::Doctor => {
            println!("{}", doctor::report());
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|message| {
        quern_telemetry::say_failure(WORKER.name, &message);
        ExitCode::FAILURE
    })
}

impl Command {
    /// How this worker is called.
    fn name(&self) -> String {
        match self {
            Command::Run(RunArguments { name: Some(name), .. }) => name.clone(),
            _ => format!("worker-{}", std::process::id()),
        }
    }
}

fn run(arguments: RunArguments, log: Outbox) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| format!("the async runtime does not start: {error}"))?;
    let outcome = runtime.block_on(work(arguments, log));
    // A thread that still waits for a peer must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn work(arguments: RunArguments, log: Outbox) -> Result<ExitCode, String> {
    let (leave, leaving) = watch::channel(false);
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            tracing::warn!("signals can't be heard: a SIGTERM ends this worker at once");
            return leave.closed().await;
        };
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("told to leave: handing the work back");
        leave.send_replace(true);
        leave.closed().await;
    });
    let options = AgentOptions {
        coordinator: arguments.coordinator,
        client: arguments.client,
        device: arguments.device,
        name: log.name().to_owned(),
        host: arguments.host,
        script: Script::new(arguments.fault),
        log,
    };
    match agent::run(options, leaving).await {
        Ok(AgentEnd::Finished | AgentEnd::SentAway) => Ok(ExitCode::SUCCESS),
        Ok(AgentEnd::Left) => Ok(ExitCode::from(TERMINATED)),
        Err(error) => Err(error.to_string()),
    }
}
