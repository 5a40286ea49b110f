//! The command line's end of the control socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, StatusCode, body::Bytes};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::SOCKET;

/// Why the daemon did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no wgrouted listens on {}: start `wgrouted run`, or name the directory of a running one \
         with --runtime-dir", .0.display()
    )]
    NoDaemon(PathBuf),
    /// The socket may not be used.
    #[error("no permission to ask the daemon on {}: run as root", .0.display())]
    Denied(PathBuf),
    /// The conversation broke off.
    #[error("the daemon on {} did not answer: {reason}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The daemon answered that it cannot.
    #[error("{0}")]
    Refused(String),
}

/// The daemon that has this runtime directory.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// Does not connect yet.
    pub fn new(runtime_dir: &Path) -> Self {
        Client { path: runtime_dir.join(SOCKET) }
    }

    /// Asks for a resource.
    pub async fn get(&self, resource: &str) -> Result<Bytes, ClientError> {
        self.request(Method::GET, resource).await
    }

    /// Gives an order.
    pub async fn post(&self, resource: &str) -> Result<Bytes, ClientError> {
        self.request(Method::POST, resource).await
    }

    async fn request(&self, method: Method, resource: &str) -> Result<Bytes, ClientError> {
        let path = || self.path.clone();
        let stream = UnixStream::connect(&self.path).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon(path())
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(path()),
            _ => ClientError::Broken { path: path(), reason: error.to_string() },
        })?;
        let broken =
            |error: hyper::Error| ClientError::Broken { path: path(), reason: error.to_string() };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(resource)
            .header(hyper::header::HOST, "wgrouted")
            .body(Empty::<Bytes>::new())
            .map_err(|error| ClientError::Broken { path: path(), reason: error.to_string() })?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        driver.abort();
        if status.is_success() {
            return Ok(body);
        }
        Err(ClientError::Refused(refusal(status, &body)))
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    let error = serde_json::from_slice::<serde_json::Value>(body).ok();
    let text = error.as_ref().and_then(|json| json["error"].as_str());
    text.map_or_else(|| format!("{status}: {}", String::from_utf8_lossy(body)), str::to_owned)
}
