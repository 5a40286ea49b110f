//! The same resources over TCP, for whoever may ask.
//!
//! Here live the listeners of `[api]` and the guard before them. Invariants: with a token, every
//! request bears it; without one, only this machine asks, only reads, and no web page asks through a
//! browser on it. A reload that fails changes nothing.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use tokio::{net::TcpListener, sync::watch};
use tracing::{error, info};

use super::{
    Desk,
    bounded::Bounded,
    http::{self, Failure},
    token::{Token, TokenError},
};
use crate::config::{Api, api::is_local};

/// Connections to one address.
const AT_ONCE: usize = 128;

/// Why nobody can ask over TCP.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}: {}", remedy(.source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// There is no token.
    #[error("token_file {}: {source}", path.display())]
    Token {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: TokenError,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop who listens there, or change `listen` in [api]",
        io::ErrorKind::AddrNotAvailable => {
            "write an address of this machine into `listen` in [api]"
        }
        io::ErrorKind::PermissionDenied => "choose a port above 1023 for `listen` in [api]",
        _ => "change `listen` in [api]",
    }
}

type Secret = Option<Arc<Token>>;

/// Whoever listens.
#[derive(Debug)]
pub struct Tcp {
    desk: Desk,
    token: watch::Sender<Secret>,
    /// Dropping one closes it.
    open: BTreeMap<SocketAddr, watch::Sender<()>>,
}

impl Tcp {
    /// Nobody listens yet.
    pub fn new(desk: Desk) -> Self {
        Tcp { desk, token: watch::channel(None).0, open: BTreeMap::new() }
    }

    /// Listens as configured. Addresses that are kept stay open; who asked with an old token is cut
    /// off.
    pub fn configure(&mut self, api: &Api) -> Result<(), TcpError> {
        let token = match &api.token_file {
            None => None,
            Some(path) => Some(Arc::new(
                Token::read(path)
                    .map_err(|source| TcpError::Token { path: path.clone(), source })?,
            )),
        };
        let fresh = api.listen.iter().filter(|address| !self.open.contains_key(address));
        let fresh: Vec<_> = fresh.map(bind).collect::<Result<_, _>>()?;
        // From here on nothing fails.
        self.open.retain(|address, _| api.listen.contains(address));
        self.token.send_if_modified(|old| {
            let differs = *old != token;
            *old = token;
            differs
        });
        for (address, listener) in fresh {
            self.open.insert(address, self.serve(address, listener));
        }
        Ok(())
    }

    /// Serves until the sender is dropped.
    fn serve(&self, address: SocketAddr, listener: TcpListener) -> watch::Sender<()> {
        let (open, closed) = watch::channel(());
        let guard = Guard {
            local: is_local(&address),
            token: self.token.subscribe(),
            closed: closed.clone(),
        };
        let router = guarded(http::router(self.desk.clone()), guard);
        let listener = Bounded::new(listener, AT_ONCE);
        info!(%address, "answers over TCP");
        tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(over(closed)).await;
            match served {
                Ok(()) => info!(%address, "no longer answers over TCP"),
                Err(error) => error!(%error, %address, "no longer answers over TCP"),
            }
        });
        open
    }
}

fn bind(address: &SocketAddr) -> Result<(SocketAddr, TcpListener), TcpError> {
    let bound = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let listener = bound().map_err(|source| TcpError::Bind { address: *address, source })?;
    Ok((*address, listener))
}

/// Waits until nobody can send any more.
async fn over(mut closed: watch::Receiver<()>) {
    while closed.changed().await.is_ok() {}
}

/// Who may pass.
#[derive(Clone, Debug)]
struct Guard {
    /// Only this machine reaches the address.
    local: bool,
    token: watch::Receiver<Secret>,
    closed: watch::Receiver<()>,
}

fn guarded(router: Router, guard: Guard) -> Router {
    router.layer(middleware::from_fn_with_state(guard, admit))
}

async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut token = guard.token.clone();
    let secret = token.borrow_and_update().clone();
    if let Err(failure) = check(&request, secret.as_deref(), guard.local) {
        return failure.into_response();
    }
    let response = next.run(request).await;
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    // What has no end ends with the listener, and with the token that it was asked for with.
    response.map(|body| {
        let end = async move {
            tokio::select! {
                _ = token.changed() => {}
                () = over(guard.closed) => {}
            }
        };
        Body::from_stream(body.into_data_stream().take_until(Box::pin(end)))
    })
}

fn check(request: &Request, token: Option<&Token>, local: bool) -> Result<(), Failure> {
    if let Some(token) = token {
        let given = request.headers().get(header::AUTHORIZATION);
        let given = given.and_then(|value| value.as_bytes().split_at_checked("Bearer ".len()));
        let (_, given) = given
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "))
            .ok_or(Failure::Unauthorized)?;
        return if token.is(given) { Ok(()) } else { Err(Failure::Unauthorized) };
    }
    if !local {
        return Err(Failure::Unauthorized);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Failure::Forbidden(
            "without a token, TCP is for reading: use the Unix socket, or add `token_file` to \
             [api]"
                .to_owned(),
        ));
    }
    let host = request.headers().get(header::HOST).map(|value| value.to_str().unwrap_or_default());
    let authority = request.uri().authority().map(axum::http::uri::Authority::as_str);
    if !host.into_iter().chain(authority).all(is_this_machine) {
        return Err(Failure::Forbidden(
            "without a token, the Host must be localhost or an address, so that no web page asks \
             by a name of its own: ask by address, or add `token_file` to [api]"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Whether a Host names this machine as no foreign web page can: its name resolves to us only if it
/// is an address, or `localhost` (DNS rebinding).
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::Ipv4Addr>().is_ok()
        || address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().method(method).uri("/v1/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    fn status(failure: Result<(), Failure>) -> u16 {
        failure.err().map_or(200, |failure| failure.into_response().status().as_u16())
    }

    #[test]
    fn without_a_token_this_machine_reads() {
        let get = |host| status(check(&request(Method::GET, &[("host", host)]), None, true));
        for host in ["localhost", "LOCALHOST:9586", "127.0.0.1:9586", "127.0.0.1", "[::1]:9586"] {
            assert_eq!(get(host), 200, "{host}");
        }
        for host in ["evil.example:9586", "localhost.evil.example", "", "::1", "127.0.0.1.x:1"] {
            assert_eq!(get(host), 403, "{host}");
        }
        let post = request(Method::POST, &[("host", "localhost")]);
        assert_eq!(status(check(&post, None, true)), 403);
        let remote = request(Method::GET, &[("host", "192.0.2.1")]);
        assert_eq!(status(check(&remote, None, false)), 401);
    }

    #[test]
    fn with_a_token_everybody_bears_it() {
        let token = Token::of(b"0123456789abcdef").unwrap();
        let ask = |method, headers: &[(&str, &str)], local| {
            status(check(&request(method, headers), Some(&token), local))
        };
        for local in [true, false] {
            let good = ("authorization", "Bearer 0123456789abcdef");
            let host = ("host", "metrics.example");
            assert_eq!(ask(Method::GET, &[good, host], local), 200);
            assert_eq!(
                ask(Method::POST, &[("authorization", "bearer 0123456789abcdef")], local),
                200
            );
            assert_eq!(ask(Method::GET, &[host], local), 401);
            for wrong in ["Bearer 0123456789abcdeg", "Basic 0123456789abcdef", "Bearer", "Bearer "]
            {
                assert_eq!(ask(Method::GET, &[("authorization", wrong)], local), 401, "{wrong}");
            }
        }
    }
}
