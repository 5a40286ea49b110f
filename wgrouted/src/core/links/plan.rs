//! From what there is to what shall be.
//!
//! Here lives [`plan`], and the steps that it is made of. Invariants: after its steps nothing is
//! left to do; what is as it shall be is not touched, so that a session goes on; and what somebody
//! else made is adopted, but never removed.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{
    address::InterfaceAddress,
    rule::{Tunnel, TunnelKind},
    state::{
        Have, HaveAddress, HaveDevice, HavePeer, HaveShape, Known, KnownLink, KnownPeer, Want,
        WantDevice, WantPeer, WantShape,
    },
};
use crate::core::{peer::PublicKey, prefix::Prefix};

/// One thing to do to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Delete it.
    Delete,
    /// Make it, and mark it as ours.
    Create(Created),
    /// Change a tunnel.
    Retunnel(Tunnel),
    /// Set the settings of a WireGuard device. What is `None` or `false` stays as it is.
    Device {
        /// Whether to set the private key.
        private_key: bool,
        /// UDP port.
        listen_port: Option<u16>,
        /// The mark of its packets.
        fwmark: Option<u32>,
    },
    /// Add or change a peer.
    Peer(PeerStep),
    /// Remove a peer.
    RemovePeer(PublicKey),
    /// Set the MTU.
    Mtu(u32),
    /// Add an address.
    AddAddress(InterfaceAddress),
    /// Remove an address.
    RemoveAddress(InterfaceAddress),
    /// Bring it up.
    Up,
}

/// What is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// A WireGuard device, without key and peers.
    Wireguard,
    /// A tunnel.
    Tunnel(Tunnel),
}

/// A change of a peer. What is `None` or `false` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStep {
    /// Its key.
    pub public_key: PublicKey,
    /// The AllowedIPs that it begins with, if it is added.
    pub add: Option<Vec<Prefix>>,
    /// Whether to set the preshared key.
    pub preshared: bool,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Persistent keepalive in seconds, zero for none.
    pub keepalive: Option<u16>,
}

/// A step and the link that it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The link's name.
    pub link: String,
    /// What to do.
    pub step: Step,
}

/// Why a link cannot be as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The name is taken.
    #[error(
        "the name is taken by a link of kind {found}, which is not ours: configure another name, \
         or remove that link (`ip link delete {link}`)"
    )]
    Taken {
        /// The link.
        link: String,
        /// What it is.
        found: String,
    },
    /// The address is there with another length.
    #[error(
        "somebody gave it {found}, beside which {wanted} cannot be: configure the same length, or \
         remove that address"
    )]
    Address {
        /// What is configured.
        wanted: InterfaceAddress,
        /// What is there.
        found: InterfaceAddress,
    },
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps in their order; those of a link are neighbours.
    pub tasks: Vec<Task>,
    /// What cannot be done, by link.
    pub conflicts: Vec<(String, Conflict)>,
    /// What is to be remembered when all is done. Links that have yet to be made have number zero.
    pub known: Known,
}

/// What must be done so that the links that we make are as they shall be, and nothing else of ours
/// is left.
pub fn plan(want: &[Want], have: &[Have], known: &Known) -> Plan {
    let mut plan = Plan::default();
    let configured = |name: &str| want.iter().any(|link| link.name == name);
    for link in have.iter().filter(|link| !configured(&link.name)) {
        if link.ours {
            plan.push(&link.name, Step::Delete);
        } else if let Some(known) = memory(known, link) {
            plan.release(link, known);
        }
    }
    for link in want {
        let found = have.iter().find(|found| found.name == link.name);
        plan.link(link, found, found.and_then(|found| memory(known, found)));
    }
    plan
}

/// What is remembered of this very link.
fn memory<'k>(known: &'k Known, link: &Have) -> Option<&'k KnownLink> {
    known.get(&link.name).filter(|known| known.index == link.index)
}

impl Plan {
    fn push(&mut self, link: &str, step: Step) {
        self.tasks.push(Task { link: link.to_owned(), step });
    }

    /// Gives back a link that was adopted.
    fn release(&mut self, link: &Have, known: &KnownLink) {
        if let HaveShape::Wireguard(Some(device)) = &link.shape {
            self.remove_peers(&link.name, device, Some(known), |_| false);
        }
        for address in link.addresses.iter().filter(|address| address.ours) {
            self.push(&link.name, Step::RemoveAddress(address.address));
        }
    }

