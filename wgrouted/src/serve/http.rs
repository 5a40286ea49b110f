//! The control socket: HTTP over a Unix socket.
//!
//! Here live the resources and the socket itself. Every answer is JSON. Lists are written row by
//! row while they are sent, so that a full table takes neither the daemon's time nor its memory
//! twice.

use std::{
    io,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Json, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::{net::UnixListener, sync::mpsc, task};

use super::{Desk, Stopping, filter};
use crate::core::engine::Engine;

/// Rows written in one piece.
const ROWS: usize = 1024;

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon listens.
    #[error(
        "another wgrouted listens on {}: stop it, or choose another directory with --runtime-dir",
        .0.display()
    )]
    InUse(PathBuf),
    /// The system refused.
    #[error("cannot open the control socket {}: {source}", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Opens the socket. A dead one that a crash left behind is replaced; a live one never.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let system = |source| SocketError::System { path: path.to_owned(), source };
    if UnixStream::connect(path).is_ok() {
        return Err(SocketError::InUse(path.to_owned()));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(system(error)),
        _ => {}
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(system)?;
    }
    let listener = UnixListener::bind(path).map_err(system)?;
    // Nothing secret is told, but only the group may ask and order.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(system)?;
    Ok(listener)
}

/// Serves until the daemon ends.
pub async fn serve(listener: UnixListener, desk: Desk) -> io::Result<()> {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/routes", get(routes))
        .route("/v1/pending", get(pending))
        .route("/v1/peers", get(peers))
        .route("/v1/unresolved", get(unresolved))
        .route("/v1/shadowed", get(shadowed))
        .route("/v1/explain", get(explain))
        .route("/v1/filter", get(filter::show))
        .route("/v1/filter/test", get(filter::test))
        .route("/v1/filter/samples", get(filter::samples))
        .route("/v1/resync", post(resync))
        .with_state(desk);
    axum::serve(listener, router).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    pub(super) interface: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    address: std::net::IpAddr,
    interface: Option<String>,
}

/// Why a question has no answer.
pub(super) enum Failure {
    Stopping(Stopping),
    UnknownInterface(String),
    NotFiltered(String),
    Wrong(String),
}

impl From<Stopping> for Failure {
    fn from(stopping: Stopping) -> Self {
        Failure::Stopping(stopping)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Failure::Stopping(stopping) => (StatusCode::SERVICE_UNAVAILABLE, stopping.to_string()),
            Failure::UnknownInterface(name) => {
                (StatusCode::NOT_FOUND, format!("this daemon does not follow interface {name}"))
            }
            Failure::NotFiltered(name) => {
                let which = if name.is_empty() { "no interface".to_owned() } else { name };
                let text = format!("{which} is filtered: add [interface.filter] and reload");
                (StatusCode::NOT_FOUND, text)
            }
            Failure::Wrong(text) => (StatusCode::BAD_REQUEST, text),
        };
        (status, Json(serde_json::json!({ "error": error }))).into_response()
    }
}

async fn status(State(desk): State<Desk>) -> Result<Response, Failure> {
    Ok(Json(desk.ask(|engine| engine.status()).await?).into_response())
}

async fn routes(desk: State<Desk>, selection: Query<Selection>) -> Result<Response, Failure> {
    list(desk, selection, |engine, only| engine.routes(only)).await
}

async fn pending(desk: State<Desk>, selection: Query<Selection>) -> Result<Response, Failure> {
    list(desk, selection, |engine, only| engine.pending(only)).await
}

async fn peers(desk: State<Desk>, selection: Query<Selection>) -> Result<Response, Failure> {
    list(desk, selection, |engine, only| engine.peers(only)).await
}

async fn unresolved(desk: State<Desk>, selection: Query<Selection>) -> Result<Response, Failure> {
    list(desk, selection, |engine, only| engine.unresolved(only)).await
}

async fn shadowed(desk: State<Desk>, selection: Query<Selection>) -> Result<Response, Failure> {
    list(desk, selection, |engine, only| engine.shadowed(only)).await
}

async fn explain(
    desk: State<Desk>,
    Query(Address { address, interface }): Query<Address>,
) -> Result<Response, Failure> {
    let selection = Query(Selection { interface });
    list(desk, selection, move |engine, only| engine.explain(address, only)).await
}

async fn resync(State(desk): State<Desk>) -> Result<StatusCode, Failure> {
    desk.resync().await?;
    Ok(StatusCode::ACCEPTED)
}

/// Answers with a list.
async fn list<T: Serialize + Send + 'static>(
    State(desk): State<Desk>,
    Query(Selection { interface }): Query<Selection>,
    question: impl FnOnce(&Engine, Option<&str>) -> Vec<T> + Send + 'static,
) -> Result<Response, Failure> {
    let rows = desk
        .ask(move |engine| {
            if let Some(name) = &interface
                && !engine.interfaces().any(|i| i.rule().name == *name)
            {
                return Err(Failure::UnknownInterface(name.clone()));
            }
            Ok(question(engine, interface.as_deref()))
        })
        .await??;
    Ok(stream(rows))
}

/// A JSON array, written piece by piece on another thread as the reader takes it.
fn stream<T: Serialize + Send + 'static>(rows: Vec<T>) -> Response {
    let (pieces, mut written) = mpsc::channel::<Result<Bytes, io::Error>>(2);
    task::spawn_blocking(move || {
        let mut buffer = vec![b'['];
        for (at, row) in rows.iter().enumerate() {
            if at > 0 {
                buffer.push(b',');
            }
            if let Err(error) = serde_json::to_writer(&mut buffer, row) {
                let _ = pieces.blocking_send(Err(error.into()));
                return;
            }
            if at % ROWS == ROWS - 1
                && pieces.blocking_send(Ok(std::mem::take(&mut buffer).into())).is_err()
            {
                return;
            }
        }
        buffer.push(b']');
        let _ = pieces.blocking_send(Ok(buffer.into()));
    });
    let body = futures_util::stream::poll_fn(move |context| written.poll_recv(context));
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response()
}
