//! The command line's end of the control socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
};
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

    /// Asks for a resource without end, and hands over each piece as it comes.
    pub async fn follow(
        &self,
        resource: &str,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>, ClientError> {
        let mut body = self.open(Method::GET, resource).await?;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error))?;
            if let Some(Err(error)) = frame.data_ref().map(|data| take(data)) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    async fn request(&self, method: Method, resource: &str) -> Result<Bytes, ClientError> {
        let body = self.open(method, resource).await?;
        Ok(body.collect().await.map_err(|error| self.broken(&error))?.to_bytes())
    }

    fn broken(&self, error: &dyn std::error::Error) -> ClientError {
        ClientError::Broken { path: self.path.clone(), reason: error.to_string() }
    }

    /// The body of a resource, once the daemon has agreed to answer.
    async fn open(&self, method: Method, resource: &str) -> Result<Incoming, ClientError> {
        let path = || self.path.clone();
        let stream = UnixStream::connect(&self.path).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon(path())
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(path()),
            _ => ClientError::Broken { path: path(), reason: error.to_string() },
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(resource)
            .header(hyper::header::HOST, "wgrouted")
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        let body = response.into_body();
        if status.is_success() {
            return Ok(body);
        }
        let text = body.collect().await.map_err(|error| self.broken(&error))?.to_bytes();
        Err(ClientError::Refused(refusal(status, &text)))
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    let error = serde_json::from_slice::<serde_json::Value>(body).ok();
    let text = error.as_ref().and_then(|json| json["error"].as_str());
    text.map_or_else(|| format!("{status}: {}", String::from_utf8_lossy(body)), str::to_owned)
}
