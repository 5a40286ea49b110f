//! WireGuard devices in memory, for tests.
//!
//! Here lives [`FakeWireguard`]: it keeps state like the kernel, fails on request, and lets tests
//! edit its devices behind the daemon's back. Invariant: [`FakeDevice`] does what
//! drivers/net/wireguard does; `tests/netns_wireguard` holds the kernel to the same sentences.

use std::collections::{BTreeMap, VecDeque};

use super::wireguard::{Batch, Device, DevicePeer, GRAVEYARD, Report, WgError, WireguardTarget};
use crate::core::{
    peer::{PeerIdx, PublicKey},
    prefix::Prefix,
    route::IfIndex,
};

/// A device: peers, and a table in which each prefix has one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeDevice {
    /// Its name.
    pub name: String,
    /// Its own key.
    pub public_key: Option<PublicKey>,
    peers: Vec<DevicePeer>,
    table: BTreeMap<Prefix, PublicKey>,
}

impl FakeDevice {
    /// A device with these peers and no allowed IPs.
    pub fn new(name: &str, peers: impl IntoIterator<Item = PublicKey>) -> FakeDevice {
        let mut device = FakeDevice { name: name.to_owned(), ..FakeDevice::default() };
        peers.into_iter().for_each(|key| device.add_peer(key));
        device
    }

    /// Adds a peer, unless it is there or bears the device's own key.
    pub fn add_peer(&mut self, key: PublicKey) {
        if self.peer(&key).is_none() && self.public_key != Some(key) {
            self.peers.push(DevicePeer {
                public_key: key,
                endpoint: None,
                persistent_keepalive: 0,
                last_handshake: None,
                rx_bytes: 0,
                tx_bytes: 0,
            });
        }
    }

    /// Removes a peer with its allowed IPs.
    pub fn remove_peer(&mut self, key: &PublicKey) {
        self.peers.retain(|peer| peer.public_key != *key);
        self.clear_peer(key);
    }

    /// Removes all allowed IPs of a peer.
    pub fn clear_peer(&mut self, key: &PublicKey) {
        self.table.retain(|_, owner| owner != key);
    }

    /// A peer, to read or to change its statistics.
    pub fn peer(&mut self, key: &PublicKey) -> Option<&mut DevicePeer> {
        self.peers.iter_mut().find(|peer| peer.public_key == *key)
    }

    /// Gives a prefix to a peer, whoever had it. Does nothing if the peer is missing.
    pub fn set(&mut self, prefix: Prefix, key: &PublicKey) {
        if self.peer(key).is_some() {
            self.table.insert(prefix, *key);
        }
    }

    /// Takes a prefix from a peer. Does nothing if the peer does not own it.
    pub fn unset(&mut self, prefix: &Prefix, key: &PublicKey) {
        if self.table.get(prefix) == Some(key) {
            self.table.remove(prefix);
        }
    }

    /// Every allowed IP with its owner, the graveyard's included.
    pub fn allowed_ips(&self) -> &BTreeMap<Prefix, PublicKey> {
        &self.table
    }
}

/// What shall go wrong in a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It fails and changes nothing.
    Fail(WgError),
    /// It does that many changes and fails then. Dumps fail at once.
    HalfWay(usize, WgError),
}

/// WireGuard with any number of devices.
#[derive(Clone, Debug, Default)]
pub struct FakeWireguard {
    /// The devices, free to edit.
    pub devices: BTreeMap<IfIndex, FakeDevice>,
    /// What the coming calls meet, one entry a call; beyond its end they succeed.
    pub faults: VecDeque<Option<Fault>>,
    /// Prefixes that no change may name, with the error number it costs.
    pub refused: BTreeMap<Prefix, i32>,
    /// Dumps asked for.
    pub dumps: u64,
    /// Batches asked for.
    pub applies: u64,
    /// Changes done.
    pub changes: u64,
}

impl FakeWireguard {
    /// Lets the call after the next `calls` ones go wrong.
    pub fn fail_after(&mut self, calls: usize, fault: Fault) {
        if self.faults.len() <= calls {
            self.faults.resize(calls + 1, None);
        }
        self.faults[calls] = Some(fault);
    }

    fn device(&mut self, ifindex: IfIndex) -> Result<&mut FakeDevice, WgError> {
        self.devices.get_mut(&ifindex).ok_or(WgError::NoDevice(ifindex))
    }
}

