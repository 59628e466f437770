//! `quern`: the command line and the coordinator. It needs no libtorch; what needs tensors is handed over to
//! `quern-worker`, which lies beside it.
//!
//! `commands/` has one file per command, `launch` starts a coordinator with local workers, `progress` shows how far
//! things are, `outcome` says how a command ended. Exit codes: docs/reference/exit-codes.md.

mod access;
mod client;
mod commands;
mod companion;
mod launch;
mod outcome;
mod progress;
mod signals;
mod view;
mod workers;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use quern_telemetry::{LogOptions, Program};
use tracing::Instrument;
use tracing_subscriber::layer::Identity;

use crate::commands::{
    capfilt, control, coordinator, corpus, demo, doctor, explain, k8s, logs, ls, plan, run, status, submit, tensors,
    watch, worker,
};
use crate::outcome::{Done, Failure};

/// This program, as its logs and traces know it.
const QUERN: Program = Program { name: "quern", version: env!("CARGO_PKG_VERSION"), level: "warn", shows_target: true };

/// Mills raw web image-text pairs into clean captions and trains a Q-Former on them.
#[derive(Parser)]
#[command(
    name = "quern",
    version,
    max_term_width = 110,
    after_help = "Exit codes: 0 done, 1 failed, 2 bad input or usage, 3 done with quarantined shards, 4 cancelled."
)]
struct Arguments {
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Plan(plan::Arguments),
    Run(run::Arguments),
    Coordinator(coordinator::Arguments),
    Worker(worker::Arguments),
    /// Evaluate a checkpoint: `quern eval retrieval …`, `quern eval caption …`. Carried out by quern-worker.
    Eval(tensors::Arguments),
    /// Caption images, or answer prompts about them, with a checkpoint. Carried out by quern-worker.
    Caption(tensors::Arguments),
    /// Write a checkpoint for transformers or LAVIS. Carried out by quern-worker.
    Export(tensors::Arguments),
    Submit(submit::Arguments),
    Ls(ls::Arguments),
    Status(status::Arguments),
    Watch(watch::Arguments),
    Explain(explain::Arguments),
    Logs(logs::Arguments),
    Pause(control::PauseArguments),
    Resume(control::ResumeArguments),
    Cancel(control::CancelArguments),
    Retry(control::RetryArguments),
    Extend(control::ExtendArguments),
    Drain(control::DrainArguments),
    Allow(control::AllowArguments),
    /// Write corpora.
    #[command(subcommand)]
    Corpus(corpus::Command),
    /// Look at what CapFilt wrote.
    #[command(subcommand)]
    Capfilt(capfilt::Command),
    Doctor(doctor::Arguments),
    /// Print a shell's completions: `source <(quern completions bash)`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Carry a run out on Kubernetes.
    #[command(subcommand)]
    K8s(k8s::Command),
    Demo(demo::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let _traces = quern_telemetry::start(QUERN, arguments.log, Identity::new());
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return outcome::exit(Err(Failure::failed(format!("no threads can be started: {error}")))),
    };
    let ended = runtime.block_on(carry_out(arguments.command));
    // A command that is done doesn't wait for what it left behind, such as a name look-up without an answer.
    runtime.shutdown_background();
    outcome::exit(ended)
}

/// A command that asks a coordinator, within a span of its own.
async fn asking(command: &str, asked: impl Future<Output = Result<Done, Failure>>) -> Result<Done, Failure> {
    asked.instrument(tracing::info_span!("command", otel.name = command)).await
}

async fn carry_out(command: Command) -> Result<Done, Failure> {
    match command {
        Command::Plan(arguments) => plan::plan(arguments).await,
        Command::Run(arguments) => run::run(arguments).await,
        Command::Coordinator(arguments) => coordinator::coordinator(arguments).await,
        Command::Worker(arguments) => worker::worker(arguments),
        Command::Eval(arguments) => tensors::hand_over("eval", arguments),
        Command::Caption(arguments) => tensors::hand_over("caption", arguments),
        Command::Export(arguments) => tensors::hand_over("export", arguments),
        Command::Submit(arguments) => asking("submit", submit::submit(arguments)).await,
        Command::Ls(arguments) => asking("ls", ls::ls(arguments)).await,
        Command::Status(arguments) => asking("status", status::status(arguments)).await,
        Command::Watch(arguments) => watch::watch(arguments).await,
        Command::Explain(arguments) => asking("explain", explain::explain(arguments)).await,
        Command::Logs(arguments) => logs::logs(arguments).await,
        Command::Pause(arguments) => asking("pause", control::pause(arguments)).await,
        Command::Resume(arguments) => asking("resume", control::resume(arguments)).await,
        Command::Cancel(arguments) => asking("cancel", control::cancel(arguments)).await,
        Command::Retry(arguments) => asking("retry", control::retry(arguments)).await,
        Command::Extend(arguments) => asking("extend", control::extend(arguments)).await,
        Command::Drain(arguments) => asking("drain", control::drain(arguments)).await,
        Command::Allow(arguments) => asking("allow", control::allow(arguments)).await,
        Command::Corpus(command) => corpus::corpus(command).await,
        Command::Capfilt(command) => capfilt::capfilt(command).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "quern", &mut script);
            // Whoever reads may have enough of it.
            let _ = std::io::stdout().write_all(&script);
            Ok(Done::Completely)
        }
        Command::Doctor(arguments) => doctor::doctor(arguments),
        Command::K8s(command) => k8s::k8s(command),
        Command::Demo(arguments) => demo::demo(arguments).await,
    }
}
