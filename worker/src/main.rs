//! `quern-worker`: the agent, one process per device, and the commands that need tensors.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use quern_proto::client::ClientOptions;
use quern_worker::agent::{self, AgentEnd, AgentOptions};
use quern_worker::faults::{Fault, Script};
use quern_worker::outbox::Outbox;
use quern_worker::{caption, doctor, evaluate, export, torch};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Exit code after SIGTERM: 128 + 15.
const TERMINATED: u8 = 143;

#[derive(Parser)]
#[command(
    name = "quern-worker",
    version,
    about = "Works for a quern coordinator; carries out the commands that need tensors."
)]
struct Arguments {
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
    torch::open_cuda();
    let arguments = Arguments::parse();
    let outbox = Outbox::new(arguments.command.name());
    log(&outbox);
    let outcome = match arguments.command {
        Command::Run(arguments) => run(arguments, outbox),
        Command::Eval(command) => evaluate::run(command).map(|()| ExitCode::SUCCESS),
        Command::Caption(arguments) => caption::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Export(arguments) => export::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Doctor => {
            println!("{}", doctor::report());
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|message| {
        eprintln!("quern-worker: {}", quern_recipes::redacted(&message));
        ExitCode::FAILURE
    })
}

/// Writes the log to standard error, and keeps it for the coordinator.
fn log(outbox: &Outbox) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| quern_recipes::Redacting(std::io::stderr()))
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).with(outbox.layer()).init();
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
