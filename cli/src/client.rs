//! The way to a coordinator.

use std::time::Duration;

use quern_proto::client::{Client, ClientError, ClientOptions};
use quern_proto::{StatusReply, StatusRequest};
use tonic::{Code, Status};

use crate::outcome::{Failure, chain};

/// Where a coordinator listens when nothing else is said.
const DEFAULT_URL: &str = "http://127.0.0.1:7077";

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which coordinator.
#[derive(clap::Args)]
pub struct Place {
    /// The coordinator's URL.
    #[arg(long = "coordinator", visible_alias = "to", value_name = "URL", default_value = DEFAULT_URL)]
    pub url: String,
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Which run of which coordinator.
#[derive(clap::Args)]
pub struct RunPlace {
    #[command(flatten)]
    pub place: Place,
    /// The run: its id, the start of it, or its name [default: the first that is not over, or the last].
    #[arg(default_value = "", hide_default_value = true)]
    pub run: String,
}

impl Place {
    /// A client of the coordinator.
    pub async fn connect(&self) -> Result<Client, Failure> {
        let endpoint = self.client.endpoint(&self.url).map_err(|error| self.unusable(&error))?;
        let connected = endpoint.connect_timeout(PATIENCE).connect().await;
        let channel = connected.map_err(|error| self.out_of_reach(&chain(&error)))?;
        self.client.client(channel).map_err(|error| self.unusable(&error))
    }

    fn unusable(&self, error: &ClientError) -> Failure {
        Failure::bad_input(match error {
            ClientError::Address => format!("`{}`: {error}", self.url),
            _ => error.to_string(),
        })
    }

    /// A run's status, asked once.
    pub async fn status(&self, run: &str) -> Result<StatusReply, Failure> {
        let mut request = tonic::Request::new(StatusRequest { run: run.into() });
        request.set_timeout(PATIENCE);
        let reply = self.connect().await?.status(request).await.map_err(|status| self.refused(&status))?;
        Ok(reply.into_inner())
    }

    /// One sentence for a call that has no good answer.
    pub fn refused(&self, status: &Status) -> Failure {
        match status.code() {
            Code::FailedPrecondition | Code::NotFound | Code::InvalidArgument => Failure::bad_input(status.message()),
            Code::Unauthenticated | Code::PermissionDenied => {
                Failure::failed(format!("{} refuses: {}", self.url, status.message()))
            }
            _ => self.out_of_reach(status.message()),
        }
    }

    /// One sentence for a coordinator that doesn't answer.
    pub fn out_of_reach(&self, reason: &str) -> Failure {
        Failure::failed(format!(
            "no coordinator answers at {} ({reason}): check that `quern coordinator` or `quern run` is up there and that \
             this machine reaches its port",
            self.url
        ))
    }
}
