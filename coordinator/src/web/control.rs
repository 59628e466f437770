//! What an operator asks for from the page. The guard has seen the role already; here is what a browser adds to that:
//! another site's page could send a request in its user's name. Such a page can't set a header of its own without being
//! asked about it first (CORS), and nobody answers that question here.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use quern_machine::{Control, WorkerId};
use serde::Deserialize;

use super::Web;
use crate::errors::CallError;

/// What the page sends along.
pub(super) const HEADER: &str = "x-quern-page";

/// What a request may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// Which worker is sent away.
    #[serde(default)]
    worker: String,
}

pub(super) async fn control(
    State(web): State<Web>,
    Path((run, command)): Path<(String, String)>,
    headers: HeaderMap,
    wish: Json<Wish>,
) -> Result<StatusCode, (StatusCode, String)> {
    if !headers.contains_key(HEADER) {
        return Err((StatusCode::FORBIDDEN, format!("requests to steer a run carry the header {HEADER}\n")));
    }
    let reason = "asked for on the page".to_owned();
    let control = match &*command {
        "pause" => Control::Pause { reason },
        "resume" => Control::Resume,
        "cancel" => Control::Cancel { reason },
        "drain" => {
            let worker = wish.worker.strip_prefix('w').and_then(|number| number.parse().ok()).map(WorkerId);
            let unknown = || (StatusCode::BAD_REQUEST, format!("{:?} is no worker's id\n", wish.worker));
            Control::Drain { worker: worker.ok_or_else(unknown)?, reason }
        }
        _ => return Err((StatusCode::NOT_FOUND, "a run can be paused, resumed, cancelled, a worker drained\n".into())),
    };
    let told = web.run(&run)?.control(control).await;
    told.map(|()| StatusCode::NO_CONTENT).map_err(|error| {
        let code = match error {
            CallError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        };
        (code, format!("{error}\n"))
    })
}
