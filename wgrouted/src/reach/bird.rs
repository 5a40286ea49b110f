//! BIRD's protocols follow their peers: the sink's edge.
//!
//! Here live its words: where BIRD listens, what is logged, what to do about an error. The machine
//! is [`crate::core::reach::bird`].

use std::io;

use super::{
    Feed,
    dialogue::{Sink, follow},
};
use crate::core::reach::{
    bird::machine::{Bird, Notice},
    rule::{BabeldSocket, ReachRule},
};

/// Keeps BIRD in line until the daemon stops.
pub async fn run(feed: Feed) {
    follow::<BirdSink>(feed).await;
}

#[derive(Default)]
struct BirdSink;

impl Sink for BirdSink {
    type Machine = Bird;
    const NAME: &'static str = "bird";
    const SOCKET: &'static str = "BIRD's control socket";

    fn address(rule: &ReachRule) -> Option<BabeldSocket> {
        rule.bird.clone().map(BabeldSocket::Path)
    }

    fn remedy(error: &io::Error) -> &'static str {
        match error.kind() {
            io::ErrorKind::NotFound => "start BIRD, or correct `bird` in [reach]",
            io::ErrorKind::PermissionDenied => {
                "let wgrouted use it: `SupplementaryGroups=bird` in its unit"
            }
            _ => "start BIRD",
        }
    }

    fn tell(&mut self, notice: Notice, _feed: &Feed) {
        match notice {
            Notice::Connected { version } => tracing::info!("connected to {version}"),
            Notice::Changed { protocol, enabled, why, repaired } => {
                let done = if enabled { "enabled" } else { "disabled" };
                let again = if repaired { " again, somebody had changed it" } else { "" };
                tracing::info!(protocol, "protocol {protocol} of BIRD {done}{again}: {why}");
            }
            Notice::Refused { command, answer } => {
                tracing::warn!("BIRD answered `{command}` with `{answer}`");
            }
        }
    }
}
