//! A connection to a routing daemon's control socket, kept up.
//!
//! Here lives [`follow`], which drives a machine of [`crate::core::reach::dialogue`] for as long as the
//! daemon runs: connects, again and again with growing pauses, passes pictures and bytes, and tells
//! how it fares. What is said and where to connect is the sinks' business ([`Sink`]). Invariant: at
//! the end, and before the socket becomes another one, the machine may hand back what it holds.

use std::{
    future::pending,
    io,
    net::Ipv6Addr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::watch,
    time::{sleep, timeout},
};

use super::{Feed, board::SinkStatus};
use crate::core::{
    reach::{
        dialogue::{Dialogue, Step},
        rule::{BabeldSocket, ReachRule},
        status::Reachability,
    },
    time::Time,
};

/// The pause after a failed connection, doubled with each.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: how late a daemon that was restarted is noticed.
const PAUSE_MOST: Duration = Duration::from_secs(10);
/// How long handing back may take; systemd kills after 90 s.
const FAREWELL: Duration = Duration::from_secs(2);
/// A local socket that takes no connection or no command for this long is stuck.
const STUCK: Duration = Duration::from_secs(10);
/// Pictures that differ in figures only are looked at this often.
const GLANCE: Duration = Duration::from_secs(1);

/// One kind of routing daemon.
pub(super) trait Sink: Default {
    /// Its machine.
    type Machine: Dialogue + Default;
    /// Its name on the board.
    const NAME: &'static str;
    /// What the socket is called in a sentence.
    const SOCKET: &'static str;
    /// Where the daemon listens.
    fn address(rule: &ReachRule) -> Option<BabeldSocket>;
    /// What to do about a socket that cannot be connected to.
    fn remedy(error: &io::Error) -> &'static str;
    /// Passes on what happened.
    fn tell(&mut self, notice: <Self::Machine as Dialogue>::Notice, feed: &Feed);
}

/// Why a connection is no longer served.
enum End {
    /// The daemon stops.
    Stopping,
    /// The configuration names another socket, or none.
    Elsewhere,
    /// It broke, or is of no use.
    Failed(String),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Keeps a daemon in line until this one stops.
pub(super) async fn follow<S: Sink>(feed: Feed) {
    let mut follower: Follower<S> = Follower { feed, sink: S::default(), error: None };
    let mut rule = follower.feed.rule.clone();
    let mut stopping = follower.feed.stopping.clone();
    while !*stopping.borrow_and_update() {
        let address = S::address(&rule.borrow_and_update());
        match address {
            Some(address) => follower.keep_up(&address).await,
            None => {
                tokio::select! {
                    () = changed(&mut rule) => {}
                    () = changed(&mut stopping) => {}
                }
            }
        }
    }
}

/// Waits for a new value; for ever if there will be none.
async fn changed<T>(values: &mut watch::Receiver<T>) {
    if values.changed().await.is_err() {
        pending::<()>().await;
    }
}

struct Follower<S> {
    feed: Feed,
    sink: S,
    error: Option<String>,
}

impl<S: Sink> Follower<S> {
    /// Serves one address until it is no longer the right one.
    async fn keep_up(&mut self, address: &BabeldSocket) {
        let mut machine = S::Machine::default();
        let mut pause = PAUSE;
        let mut rule = self.feed.rule.clone();
        let mut stopping = self.feed.stopping.clone();
        loop {
            if *stopping.borrow_and_update() {
                return;
            }
            if S::address(&rule.borrow_and_update()).as_ref() != Some(address) {
                self.error = None;
                self.feed.board.wipe(S::NAME);
                return;
            }
            let begun = Instant::now();
            let why = match timeout(STUCK, connect(address)).await {
                Ok(Ok(stream)) => match self.serve(&mut machine, stream, address).await {
                    End::Failed(why) => why,
                    End::Stopping | End::Elsewhere => continue,
                },
                Ok(Err(error)) => format!("{error}; {}", S::remedy(&error)),
                Err(_) => "it takes no connection; see whether the daemon hangs".to_owned(),
            };
            self.fail(address, &why);
            if begun.elapsed() > PAUSE_MOST {
                pause = PAUSE;
            }
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(PAUSE_MOST),
                () = changed(&mut rule) => {}
                () = changed(&mut stopping) => {}
            }
        }
    }

    /// Serves one connection.
    async fn serve(
        &mut self,
        machine: &mut S::Machine,
        mut stream: Box<dyn Stream>,
        address: &BabeldSocket,
    ) -> End {
        machine.connected(self.feed.now());
        let end = self.converse(machine, &mut stream, address).await;
        if !matches!(end, End::Failed(_)) {
            machine.stop();
            // Whoever does not take it back in time has to do without.
            let _ = timeout(FAREWELL, self.hand_back(machine, &mut stream)).await;
        }
        for notice in machine.disconnected() {
            self.sink.tell(notice, &self.feed);
        }
        end
    }

