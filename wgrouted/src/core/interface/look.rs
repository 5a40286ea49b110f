//! Looking at the device.
//!
//! Here lives what follows from a dump of the device: peers that came and went, what a new peer
//! brought, and what somebody else changed. Nothing here decides what shall be.

use std::time::Duration;

use hashbrown::HashSet;

use super::{Busy, Interface, Network, enqueue};
use crate::core::{
    change::Change,
    device::{Device, DeviceError},
    event::{Notice, Output, Request},
    peer::PeerIdx,
    peers::{RememberedPins, Sighting},
    prefix::Prefix,
    rule::Audit,
    slot::Slot,
    time::Time,
};

/// Audits of all devices take at most one part in this many of the time (`Audit::Auto`).
const AUDIT_SHARE: u32 = 100;

/// Bounds of the automatic audit interval.
const AUDIT_INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The answer to [`Request::Dump`].
#[derive(Debug)]
pub struct Seen<'a> {
    /// The request's number.
    pub token: u64,
    /// How long it would take for all devices that are followed.
    pub cost: Duration,
    /// What the device holds.
    pub result: Result<Device, DeviceError>,
    /// Pinned prefixes that an earlier run learned on this very device.
    pub remembered: &'a RememberedPins,
}

impl Interface {
    /// The device was read.
    pub fn on_device(
        &mut self,
        net: Network<'_>,
        seen: Seen<'_>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let Seen { token, cost, result, remembered } = seen;
        if token != self.token || !matches!(self.busy, Some(Busy::Dump)) {
            return;
        }
        self.busy = None;
        let device = match result {
            Ok(device) if Some(device.ifindex) == self.ifindex => device,
            Ok(_) => return self.next_dump = Some(now),
            Err(error) => return self.on_failure(error, now, out),
        };
        self.counters.device_dumps += 1;
        let first = !std::mem::replace(&mut self.known, true);
        let in_doubt = self.in_doubt.take();
        let keys = device.peers.iter().map(|peer| peer.public_key);
        let sighting = self.peers.sight(keys, remembered, now + self.rule.adopt);
        let owners: Vec<PeerIdx> =
            device.peers.iter().filter_map(|peer| self.peers.find(&peer.public_key)).collect();

        let learned = self.learn(&device, &owners, in_doubt.as_deref());
        self.peers.end_learning(now);
        let drift = self.install(&device, &owners, now);
        let peers_changed = sighting != Default::default();
        if first || learned || peers_changed {
            self.evaluate_all(net, now);
        }
        if learned || peers_changed {
            out.push(Output::Request(Request::Remember {
                name: self.rule.name.clone(),
                ifindex: device.ifindex,
                pins: self.peers.remember(),
            }));
        }
        if first {
            out.push(Output::Notice(Notice::Adopted {
                interface: self.rule.name.clone(),
                peers: device.peers.len(),
                allowed_ips: device.allowed_ips.len(),
                pinned: self.peers.pins().count(),
            }));
        } else {
            self.report(&sighting, drift.filter(|_| in_doubt.is_none()), out);
        }
        // A look that was asked for while this one was under way is still to come.
        self.next_dump = self.next_dump.into_iter().chain(self.next_audit(cost, now)).min();
    }

    /// Takes what a new peer holds for its own, unless we put it there, or may have: `in_doubt`
    /// are the changes of a request that failed.
    fn learn(
        &mut self,
        device: &Device,
        owners: &[PeerIdx],
        in_doubt: Option<&Vec<Change>>,
    ) -> bool {
        if !self.peers.any_learning() {
            return false;
        }
        let in_doubt = in_doubt.into_iter().flatten();
        let ours: HashSet<(Prefix, Option<PeerIdx>)> =
            in_doubt.map(|change| (change.prefix, change.new)).collect();
        let mut learned = false;
        for (prefix, position) in &device.allowed_ips {
            let owner = owners[position.0 as usize];
            if prefix.is_default() && self.has_doors() {
                continue;
            }
            let synced = || {
                self.slots.get(prefix).is_some_and(|slot| slot.have() == Some(owner))
                    || ours.contains(&(*prefix, Some(owner)))
            };
            if self.peers.is_learning(owner) && !synced() {
                learned |= self.peers.learn(owner, *prefix);
            }
        }
        learned
    }

