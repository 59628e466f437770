//! What a browser and Prometheus see, on the port of the gRPC service: a page that follows the runs (`assets`, with
//! nothing from elsewhere), their status as JSON and as server-sent events, their shards, rows that were accepted, and
//! `/metrics`. All of it only reads, but for what an operator may ask for (`control`).

mod assets;
mod captions;
mod control;
mod history;
mod shards;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Json};
use axum::routing::{get, post};
use futures::{Stream, StreamExt};
use quern_proto::{RunSummary, StatusReply};
use serde::Serialize;

use crate::access::{Guard, Holds};
use crate::errors::CallError;
use crate::metrics::{self, CoordinatorMetrics, Page};
use crate::runs::{Run, Runs, Stopping};
use crate::status;

use captions::{Captioned, Captions, Cursor};
use shards::{ShardMap, ShardMaps};

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
    metrics: Arc<CoordinatorMetrics>,
    views: Arc<Views>,
}

/// What was made to be looked at, and is kept for a while.
#[derive(Default)]
struct Views {
    shards: ShardMaps,
    captions: Captioned,
}

/// What answers a request that can't be carried out.
type Refused = (StatusCode, String);

impl Web {
    /// What a browser sees of these runs.
    pub fn new(runs: Arc<Runs>, stopping: Stopping, guard: Arc<Guard>, metrics: Arc<CoordinatorMetrics>) -> Self {
        Web { runs, stopping, guard, metrics, views: Arc::default() }
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", get(|| async { assets::page() }))
            .route("/api/runs", get(list))
            .route("/api/runs/{run}/status", get(now))
            .route("/api/runs/{run}/history", get(history))
            .route("/api/runs/{run}/events", get(events))
            .route("/api/runs/{run}/shards", get(shards))
            .route("/api/runs/{run}/captions", get(captions))
            .route("/api/runs/{run}/images", get(images))
            .route("/api/runs/{run}/{command}", post(control::control))
            .route("/api/me", get(me))
            .route("/metrics", get(exposition))
            .with_state(self)
            .merge(assets::router())
    }

    fn run(&self, said: &str) -> Result<Arc<Run>, Refused> {
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

async fn now(State(web): State<Web>, Path(run): Path<String>) -> Result<Json<StatusReply>, Refused> {
    Ok(Json(web.run(&run)?.status().clone()))
}

async fn history(State(web): State<Web>, Path(run): Path<String>) -> Result<Json<History>, Refused> {
    Ok(Json(web.run(&run)?.history().clone()))
}

async fn shards(State(web): State<Web>, Path(run): Path<String>) -> Result<Json<ShardMap>, Refused> {
    let map = web.views.shards.get(&*web.run(&run)?).await;
    map.map(|map| Json(ShardMap::clone(&map))).map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
}

/// Where in the rows a request is: `at=EPOCH-ROW`, which has nothing to be unescaped.
fn cursor(query: Option<&str>) -> Result<Option<Cursor>, Refused> {
    let said = query.and_then(|query| query.strip_prefix("at=")).filter(|said| !said.is_empty());
    let wrong = |said| (StatusCode::BAD_REQUEST, format!("{said:?} is no place in the rows"));
    said.map(|said| Cursor::parse(said).ok_or_else(|| wrong(said))).transpose()
}

async fn captions(
    State(web): State<Web>,
    Path(run): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Captions>, Refused> {
    let cursor = cursor(query.as_deref())?;
    let rows = web.views.captions.rows(&*web.run(&run)?, cursor).await;
    rows.map(Json).map_err(|why| (StatusCode::SERVICE_UNAVAILABLE, why))
}

async fn images(
    State(web): State<Web>,
    Path(run): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<BTreeMap<u64, String>>, Refused> {
    let Some(cursor) = cursor(query.as_deref())? else { return Ok(Json(BTreeMap::new())) };
    let found = web.views.captions.images(&*web.run(&run)?, cursor).await;
    found.map(Json).map_err(|why| (StatusCode::SERVICE_UNAVAILABLE, why))
}

/// What whoever looks may do.
#[derive(Serialize)]
struct Me {
    may_steer: bool,
}

async fn me(Extension(holds): Extension<Holds>) -> Json<Me> {
    Json(Me { may_steer: holds.may_steer })
}

async fn exposition(State(web): State<Web>) -> impl IntoResponse {
    let mut page = Page::default();
    web.metrics.tell(&mut page);
    web.guard.counts().tell(&mut page);
    for run in web.runs.list() {
        let status = run.status().clone();
        metrics::tell_run(&mut page, &status, &run.metrics);
    }
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page.text())
}

/// The status, again whenever it changes, until the run is over.
async fn events(
    State(web): State<Web>,
    Path(run): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refused> {
    let event = |now: StatusReply| Ok(Event::default().json_data(now).expect("a status is plain data"));
    let statuses = status::follow(web.run(&run)?.statuses(), web.stopping.clone());
    Ok(Sse::new(statuses.map(event)).keep_alive(KeepAlive::default()))
}
