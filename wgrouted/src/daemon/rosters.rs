//! From the engine of routes to reachability.
//!
//! Here lives [`Rosters`], which looks at events on their way to the engine, keeps each device's
//! latest statistics, and hands a roster on when something in it may be different. It costs no dump
//! of its own: audits look at devices anyway, and `audit_interval` bounds how often.

use std::time::{SystemTime, UNIX_EPOCH};

use hashbrown::HashMap;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    config::Config,
    core::{
        engine::{Engine, roster::Look},
        event::{Event, InterfaceId, NetEvent, SyncPart},
        reach::{event::ReachEvent, roster::Statistics},
    },
};

/// What an event may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touched {
    Nothing,
    One(InterfaceId),
    All,
}

/// Hands rosters on.
#[derive(Debug)]
pub(super) struct Rosters {
    looks: HashMap<InterfaceId, Look>,
    number: u64,
    to: UnboundedSender<ReachEvent>,
}

impl Rosters {
    pub(super) fn new(to: UnboundedSender<ReachEvent>) -> Self {
        Rosters { looks: HashMap::new(), number: 0, to }
    }

    /// Tells what is configured.
    pub(super) fn configure(&self, config: &Config) {
        self.send(ReachEvent::Configure {
            rule: config.reach.clone(),
            interfaces: config.interfaces.iter().map(|rule| rule.name.clone()).collect(),
        });
    }

    /// Looks at an event before the engine has it.
    pub(super) fn look(&mut self, event: &Event) -> Touched {
        match event {
            Event::Device { interface, result: Ok(device), .. } => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let peers = device.peers.iter();
                let statistics = peers.map(|peer| (peer.public_key, Statistics::of(peer, now)));
                self.number += 1;
                let look = Look { number: self.number, statistics: statistics.collect() };
                self.looks.insert(*interface, look);
                Touched::One(*interface)
            }
            Event::Device { interface, .. } => {
                self.looks.remove(interface);
                Touched::One(*interface)
            }
            Event::Net(events) if events.iter().any(concerns_links) => Touched::All,
            Event::SyncPart { part: SyncPart::Links(_), .. } | Event::Reconfigure(_) => {
                Touched::All
            }
            _ => Touched::Nothing,
        }
    }

    /// Hands on what the engine knows after it has the event.
    pub(super) fn tell(&self, touched: Touched, engine: &Engine) {
        let of_one = |id| {
            if let Some(roster) = engine.roster(id, self.looks.get(&id)) {
                self.send(ReachEvent::Roster(roster));
            }
        };
        match touched {
            Touched::Nothing => {}
            Touched::One(id) => of_one(id),
            Touched::All => engine.followed().for_each(of_one),
        }
    }

    fn send(&self, event: ReachEvent) {
        // Reachability that has ended has said why; routes are followed without it.
        let _ = self.to.send(event);
    }
}

fn concerns_links(event: &NetEvent) -> bool {
    matches!(event, NetEvent::Link(_) | NetEvent::LinkGone { .. } | NetEvent::Lost)
}