    async fn converse(
        &mut self,
        machine: &mut S::Machine,
        stream: &mut Box<dyn Stream>,
        address: &BabeldSocket,
    ) -> End {
        let mut picture = self.feed.picture.clone();
        let mut rule = self.feed.rule.clone();
        let mut stopping = self.feed.stopping.clone();
        let mut seen: Option<(u64, bool, Time)> = None;
        let mut bytes = [0; 4096];
        loop {
            if *stopping.borrow_and_update() {
                return End::Stopping;
            }
            if S::address(&rule.borrow_and_update()).as_ref() != Some(address) {
                return End::Elsewhere;
            }
            let now = self.feed.now();
            let latest: Arc<Reachability> = picture.borrow_and_update().clone();
            let state = (latest.revision, latest.complete);
            if seen.is_none_or(|(revision, complete, at)| {
                (revision, complete) != state || now.since(at) >= GLANCE
            }) {
                seen = Some((state.0, state.1, now));
                for notice in machine.want(&latest, now) {
                    self.sink.tell(notice, &self.feed);
                }
            }
            let until = match machine.next(now) {
                Step::Send(command) => {
                    tracing::debug!(sink = S::NAME, command, "sending");
                    if let Err(error) = send(stream, &command).await {
                        return End::Failed(error);
                    }
                    continue;
                }
                Step::Wait(until) => until.map(|until| until.since(now)),
                Step::Leave(why) => return End::Failed(why),
            };
            self.fare(machine, address);
            tokio::select! {
                read = stream.read(&mut bytes) => match read {
                    Ok(0) => return End::Failed("the daemon closed the connection".to_owned()),
                    Ok(length) => self.receive(machine, &bytes[..length]),
                    Err(error) => return End::Failed(error.to_string()),
                },
                () = sleep(until.unwrap_or(Duration::MAX)), if until.is_some() => {}
                () = changed(&mut picture) => {}
                () = changed(&mut rule) => {}
                () = changed(&mut stopping) => {}
            }
        }
    }

    async fn hand_back(&mut self, machine: &mut S::Machine, stream: &mut Box<dyn Stream>) {
        let mut bytes = [0; 4096];
        while !machine.is_done() {
            match machine.next(self.feed.now()) {
                Step::Send(command) => {
                    if send(stream, &command).await.is_err() {
                        return;
                    }
                }
                Step::Wait(until) => {
                    let until = until.map(|until| until.since(self.feed.now()));
                    tokio::select! {
                        read = stream.read(&mut bytes) => match read {
                            Ok(length) if length > 0 => self.receive(machine, &bytes[..length]),
                            _ => return,
                        },
                        () = sleep(until.unwrap_or(Duration::MAX)), if until.is_some() => {}
                    }
                }
                Step::Leave(_) => return,
            }
        }
    }

    fn receive(&mut self, machine: &mut S::Machine, bytes: &[u8]) {
        for notice in machine.receive(bytes, self.feed.now()) {
            self.sink.tell(notice, &self.feed);
        }
    }

    /// Tells how it fares, and of trouble once.
    fn fare(&mut self, machine: &S::Machine, address: &BabeldSocket) {
        let Some(report) = machine.report() else { return };
        let error = report.error.map(|error| named::<S>(address, &error));
        let ok = error.is_none();
        self.feed
            .board
            .write(S::NAME, SinkStatus { ok, doing: report.doing.clone(), error: error.clone() });
        self.tell(error, &report.doing);
    }

    fn fail(&mut self, address: &BabeldSocket, why: &str) {
        let error = Some(named::<S>(address, why));
        let doing = "not connected".to_owned();
        self.tell(error.clone(), &doing);
        self.feed.board.write(S::NAME, SinkStatus { ok: false, doing, error });
    }

    fn tell(&mut self, error: Option<String>, doing: &str) {
        if self.error == error {
            return;
        }
        match &error {
            Some(error) => tracing::warn!(sink = S::NAME, "{error}"),
            None => tracing::info!(sink = S::NAME, "{doing}: no trouble any more"),
        }
        self.error = error;
    }
}

fn named<S: Sink>(address: &BabeldSocket, why: &str) -> String {
    match address {
        BabeldSocket::Path(path) => format!("{} {}: {why}", S::SOCKET, path.display()),
        BabeldSocket::Port(port) => format!("{} [::1]:{port}: {why}", S::SOCKET),
    }
}

async fn connect(address: &BabeldSocket) -> io::Result<Box<dyn Stream>> {
    Ok(match address {
        BabeldSocket::Path(path) => Box::new(UnixStream::connect(PathBuf::as_path(path)).await?),
        BabeldSocket::Port(port) => {
            Box::new(TcpStream::connect((Ipv6Addr::LOCALHOST, *port)).await?)
        }
    })
}

async fn send(stream: &mut Box<dyn Stream>, command: &str) -> Result<(), String> {
    match timeout(STUCK, stream.write_all(format!("{command}\n").as_bytes())).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it takes no commands; see whether the daemon hangs".to_owned()),
    }
}
