//! Whether packets really flow.
//!
//! Here live the assertions on traffic. The receiving kernel's own count of echo requests says
//! which node a packet reached, so that an answer from the wrong node does not pass.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{echo::Ping, node::Node, wait::PATIENCE};

/// Answers that make a flow.
const ENOUGH: u64 = 3;
/// Requests that must all fail where nothing may flow.
const TRIES: u64 = 5;
/// Between two requests.
const INTERVAL: Duration = Duration::from_millis(20);
/// How long an answer that must not come is waited for: many times what a handshake takes.
const SILENCE: Duration = Duration::from_millis(700);

/// Asserts that packets of `from` reach `to`, whichever node else has the same address, and are
/// answered.
pub fn assert_flow(from: &Node, ping: impl Into<Ping>, to: &Node) -> Result<()> {
    let ping = ping.into();
    let echo = ping.open(from)?;
    let before = to.echo_requests()?;
    let deadline = Instant::now() + PATIENCE;
    let (mut sent, mut answered, mut error) = (0, 0, None);
    while answered < ENOUGH {
        if Instant::now() > deadline {
            let error = error.map(|error| format!(" ({error})")).unwrap_or_default();
            bail!(
                "{} of {sent} echo requests of {from:?} to {} answered{error}",
                answered,
                ping.to
            );
        }
        error = echo.send(sent).err().or(error);
        sent += 1;
        let next = Instant::now() + INTERVAL;
        while Instant::now() < next {
            answered += u64::from(echo.receive()?.is_some());
        }
    }
    let reached = to.echo_requests()? - before;
    ensure!(
        reached >= answered,
        "{answered} echo requests of {from:?} to {} were answered, but only {reached} of them \
         reached {to:?}",
        ping.to
    );
    Ok(())
}

/// Asserts that packets of `from` to an address find no answer and none of `nodes`.
pub fn assert_no_flow(
    from: &Node,
    ping: impl Into<Ping>,
    nodes: impl IntoIterator<Item = impl AsRef<Node>>,
) -> Result<()> {
    let ping = ping.into();
    let nodes: Vec<_> = nodes.into_iter().collect();
    let echo = ping.open(from)?;
    let count = || nodes.iter().map(|node| node.as_ref().echo_requests()).sum::<Result<u64>>();
    let before = count()?;
    for sequence in 0..TRIES {
        // That the kernel refuses to send is one way in which nothing flows.
        drop(echo.send(sequence));
        std::thread::sleep(INTERVAL);
    }
    let deadline = Instant::now() + SILENCE;
    while Instant::now() < deadline {
        if let Some(sequence) = echo.receive()? {
            bail!("echo request {sequence} of {from:?} to {} was answered", ping.to);
        }
    }
    let reached = count()? - before;
    ensure!(reached == 0, "{reached} echo requests of {from:?} to {} reached a node", ping.to);
    Ok(())
}

impl AsRef<Node> for Node {
    fn as_ref(&self) -> &Node {
        self
    }
}
