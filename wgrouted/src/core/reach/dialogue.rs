//! Talking with a routing daemon over its control socket, one command at a time.
//!
//! Here lives [`Dialogue`], what the machines of BIRD and of babeld have in common, so that one edge
//! serves both. Invariant: a machine sends nothing before the other side has greeted, and no
//! command before the last one is answered.

use std::time::Duration;

use super::status::Reachability;
use crate::core::time::Time;

/// A daemon that does not answer for this long is left and asked again: BIRD may be busy with a
/// large configuration for seconds.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A socket that lets us read but not write is tried again after this time.
pub const RETRY: Duration = Duration::from_secs(60);

/// What is to be done next on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this line.
    Send(String),
    /// Wait for the other side, or until then.
    Wait(Option<Time>),
    /// Close the connection and open it again, for this reason.
    Leave(String),
}

/// How a dialogue fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it does.
    pub doing: String,
    /// What is wrong and what to do about it.
    pub error: Option<String>,
}

/// A machine that brings a daemon in line with reachability.
pub trait Dialogue {
    /// What it has to tell.
    type Notice;

    /// Takes in which peers can be reached.
    fn want(&mut self, picture: &Reachability, now: Time) -> Vec<Self::Notice>;

    /// The connection stands; the other side will greet.
    fn connected(&mut self, now: Time);

    /// The connection is gone. Evidence that came over it is taken back.
    fn disconnected(&mut self) -> Vec<Self::Notice>;

    /// Bytes came.
    fn receive(&mut self, bytes: &[u8], now: Time) -> Vec<Self::Notice>;

    /// What is to be done. To be asked again after every other call.
    fn next(&mut self, now: Time) -> Step;

    /// From now on it only hands back what it holds.
    fn stop(&mut self);

    /// After [`Dialogue::stop`]: nothing is left to be handed back.
    fn is_done(&self) -> bool;

    /// How it fares, once that is known.
    fn report(&self) -> Option<Report>;
}

/// Names in a sentence, the first few of them.
pub(super) fn names<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let all: Vec<_> = all.into_iter().collect();
    let shown = all[..all.len().min(SHOWN)].join(", ");
    if all.len() > SHOWN { format!("{shown} and {} more", all.len() - SHOWN) } else { shown }
}