    /// Makes `have` equal to what the device showed and queues what differs from `want`. Returns
    /// how many prefixes of ours somebody else had changed, and one of them.
    fn install(
        &mut self,
        device: &Device,
        owners: &[PeerIdx],
        now: Time,
    ) -> Option<(usize, Prefix)> {
        let mut slots = std::mem::take(&mut self.slots);
        let mut queue = std::mem::take(&mut self.queue);
        let (managed, peers, retries) = (self.managed(), &self.peers, &self.retries);
        let is_ours =
            |prefix: &Prefix| peers.pinned_at(prefix).is_some() || managed.contains(prefix);
        let due = now + self.rule.delete_hold;
        let mut drift: Option<(usize, Prefix)> = None;
        let mut moved = Vec::new();
        let mut drifted = |prefix| {
            drift = Some((drift.map_or(1, |(count, _)| count + 1), prefix));
        };

        for (prefix, position) in &device.allowed_ips {
            let owner = Some(owners[position.0 as usize]);
            let slot = slots.get_or_insert_with(prefix, Slot::default);
            slot.set_seen(true);
            if slot.have() != owner {
                slot.set_have(owner);
                moved.push(*prefix);
                match peers.pinned_at(prefix) {
                    // A pinned prefix at its place is no drift: a new peer brought it.
                    Some(_) if peers.pinned_at(prefix) == owner => {}
                    Some(_) => drifted(*prefix),
                    None if managed.contains(prefix) => drifted(*prefix),
                    None => {}
                }
            }
        }
        let mut installed = 0;
        slots.retain(|prefix, slot| {
            if !slot.is_seen() && slot.have().is_some() {
                let left_with_its_peer = slot.have().is_some_and(|idx| !peers.get(idx).present);
                slot.set_have(None);
                moved.push(prefix);
                if !left_with_its_peer && is_ours(&prefix) {
                    drifted(prefix);
                }
            }
            slot.set_seen(false);
            if !is_ours(&prefix) {
                slot.set_want(slot.have());
            }
            installed += usize::from(slot.have().is_some());
            // What was refused has its own time.
            if !retries.contains_key(&prefix) {
                enqueue(&mut queue, slot, prefix, due);
            }
            !slot.is_void()
        });
        self.slots = slots;
        self.queue = queue;
        self.installed = installed;
        moved.into_iter().for_each(|prefix| self.note_moved(prefix));
        drift
    }

    fn report(
        &mut self,
        sighting: &Sighting,
        drift: Option<(usize, Prefix)>,
        out: &mut Vec<Output>,
    ) {
        let interface = &self.rule.name;
        let name = |idx: &PeerIdx| self.peers.get(*idx).name.clone();
        out.extend(sighting.appeared.iter().map(|idx| {
            Output::Notice(Notice::PeerAppeared { interface: interface.clone(), peer: name(idx) })
        }));
        out.extend(sighting.vanished.iter().map(|idx| {
            Output::Notice(Notice::PeerVanished { interface: interface.clone(), peer: name(idx) })
        }));
        if let Some((prefixes, example)) = drift {
            self.counters.drift += prefixes as u64;
            out.push(Output::Notice(Notice::Drift {
                interface: interface.clone(),
                prefixes,
                example,
            }));
        }
    }

    fn next_audit(&self, cost: Duration, now: Time) -> Option<Time> {
        let audit = match self.rule.audit {
            Audit::Auto => Some(
                now + cost.saturating_mul(AUDIT_SHARE).clamp(AUDIT_INTERVAL.0, AUDIT_INTERVAL.1),
            ),
            Audit::Every(interval) => Some(now + interval),
            Audit::Off => None,
        };
        let learning = self.peers.learning_deadline(now);
        audit.into_iter().chain(learning).min()
    }
}
