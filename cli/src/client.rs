//! The way to a coordinator.

use quern_proto::coordinator_client::CoordinatorClient;
use quern_proto::{StatusReply, StatusRequest};
use tonic::transport::{Channel, Endpoint};

use std::time::Duration;

use crate::outcome::{Failure, chain};

/// Where a coordinator listens when nothing else is said.
pub const DEFAULT_URL: &str = "http://127.0.0.1:7077";

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client of the coordinator at `url`, such as `http://10.0.0.4:7077`.
pub async fn connect(url: &str) -> Result<CoordinatorClient<Channel>, Failure> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .ok()
        .filter(|endpoint| endpoint.uri().scheme().is_some() && endpoint.uri().host().is_some())
        .ok_or_else(|| Failure::bad_input(format!("`{url}` is no coordinator's URL: write http://HOST:PORT")))?;
    let channel =
        endpoint.connect_timeout(PATIENCE).connect().await.map_err(|error| out_of_reach(url, &chain(&error)))?;
    Ok(CoordinatorClient::new(channel))
}

/// The run's status, asked once.
pub async fn status(url: &str) -> Result<StatusReply, Failure> {
    let mut client = connect(url).await?;
    let mut request = tonic::Request::new(StatusRequest {});
    request.set_timeout(PATIENCE);
    let reply = client.status(request).await.map_err(|status| out_of_reach(url, status.message()))?;
    Ok(reply.into_inner())
}

/// One sentence for a coordinator that doesn't answer.
pub fn out_of_reach(url: &str, reason: &str) -> Failure {
    Failure::failed(format!(
        "no coordinator answers at {url} ({reason}): check that `quern coordinator` or `quern run` is up there and that \
         this machine reaches its port"
    ))
}