impl WireguardTarget for FakeWireguard {
    fn dump(&mut self, ifindex: IfIndex) -> Result<Device, WgError> {
        self.dumps += 1;
        if let Some(Fault::Fail(error) | Fault::HalfWay(_, error)) =
            self.faults.pop_front().flatten()
        {
            return Err(error);
        }
        let device = self.device(ifindex)?;
        let mut seen = Device {
            ifindex,
            name: device.name.clone(),
            public_key: device.public_key,
            ..Device::default()
        };
        seen.peers.extend(device.peers.iter().filter(|p| p.public_key != GRAVEYARD).cloned());
        let numbers: BTreeMap<_, _> =
            seen.peers.iter().zip(0..).map(|(peer, n)| (peer.public_key, PeerIdx(n))).collect();
        for (prefix, owner) in &device.table {
            match numbers.get(owner) {
                Some(number) => seen.allowed_ips.push((*prefix, *number)),
                None => seen.graveyard.push(*prefix),
            }
        }
        Ok(seen)
    }

    fn apply(&mut self, ifindex: IfIndex, batch: Batch<'_>) -> Result<Report, WgError> {
        self.applies += 1;
        let (done, result) = match self.faults.pop_front().flatten() {
            None => (batch.changes.len(), Ok(())),
            Some(Fault::Fail(error)) => (0, Err(error)),
            Some(Fault::HalfWay(done, error)) => (done.min(batch.changes.len()), Err(error)),
        };
        let mut report = Report { messages: 1, ..Report::default() };
        for (position, change) in batch.changes[..done].iter().enumerate() {
            if let Some(errno) = self.refused.get(&change.prefix) {
                report.failed.push((position, *errno));
                continue;
            }
            let key = |peer: PeerIdx| &batch.peers[peer.0 as usize];
            let device = self.device(ifindex)?;
            match (change.new, change.old) {
                (Some(new), _) => device.set(change.prefix, key(new)),
                (None, Some(old)) => device.unset(&change.prefix, key(old)),
                (None, None) => {}
            }
            self.changes += 1;
        }
        self.device(ifindex)?;
        result.map(|()| report)
    }

    fn bury(&mut self, ifindex: IfIndex) -> Result<(), WgError> {
        if let Some(Fault::Fail(error) | Fault::HalfWay(_, error)) =
            self.faults.pop_front().flatten()
        {
            return Err(error);
        }
        self.device(ifindex)?.clear_peer(&GRAVEYARD);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::change::Change;

    const A: PublicKey = PublicKey([1; 32]);
    const B: PublicKey = PublicKey([2; 32]);

    fn fake() -> FakeWireguard {
        let mut fake = FakeWireguard::default();
        fake.devices.insert(7, FakeDevice::new("wg0", [A, B]));
        fake
    }

    fn change(prefix: &str, old: Option<u32>, new: Option<u32>) -> Change {
        Change { prefix: prefix.parse().unwrap(), old: old.map(PeerIdx), new: new.map(PeerIdx) }
    }

    #[test]
    fn it_moves_on_set_and_checks_the_owner_on_removal() {
        let mut fake = fake();
        let changes = [
            change("10.0.0.0/8", None, Some(0)),
            change("10.0.0.0/8", Some(0), Some(1)),
            change("10.0.0.0/8", Some(0), None),
            change("192.0.2.0/24", None, Some(2)),
        ];
        let peers = [A, B, PublicKey([3; 32])];
        fake.apply(7, Batch { peers: &peers, changes: &changes }).unwrap();
        let device = fake.dump(7).unwrap();
        assert_eq!(device.allowed_ips, [("10.0.0.0/8".parse().unwrap(), PeerIdx(1))]);
    }

    #[test]
    fn it_fails_on_request() {
        let mut fake = fake();
        let changes = [change("10.0.0.0/8", None, Some(0)), change("10.1.0.0/16", None, Some(0))];
        let batch = Batch { peers: &[A], changes: &changes };
        fake.fail_after(1, Fault::HalfWay(1, WgError::NotPermitted));
        assert_eq!(fake.dump(7).unwrap().allowed_ips.len(), 0);
        assert_eq!(fake.apply(7, batch), Err(WgError::NotPermitted));
        assert_eq!(fake.dump(7).unwrap().allowed_ips.len(), 1);
        fake.refused.insert(changes[0].prefix, libc::EINVAL);
        assert_eq!(fake.apply(7, batch).unwrap().failed, [(0, libc::EINVAL)]);
        assert_eq!(fake.dump(7).unwrap().allowed_ips.len(), 2);
        assert_eq!(fake.dump(8), Err(WgError::NoDevice(8)));
    }

    #[test]
    fn the_graveyard_is_no_peer() {
        let mut fake = fake();
        let device = fake.devices.get_mut(&7).unwrap();
        device.add_peer(GRAVEYARD);
        device.set(Prefix::DEFAULT_V4, &GRAVEYARD);
        let seen = fake.dump(7).unwrap();
        assert_eq!((seen.peers.len(), seen.graveyard), (2, vec![Prefix::DEFAULT_V4]));
        fake.bury(7).unwrap();
        assert_eq!(fake.dump(7).unwrap().graveyard, []);
    }
}
