//! The control socket: HTTP over a Unix socket.
//!
//! Here live the list of resources and the socket itself. Answers are JSON but for metrics and events.
//! Lists are written row by row while they are sent, so that a full table takes neither the daemon's
//! time nor its memory twice. Invariant: `dist/openapi.json` describes every resource.

use std::{
    io::{self, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Json, Response},
    routing::{self, MethodRouter},
};
use serde::{Deserialize, Serialize};
use tokio::{net::UnixListener, sync::mpsc, task};

use super::{Desk, Stopping, filter, metrics, reach};
use crate::core::engine::Engine;

/// Bytes that are sent in one piece.
const PIECE: usize = 64 << 10;

/// What all of this is, for programs.
pub const OPENAPI: &str = include_str!("../../dist/openapi.json");

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

/// Everything that can be asked for, and how.
fn resources() -> Vec<(&'static str, Method, MethodRouter<Desk>)> {
    let get = |path, handler| (path, Method::GET, handler);
    vec![
        get("/metrics", routing::get(metrics::metrics)),
        get("/v1/events", routing::get(reach::events)),
        get("/v1/exits", routing::get(exits)),
        get("/v1/explain", routing::get(explain)),
        get("/v1/filter", routing::get(filter::show)),
        get("/v1/filter/samples", routing::get(filter::samples)),
        get("/v1/filter/test", routing::get(filter::test)),
        get("/v1/openapi.json", routing::get(openapi)),
        get("/v1/peers", routing::get(reach::peers)),
        get("/v1/pending", routing::get(pending)),
        get("/v1/reachability", routing::get(reach::reachability)),
        ("/v1/resync", Method::POST, routing::post(resync)),
        get("/v1/routes", routing::get(routes)),
        get("/v1/shadowed", routing::get(shadowed)),
        get("/v1/status", routing::get(status)),
        get("/v1/unresolved", routing::get(unresolved)),
    ]
}

/// The paths of all resources, each with its method.
pub fn paths() -> Vec<(&'static str, Method)> {
    resources().into_iter().map(|(path, method, _)| (path, method)).collect()
}

/// Answers to all resources.
pub fn router(desk: Desk) -> Router {
    let resources = resources().into_iter();
    resources
        .fold(Router::new(), |router, (path, _, handler)| router.route(path, handler))
        .with_state(desk)
}

/// Serves until the daemon ends.
pub async fn serve(listener: UnixListener, desk: Desk) -> io::Result<()> {
    axum::serve(listener, router(desk)).await
}

/// `GET /v1/exits`.
async fn exits(State(desk): State<Desk>) -> Response {
    Json(&*desk.exits()).into_response()
}

/// `GET /v1/openapi.json`.
async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
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
    /// The token is missing or wrong.
    Unauthorized,
    /// Not to be asked this way.
    Forbidden(String),
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
            Failure::Unauthorized => {
                let text = "the token is missing or wrong: send the contents of `token_file` as \
                            Authorization: Bearer TOKEN";
                let body = Json(serde_json::json!({ "error": text }));
                let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
                return (StatusCode::UNAUTHORIZED, challenge, body).into_response();
            }
            Failure::Forbidden(text) => (StatusCode::FORBIDDEN, text),
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
    Ok(rows(followed(&desk, interface, question).await?))
}

/// Asks about one interface, which must be followed, or about all.
pub(super) async fn followed<T: Send + 'static>(
    desk: &Desk,
    interface: Option<String>,
    question: impl FnOnce(&Engine, Option<&str>) -> T + Send + 'static,
) -> Result<T, Failure> {
    desk.ask(move |engine| {
        if let Some(name) = &interface
            && !engine.interfaces().any(|i| i.rule().name == *name)
        {
            return Err(Failure::UnknownInterface(name.clone()));
        }
        Ok(question(engine, interface.as_deref()))
    })
    .await?
}

/// A JSON array.
pub(super) fn rows<T: Serialize + Send + 'static>(rows: Vec<T>) -> Response {
    written("application/json", move |out| {
        out.write_all(b"[")?;
        for (at, row) in rows.iter().enumerate() {
            if at > 0 {
                out.write_all(b",")?;
            }
            serde_json::to_writer(&mut *out, row)?;
        }
        out.write_all(b"]")
    })
}

/// What is written is sent piece by piece, as the reader takes it.
pub(super) struct Pieces {
    buffer: Vec<u8>,
    to: mpsc::Sender<Result<Bytes, io::Error>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.buffer).into();
        // The reader may have hung up.
        self.to.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// An answer that is written on another thread.
pub(super) fn written(
    kind: &'static str,
    write: impl FnOnce(&mut Pieces) -> io::Result<()> + Send + 'static,
) -> Response {
    let (to, mut pieces) = mpsc::channel(2);
    task::spawn_blocking(move || {
        let mut out = Pieces { buffer: Vec::new(), to };
        if let Err(error) = write(&mut out).and_then(|()| out.flush()) {
            let _ = out.to.blocking_send(Err(error));
        }
    });
    let body = futures_util::stream::poll_fn(move |context| pieces.poll_recv(context));
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(body)).into_response()
}
