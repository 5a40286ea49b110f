//! babeld's interfaces follow their peers, and what babeld hears is evidence: the sink's edge.
//!
//! Here live its words: where babeld listens, what is logged, what to do about an error. The machine
//! is [`crate::core::reach::babeld`].

use std::io;

use super::{
    Feed,
    dialogue::{Sink, follow},
};
use crate::core::reach::{
    babeld::machine::{Babeld, Notice},
    event::ReachEvent,
    rule::{BabeldSocket, ReachRule},
};

/// Keeps babeld in line until the daemon stops.
pub async fn run(feed: Feed) {
    follow::<BabeldSink>(feed).await;
}

#[derive(Default)]
struct BabeldSink;

impl Sink for BabeldSink {
    type Machine = Babeld;
    const NAME: &'static str = "babeld";
    const SOCKET: &'static str = "babeld's control socket";

    fn address(rule: &ReachRule) -> Option<BabeldSocket> {
        rule.babeld.clone()
    }

    fn remedy(error: &io::Error) -> &'static str {
        match error.kind() {
            io::ErrorKind::PermissionDenied => "let wgrouted's user write to it",
            _ => {
                "start babeld with `local-path-readwrite` or `local-port-readwrite`, of which it \
                 heeds the last one only, or correct `babeld` in [reach]"
            }
        }
    }

    fn tell(&mut self, notice: Notice, feed: &Feed) {
        match notice {
            Notice::Connected { version } => tracing::info!("connected to {version}"),
            Notice::Changed { interface, added, rxcost, why } => {
                let done = if added { "added to" } else { "flushed from" };
                let cost = rxcost.map(|cost| format!(" with rxcost {cost}")).unwrap_or_default();
                tracing::info!(interface, "interface {interface} {done} babeld{cost}: {why}");
            }
            Notice::Heard { interface, heard } => {
                // Nobody listens any more when the daemon stops.
                let _ = feed.events.send(ReachEvent::Babel { interface, heard, at: feed.now() });
            }
        }
    }
}
