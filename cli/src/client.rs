//! The way to a coordinator.

use std::time::Duration;

use quern_proto::coordinator_client::CoordinatorClient;
use quern_proto::{StatusReply, StatusRequest};
use tonic::transport::{Channel, Endpoint};
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
    pub async fn connect(&self) -> Result<CoordinatorClient<Channel>, Failure> {
        let url = &self.url;
        let endpoint = Endpoint::from_shared(url.clone())
            .ok()
            .filter(|endpoint| endpoint.uri().scheme().is_some() && endpoint.uri().host().is_some())
            .ok_or_else(|| Failure::bad_input(format!("`{url}` is no coordinator's URL: write http://HOST:PORT")))?;
        let connected = endpoint.connect_timeout(PATIENCE).connect().await;
        Ok(CoordinatorClient::new(connected.map_err(|error| self.out_of_reach(&chain(&error)))?))
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
