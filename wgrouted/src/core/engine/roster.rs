//! What the engine of routes tells reachability.
//!
//! Here lives the making of a [`Roster`]: names, addresses and rules from here, statistics from
//! whoever just looked at the device.

use hashbrown::HashMap;

use super::Engine;
use crate::core::{
    event::InterfaceId,
    peer::PublicKey,
    prefix::Family,
    reach::roster::{Roster, RosterPeer, Statistics},
};

/// What a look at a device showed of its peers.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Grows with each look.
    pub number: u64,
    /// By key.
    pub statistics: HashMap<PublicKey, Statistics>,
}

impl Engine {
    /// The roster of an interface that is followed, with the statistics of its latest look,
    /// if there was one.
    pub fn roster(&self, id: InterfaceId, look: Option<&Look>) -> Option<Roster> {
        if self.retiring.contains(&id) {
            return None;
        }
        let interface = self.interfaces.get(&id)?;
        let rule = interface.rule();
        let link = interface.ifindex().and_then(|index| self.links.get(&index));
        let peers = interface.peers();
        let present = peers.iter().map(|(_, peer)| peer).filter(|peer| peer.present);
        Some(Roster {
            interface: rule.name.clone(),
            ifindex: link.map(|link| link.index),
            up: link.is_some_and(|link| link.up),
            looked: link.is_none() || look.is_some(),
            look: look.map_or(0, |look| look.number),
            dedicated: peers.only().is_some()
                && Family::ALL.iter().any(|family| interface.is_dedicated(*family)),
            rule: rule.reach.clone(),
            peers: present
                .map(|peer| RosterPeer {
                    public_key: peer.public_key,
                    name: peer.name.clone(),
                    pinned: peer.pinned.iter().copied().collect(),
                    rule: peer.reach.clone().unwrap_or_default(),
                    statistics: look
                        .and_then(|look| look.statistics.get(&peer.public_key).copied())
                        .unwrap_or_default(),
                })
                .collect(),
        })
    }

    /// Interfaces that are followed, by number.
    pub fn followed(&self) -> impl Iterator<Item = InterfaceId> {
        self.interfaces.keys().copied().filter(|id| !self.retiring.contains(id))
    }
}
