//! `quern k8s …`: a run's workers as Kubernetes resources. The coordinator's own install is `k8s/base`.

mod access;
mod gang;
mod job;
mod jobset;
mod pod;
mod render;

use crate::outcome::{Done, Failure};

/// What there is to do for Kubernetes.
#[derive(clap::Subcommand)]
pub enum Command {
    Render(render::Arguments),
}

/// Carries out the command.
pub fn k8s(command: Command) -> Result<Done, Failure> {
    match command {
        Command::Render(arguments) => render::render(arguments),
    }
}
