//! A webhook that is told of a change.
//!
//! Here lives one POST request over HTTP/1.1, tried again where that may help.

use std::time::Duration;

use http_body_util::Full;
use hyper::{
    Method, Request, StatusCode, Uri,
    body::Bytes,
    header::{CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

/// Pauses before it is tried again.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// Why it was not told, and whether trying again may help.
struct Refusal {
    why: String,
    passing: bool,
}

impl Refusal {
    fn passing(why: &impl ToString) -> Self {
        Refusal { why: why.to_string(), passing: true }
    }
}

/// Sends it. Each try may take `most`.
pub(super) async fn send(url: &str, body: Bytes, most: Duration) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|error| format!("hook webhook: not a URL: {error}"))?;
    // A URL may hold secrets in its user and query: neither is told.
    let host = uri.host().unwrap_or_default();
    let mut pauses = PAUSES.into_iter();
    loop {
        let refusal = match timeout(most, post(&uri, body.clone())).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(refusal)) => refusal,
            Err(_) => {
                let most = humantime::format_duration(most);
                Refusal::passing(&format_args!("no answer within {most}"))
            }
        };
        match pauses.next() {
            Some(pause) if refusal.passing => sleep(pause).await,
            _ => return Err(format!("hook webhook at {host} was not told: {}", refusal.why)),
        }
    }
}

async fn post(uri: &Uri, body: Bytes) -> Result<(), Refusal> {
    let (Some(authority), Some(host)) = (uri.authority(), uri.host()) else {
        return Err(Refusal { why: "the URL names no host".to_owned(), passing: false });
    };
    // An IPv6 address stands in brackets, which the resolver does not know.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(80);
    let stream =
        TcpStream::connect((host, port)).await.map_err(|error| Refusal::passing(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Refusal::passing(&error))?;
    let connection = tokio::spawn(connection);
    let named = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, rest)| rest);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, named)
        .header(USER_AGENT, concat!("wgrouted/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| Refusal { why: error.to_string(), passing: false })?;
    let answer = sender.send_request(request).await.map_err(|error| Refusal::passing(&error));
    connection.abort();
    let status = answer?.status();
    if status.is_success() {
        return Ok(());
    }
    let passing = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    Err(Refusal { why: format!("it answered {status}"), passing })
}