    fn link(&mut self, want: &Want, found: Option<&Have>, known: Option<&KnownLink>) {
        let name = &want.name;
        let fitting = found.filter(|found| fits(&want.shape, &found.shape));
        if let Some(other) = found.filter(|_| fitting.is_none()) {
            if !other.ours {
                let conflict =
                    Conflict::Taken { link: name.clone(), found: kind(&other.shape).to_owned() };
                return self.conflicts.push((name.clone(), conflict));
            }
            self.push(name, Step::Delete);
        }
        match &want.shape {
            WantShape::Wireguard(device) => {
                let found = fitting.map(|found| match &found.shape {
                    HaveShape::Wireguard(Some(device)) => device.clone(),
                    _ => HaveDevice::default(),
                });
                if found.is_none() {
                    self.push(name, Step::Create(Created::Wireguard));
                }
                let known = known.filter(|_| fitting.is_some());
                let peers = self.device(name, device, &found.unwrap_or_default(), known);
                let index = fitting.map_or(0, |found| found.index);
                self.known.insert(name.clone(), KnownLink { index, peers });
            }
            WantShape::Tunnel(tunnel) => {
                match fitting.map(|found| &found.shape) {
                    None => self.push(name, Step::Create(Created::Tunnel(tunnel.clone()))),
                    Some(HaveShape::Tunnel(found)) if found == tunnel => {}
                    Some(_) => self.push(name, Step::Retunnel(tunnel.clone())),
                }
                let index = fitting.map_or(0, |found| found.index);
                self.known.insert(name.clone(), KnownLink { index, ..KnownLink::default() });
            }
        }
        if fitting.is_none_or(|found| found.mtu != want.mtu) {
            self.push(name, Step::Mtu(want.mtu));
        }
        self.addresses(want, fitting.map_or(&[], |found| &found.addresses));
        if fitting.is_none_or(|found| !found.up) {
            self.push(name, Step::Up);
        }
    }

    fn device(
        &mut self,
        name: &str,
        want: &WantDevice,
        found: &HaveDevice,
        known: Option<&KnownLink>,
    ) -> BTreeMap<PublicKey, KnownPeer> {
        let private_key = found.public_key != Some(want.public_key);
        let listen_port = want.listen_port.filter(|port| *port != found.listen_port);
        let fwmark = want.fwmark.filter(|mark| *mark != found.fwmark);
        if private_key || listen_port.is_some() || fwmark.is_some() {
            self.push(name, Step::Device { private_key, listen_port, fwmark });
        }
        let configured = |key: &PublicKey| want.peers.iter().any(|peer| peer.public_key == *key);
        self.remove_peers(name, found, known, configured);
        let mut peers = BTreeMap::new();
        for peer in &want.peers {
            let remembered = known.and_then(|known| known.peers.get(&peer.public_key));
            let there = found.peers.get(&peer.public_key);
            if let Some(step) = peer_step(peer, there, remembered) {
                self.push(name, Step::Peer(step));
            }
            let ours = there.is_none() || remembered.is_some_and(|peer| peer.ours);
            // An endpoint that nobody knows yet is still to be set.
            let resolved = peer.endpoint.as_ref().filter(|wanted| !wanted.addresses.is_empty());
            let endpoint = match resolved {
                Some(wanted) => Some(wanted.text.clone()),
                None => remembered.and_then(|peer| peer.endpoint.clone()),
            };
            peers.insert(peer.public_key, KnownPeer { ours, endpoint });
        }
        peers
    }

    /// Removes the peers that we added and that are not `kept`.
    fn remove_peers(
        &mut self,
        name: &str,
        found: &HaveDevice,
        known: Option<&KnownLink>,
        kept: impl Fn(&PublicKey) -> bool,
    ) {
        for (key, peer) in known.iter().flat_map(|known| &known.peers) {
            if peer.ours && !kept(key) && found.peers.contains_key(key) {
                self.push(name, Step::RemovePeer(*key));
            }
        }
    }

    /// New ones first, so that an IPv4 link never loses its last address, and its routes with it.
    fn addresses(&mut self, want: &Want, found: &[HaveAddress]) {
        let mut removed = Vec::new();
        for &address in &want.addresses {
            let there = |found: &&HaveAddress| found.address == address;
            if found.iter().any(|found| there(&found)) {
                continue;
            }
            // IPv6 knows an address once a link, whatever its length (`ipv6_chk_same_addr()`).
            let same = |found: &&HaveAddress| {
                found.address.address == address.address && matches!(address.address, IpAddr::V6(_))
            };
            match found.iter().find(same) {
                Some(other) if !other.ours => {
                    let conflict = Conflict::Address { wanted: address, found: other.address };
                    self.conflicts.push((want.name.clone(), conflict));
                    continue;
                }
                Some(other) => {
                    removed.push(other.address);
                    self.push(&want.name, Step::RemoveAddress(other.address));
                }
                None => {}
            }
            self.push(&want.name, Step::AddAddress(address));
        }
        for found in found.iter().filter(|found| found.ours) {
            if !want.addresses.contains(&found.address) && !removed.contains(&found.address) {
                self.push(&want.name, Step::RemoveAddress(found.address));
            }
        }
    }
}

