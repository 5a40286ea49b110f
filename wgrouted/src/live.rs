//! Views that follow the daemon.
//!
//! Here live the loop of `wgrouted top` and the reading of the event stream.

use std::{
    collections::HashMap,
    io::{self, Write},
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::{
    filter::view::FilterView,
    reach::{
        top::{Beside, Frame, Sort},
        view::ReachView,
    },
    serve::{
        client::{Client, ClientError},
        reach::JoinedPeer,
    },
    terminal::{self, Screen},
};

/// Time between two frames.
const REFRESH: Duration = Duration::from_secs(1);
/// Ctrl-C, which is no signal while keys are taken as they are pressed.
const CTRL_C: u8 = 3;

/// Why a view ended.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The daemon did not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer is not understood.
    #[error("the daemon's answer is not understood, it may be of another version: {0}")]
    Answer(#[from] serde_json::Error),
    /// The terminal cannot be used.
    #[error("the terminal cannot be used: {0}")]
    Terminal(#[from] io::Error),
}

/// Shows peers until a key ends it; once, if it shall or cannot stay.
pub async fn top(
    client: &Client,
    interface: Option<&str>,
    sort: Sort,
    once: bool,
) -> Result<(), LiveError> {
    let mut frame = look(client, interface, sort).await?;
    if once || !terminal::is_interactive() {
        let mut out = io::stdout().lock();
        for line in frame.lines(terminal::width(), None) {
            match writeln!(out, "{}", line.text) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                written => written?,
            }
        }
        return Ok(());
    }
    let mut resized = signal(SignalKind::window_change())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut screen = Screen::enter()?;
    loop {
        let (width, height) = terminal::size().unwrap_or((80, 24));
        screen.draw(&frame.lines(width, Some(height)))?;
        tokio::select! {
            key = screen.keys.recv() => match key {
                Some(b'q' | CTRL_C) | None => return Ok(()),
                Some(b's') => frame.sort = frame.sort.next(),
                Some(_) => {}
            },
            _ = resized.recv() => {}
            _ = terminated.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
            () = sleep(REFRESH) => frame = look(client, interface, frame.sort).await?,
        }
    }
}

/// Asks for everything that a frame shows.
async fn look(client: &Client, interface: Option<&str>, sort: Sort) -> Result<Frame, LiveError> {
    let query: Vec<(&str, &str)> = interface.iter().map(|name| ("interface", *name)).collect();
    let query = serde_urlencoded::to_string(query).unwrap_or_default();
    let view: ReachView = get(client, &format!("/v1/reachability?{query}")).await?;
    let peers: Vec<JoinedPeer> = get(client, &format!("/v1/peers?{query}")).await?;
    let filter: FilterView = get(client, "/v1/filter").await?;
    let mut beside: HashMap<_, Beside> = peers
        .iter()
        .map(|peer| {
            let key = (peer.row.interface.to_string(), peer.row.public_key);
            (key, Beside { routes: peer.row.allowed_ips, drops: None })
        })
        .collect();
    for row in &filter.peers {
        let key = (row.peer.interface.clone(), row.peer.public_key);
        if let Some(beside) = beside.get_mut(&key) {
            let dropped = row.counters.iter().filter(|count| count.dropped);
            beside.drops = Some(dropped.map(|count| count.packets).sum());
        }
    }
    Ok(Frame { view, beside, sort })
}

async fn get<T: DeserializeOwned>(client: &Client, resource: &str) -> Result<T, LiveError> {
    Ok(serde_json::from_slice(&client.get(resource).await?)?)
}

/// Reads an event stream (WHATWG HTML, 9.2.6): the data of each event, whatever the pieces in which
/// it comes.
#[derive(Clone, Debug, Default)]
pub struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
}

impl Events {
    /// The events that this piece completes.
    pub fn take(&mut self, piece: &[u8]) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        for &byte in piece {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if let Some(data) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            } else if line.is_empty() && !self.data.is_empty() {
                events.push(std::mem::take(&mut self.data));
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_any_pieces() {
        let stream =
            b": hello\n\nevent: state\ndata: {\"a\":1}\n\n:\n\ndata: {\ndata: }\nid: 7\n\ndata: x";
        for size in 1..stream.len() {
            let mut events = Events::default();
            let all: Vec<_> = stream.chunks(size).flat_map(|piece| events.take(piece)).collect();
            assert_eq!(all, [b"{\"a\":1}".to_vec(), b"{\n}".to_vec()], "pieces of {size}");
        }
    }
}
