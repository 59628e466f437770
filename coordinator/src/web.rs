//! What a browser and Prometheus see, on the port of the gRPC service: a page that follows the run (`page.html`, with
//! nothing from elsewhere), the status as JSON and as server-sent events, and `/metrics`. All of it only reads.

mod history;
mod metrics;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Json};
use axum::routing::get;
use futures::{Stream, StreamExt};
use quern_proto::StatusReply;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::status;

use history::History;

/// Nothing but what the page itself holds, and calls back to the coordinator.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Web {
    status: watch::Receiver<StatusReply>,
    /// Turns true when the server stops: streams end.
    stopping: watch::Receiver<bool>,
    history: Arc<Mutex<History>>,
}

impl Web {
    pub fn new(status: watch::Receiver<StatusReply>, stopping: watch::Receiver<bool>) -> Self {
        Web { status, stopping, history: Arc::default() }
    }

    /// Keeps the history of the run while it changes; ends with the ledger.
    pub async fn remember(self, clock: Arc<dyn Clock>) {
        let mut status = self.status.clone();
        status.mark_changed();
        while status.changed().await.is_ok() {
            let now = status.borrow_and_update().clone();
            self.history().add(clock.now_ms(), &now);
        }
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", get(page))
            .route("/api/status", get(now))
            .route("/api/history", get(history))
            .route("/api/events", get(events))
            .route("/metrics", get(exposition))
            .with_state(self)
    }

    fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn page() -> impl IntoResponse {
    ([(CONTENT_SECURITY_POLICY, POLICY), (CACHE_CONTROL, "no-store")], Html(include_str!("web/page.html")))
}

async fn now(State(web): State<Web>) -> Json<StatusReply> {
    Json(web.status.borrow().clone())
}

async fn history(State(web): State<Web>) -> Json<History> {
    Json(web.history().clone())
}

async fn exposition(State(web): State<Web>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::exposition(&web.status.borrow()))
}

/// The status, again whenever it changes, until the run is over.
async fn events(State(web): State<Web>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let event = |now: StatusReply| Ok(Event::default().json_data(now).expect("a status is plain data"));
    Sse::new(status::follow(web.status, web.stopping).map(event)).keep_alive(KeepAlive::default())
}