/// Whether one can be made of the other without deleting it.
fn fits(want: &WantShape, found: &HaveShape) -> bool {
    match (want, found) {
        (WantShape::Wireguard(_), HaveShape::Wireguard(_)) => true,
        (WantShape::Tunnel(want), HaveShape::Tunnel(found)) => want.kind == found.kind,
        _ => false,
    }
}

fn kind(shape: &HaveShape) -> &str {
    match shape {
        HaveShape::Wireguard(_) => "wireguard",
        HaveShape::Tunnel(tunnel) => tunnel.kind.name(),
        HaveShape::Other(kind) => kind,
    }
}

fn peer_step(
    want: &WantPeer,
    found: Option<&HavePeer>,
    known: Option<&KnownPeer>,
) -> Option<PeerStep> {
    let Some(found) = found else {
        return Some(PeerStep {
            public_key: want.public_key,
            add: Some(want.allowed_ips.clone()),
            preshared: want.preshared.is_some(),
            endpoint: want.endpoint.as_ref().and_then(|end| end.addresses.first().copied()),
            keepalive: want.keepalive.filter(|seconds| *seconds != 0),
        });
    };
    let step = PeerStep {
        public_key: want.public_key,
        add: None,
        preshared: want.preshared.is_some() && want.preshared != found.preshared,
        endpoint: endpoint(want, found, known),
        keepalive: want.keepalive.filter(|seconds| *seconds != found.keepalive),
    };
    (step.preshared || step.endpoint.is_some() || step.keepalive.is_some()).then_some(step)
}

/// The endpoint to set. A peer that has moved is left where it is, for WireGuard follows it; unless
/// the configuration has changed since, or it has fallen silent while its name says elsewhere.
fn endpoint(want: &WantPeer, found: &HavePeer, known: Option<&KnownPeer>) -> Option<SocketAddr> {
    let wanted = want.endpoint.as_ref()?;
    let first = wanted.addresses.first().copied()?;
    let Some(current) = found.endpoint else { return Some(first) };
    if wanted.addresses.contains(&current) {
        return None;
    }
    let set_before = known.is_some_and(|known| known.endpoint.as_ref() == Some(&wanted.text));
    (!set_before || (wanted.is_name && found.silent)).then_some(first)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Delete => f.write_str("delete it"),
            Step::Create(Created::Wireguard) => f.write_str("create it: wireguard"),
            Step::Create(Created::Tunnel(tunnel)) => write!(f, "create it: {tunnel}"),
            Step::Retunnel(tunnel) => write!(f, "change it: {tunnel}"),
            Step::Device { private_key, listen_port, fwmark } => {
                f.write_str("set")?;
                if *private_key {
                    f.write_str(" private key")?;
                }
                listen_port.map_or(Ok(()), |port| write!(f, " port {port}"))?;
                fwmark.map_or(Ok(()), |mark| write!(f, " fwmark {mark:#x}"))
            }
            Step::Peer(step) => {
                f.write_str(if step.add.is_some() { "add peer" } else { "set peer" })?;
                write!(f, " {}", step.public_key)?;
                if step.preshared {
                    f.write_str(" preshared key")?;
                }
                step.endpoint.map_or(Ok(()), |endpoint| write!(f, " endpoint {endpoint}"))?;
                step.keepalive.map_or(Ok(()), |seconds| write!(f, " keepalive {seconds} s"))
            }
            Step::RemovePeer(key) => write!(f, "remove peer {key}"),
            Step::Mtu(mtu) => write!(f, "set MTU {mtu}"),
            Step::AddAddress(address) => write!(f, "add address {address}"),
            Step::RemoveAddress(address) => write!(f, "remove address {address}"),
            Step::Up => f.write_str("bring it up"),
        }
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tunnel { kind, over, local, remote, ttl, key } = self;
        write!(f, "{kind} from {local} to {remote} over {over}, ttl {ttl}")?;
        key.map_or(Ok(()), |key| write!(f, ", key {key}"))
    }
}

impl fmt::Display for TunnelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
