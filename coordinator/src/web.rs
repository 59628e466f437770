//! What a browser and Prometheus see, on the port of the gRPC service: a page that follows the runs (`assets`, with
//! nothing from elsewhere), their status as JSON and as server-sent events, and `/metrics`. All of it only reads.

mod assets;
mod history;
mod metrics;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use futures::{Stream, StreamExt};
use quern_proto::{RunSummary, StatusReply};

use crate::access::Guard;
use crate::errors::CallError;
use crate::runs::{Run, Runs, Stopping};
use crate::status;

pub(crate) use assets::{PATH as ASSETS_PATH, login as login_page};
pub(crate) use history::History;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Web {
    pub runs: Arc<Runs>,
    /// Turns true when the server stops: streams end.
    pub stopping: Stopping,
    /// What counts those who aren't let in.
    pub guard: Arc<Guard>,
}

impl Web {
    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", get(|| async { assets::page() }))
            .route("/api/runs", get(list))
            .route("/api/runs/{run}/status", get(now))
            .route("/api/runs/{run}/history", get(history))
            .route("/api/runs/{run}/events", get(events))
            .route("/metrics", get(exposition))
            .with_state(self)
            .merge(assets::router())
    }

    fn run(&self, said: &str) -> Result<Arc<Run>, (StatusCode, String)> {
        self.runs.named(said).map_err(|error| {
            let code = match error {
                CallError::SeveralRuns { .. } => StatusCode::BAD_REQUEST,
                _ => StatusCode::NOT_FOUND,
            };
            (code, error.to_string())
        })
    }
}

async fn list(State(web): State<Web>) -> Json<Vec<RunSummary>> {
    Json(web.runs.list().iter().map(|run| run.summary()).collect())
}

async fn now(State(web): State<Web>, Path(run): Path<String>) -> Result<Json<StatusReply>, (StatusCode, String)> {
    Ok(Json(web.run(&run)?.status().clone()))
}

async fn history(State(web): State<Web>, Path(run): Path<String>) -> Result<Json<History>, (StatusCode, String)> {
    Ok(Json(web.run(&run)?.history().clone()))
}

async fn exposition(State(web): State<Web>) -> impl IntoResponse {
    let statuses: Vec<StatusReply> = web.runs.list().iter().map(|run| run.status().clone()).collect();
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::exposition(&statuses) + &web.guard.counts().exposition())
}

/// The status, again whenever it changes, until the run is over.
async fn events(
    State(web): State<Web>,
    Path(run): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, (StatusCode, String)> {
    let event = |now: StatusReply| Ok(Event::default().json_data(now).expect("a status is plain data"));
    let statuses = status::follow(web.run(&run)?.statuses(), web.stopping.clone());
    Ok(Sse::new(statuses.map(event)).keep_alive(KeepAlive::default()))
}
