//! What the core tells people: status, routes, peers and explanations.
//!
//! Here live the answers to questions, as plain data with names in place of numbers. Nothing here
//! changes the engine. A question about a whole table costs as much as the table; nothing asks
//! one by itself.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    election::{Lost, why_lost},
    engine::{Counters, Engine},
    interface::{self, Interface},
    peer::{PeerIdx, PublicKey},
    prefix::{Family, Prefix},
    resolve::{Claim, Leg, Rule, Unresolved, best},
    route::{Path, RouteKind, TableId},
    slot::Slot,
};

/// State and counters of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Every existing interface holds what its routes ask for.
    pub in_sync: bool,
    /// Prefixes with routes in the followed tables.
    pub ipv4_routes: usize,
    /// Likewise.
    pub ipv6_routes: usize,
    /// Distinct paths among them.
    pub paths: usize,
    /// Bytes that the tables of routes and AllowedIPs occupy.
    pub table_bytes: usize,
    /// What happened so far.
    pub counters: Counters,
    /// One entry an interface.
    pub interfaces: Vec<InterfaceStatus>,
}

/// State and counters of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `waiting` (it does not exist), `reading`, `applying` or `in-sync`.
    pub state: InterfaceState,
    /// AllowedIPs are left alone because the only peer owns everything, per family.
    pub dedicated: Vec<Family>,
    /// Followed tables, most preferred first.
    pub tables: Vec<TableId>,
    /// Peers on the device.
    pub peers: usize,
    /// AllowedIPs on the device.
    pub allowed_ips: usize,
    /// Changes that wait.
    pub pending: usize,
    /// Prefixes with a route that has no peer.
    pub unresolved: usize,
    /// Prefixes with routes that lost the election.
    pub shadowed: usize,
    /// What was done so far.
    pub counters: interface::Counters,
}

/// What an interface is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceState {
    /// There is no such WireGuard device.
    Waiting,
    /// Routes or the device have not been read yet.
    Reading,
    /// Changes are being made.
    Applying,
    /// The device holds what the routes ask for.
    InSync,
}

/// A prefix and its peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// The interface.
    pub interface: Arc<str>,
    /// The prefix.
    pub prefix: Prefix,
    /// The peer that it shall belong to; none if it is about to be removed.
    pub peer: Option<Arc<str>>,
    /// The peer that it belongs to on the device; none if it is not there yet.
    pub installed: Option<Arc<str>>,
    /// Why it is there.
    pub origin: Origin,
}

/// Why a prefix is on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It is the peer's own.
    Pinned,
    /// It follows a route.
    Route,
    /// It is outside what is managed, and not ours.
    Foreign,
}

/// A peer of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRow {
    /// The interface.
    pub interface: Arc<str>,
    /// Its name.
    pub name: String,
    /// Its key.
    pub public_key: PublicKey,
    /// Whether the device has it.
    pub present: bool,
    /// Its own tunnel addresses.
    pub pinned: Vec<Prefix>,
    /// Whether AllowedIPs that it gets by other hands still count as its own.
    pub learning: bool,
    /// AllowedIPs on the device.
    pub allowed_ips: usize,
}

/// A prefix with a route that has no peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnresolvedRow {
    /// The interface.
    pub interface: Arc<str>,
    /// The prefix.
    pub prefix: Prefix,
    /// The reason.
    pub reason: Unresolved,
    /// The reason in words.
    pub why: String,
}

/// A prefix with routes that lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowedRow {
    /// The interface.
    pub interface: Arc<str>,
    /// The prefix.
    pub prefix: Prefix,
    /// The peer that the prefix belongs to, if any.
    pub peer: Option<String>,
    /// All candidates, the winner among them.
    pub candidates: Vec<Candidate>,
}

/// A route that stood for a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The prefix of the route.
    pub prefix: Prefix,
    /// Its table.
    pub table: TableId,
    /// Its metric.
    pub metric: u32,
    /// Its protocol.
    pub protocol: u8,
    /// Its kind.
    pub kind: RouteKind,
    /// The gateway of this leg.
    pub gateway: Option<IpAddr>,
    /// The link of this leg, by name where it is known.
    pub link: Option<String>,
    /// The peer that it leads to.
    pub peer: Option<String>,
    /// The rule that led to the peer.
    pub rule: Option<Rule>,
    /// What became of it.
    pub verdict: Verdict,
    /// The same in words.
    pub why: String,
}

/// What became of a route that stood for a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It decides.
    Wins,
    /// Another route of the same prefix decides.
    Shadowed(Lost),
    /// A more specific prefix decides.
    LessSpecific,
    /// It leads to no known peer.
    Unresolved(Unresolved),
    /// It leaves elsewhere and does not stand.
    Elsewhere,
}

/// Which peer an address belongs to on one interface, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The interface.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// What WireGuard has installed: the longest AllowedIP that contains the address.
    pub installed: Option<Owner>,
    /// What it shall have.
    pub wanted: Option<Owner>,
    /// Whether the wanted prefix is a peer's own.
    pub pinned: bool,
    /// The routes that were considered, most specific first.
    pub candidates: Vec<Candidate>,
}

/// A prefix and the peer that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The prefix.
    pub prefix: Prefix,
    /// The peer's name.
    pub peer: String,
    /// The peer's key.
    pub public_key: PublicKey,
}

impl Engine {
    /// State and counters.
    pub fn status(&self) -> Status {
        let rib = self.rib();
        let tables: usize = self.interfaces().map(Interface::allocated_bytes).sum();
        Status {
            in_sync: self.is_in_sync(),
            ipv4_routes: rib.len_of(Family::V4),
            ipv6_routes: rib.len_of(Family::V6),
            paths: rib.path_table().len(),
            table_bytes: rib.allocated_bytes() + tables,
            counters: self.counters().clone(),
            interfaces: self.interfaces().map(interface_status).collect(),
        }
    }

    fn selected<'a>(&'a self, only: Option<&'a str>) -> impl Iterator<Item = &'a Interface> {
        self.interfaces().filter(move |i| only.is_none_or(|name| i.rule().name == name))
    }

    /// Every prefix that is wanted or installed, in order.
    pub fn routes(&self, only: Option<&str>) -> Vec<RouteRow> {
        let mut rows = Vec::new();
        for interface in self.selected(only) {
            rows.extend(slot_rows(interface, |_| true));
        }
        rows.sort_unstable_by(|a, b| (&a.interface, a.prefix).cmp(&(&b.interface, b.prefix)));
        rows
    }

    /// The prefixes whose installed owner is not the wanted one.
    pub fn pending(&self, only: Option<&str>) -> Vec<RouteRow> {
        let mut rows = Vec::new();
        for interface in self.selected(only) {
            rows.extend(slot_rows(interface, |slot| slot.want() != slot.have()));
        }
        rows.sort_unstable_by(|a, b| (&a.interface, a.prefix).cmp(&(&b.interface, b.prefix)));
        rows
    }

    /// The peers.
    pub fn peers(&self, only: Option<&str>) -> Vec<PeerRow> {
        let mut rows = Vec::new();
        for interface in self.selected(only) {
            let name: Arc<str> = interface.rule().name.as_str().into();
            let mut held = vec![0; interface.peers().iter().count()];
            for idx in interface.slots().iter().filter_map(|(_, slot)| slot.have()) {
                held[idx.0 as usize] += 1;
            }
            rows.extend(interface.peers().iter().map(|(idx, peer)| PeerRow {
                interface: Arc::clone(&name),
                name: peer.name.clone(),
                public_key: peer.public_key,
                present: peer.present,
                pinned: peer.pinned.iter().copied().collect(),
                learning: peer.present && interface.peers().is_learning(idx),
                allowed_ips: held[idx.0 as usize],
            }));
        }
        rows
    }

    /// Routes without a peer.
    pub fn unresolved(&self, only: Option<&str>) -> Vec<UnresolvedRow> {
        let mut rows = Vec::new();
        for interface in self.selected(only) {
            let name: Arc<str> = interface.rule().name.as_str().into();
            rows.extend(interface.unresolved().iter().map(|(prefix, reason)| UnresolvedRow {
                interface: Arc::clone(&name),
                prefix,
                reason: *reason,
                why: reason_text(interface, *reason),
            }));
        }
        rows.sort_unstable_by(|a, b| (&a.interface, a.prefix).cmp(&(&b.interface, b.prefix)));
        rows
    }

    /// Routes that lost.
    pub fn shadowed(&self, only: Option<&str>) -> Vec<ShadowedRow> {
        let mut rows = Vec::new();
        for interface in self.selected(only) {
            let name: Arc<str> = interface.rule().name.as_str().into();
            rows.extend(interface.shadowed().iter().map(|(prefix, ())| {
                let (owner, _) = interface.judge(self.network(), &prefix);
                ShadowedRow {
                    interface: Arc::clone(&name),
                    prefix,
                    peer: owner.map(|idx| interface.peers().get(idx).name.clone()),
                    candidates: self.candidates(interface, prefix, false),
                }
            }));
        }
        rows.sort_unstable_by(|a, b| (&a.interface, a.prefix).cmp(&(&b.interface, b.prefix)));
        rows
    }

    /// Which peer an address belongs to, and why.
    pub fn explain(&self, address: IpAddr, only: Option<&str>) -> Vec<Explanation> {
        self.selected(only).map(|interface| self.explain_on(interface, address)).collect()
    }

    fn explain_on(&self, interface: &Interface, address: IpAddr) -> Explanation {
        let owner = |prefix: Prefix, idx: PeerIdx| {
            let peer = interface.peers().get(idx);
            Owner { prefix, peer: peer.name.clone(), public_key: peer.public_key }
        };
        let longest = |side: fn(Slot) -> Option<PeerIdx>| {
            Prefix::containing(address).find_map(|prefix| {
                let slot = interface.slots().get(&prefix)?;
                side(*slot).map(|idx| owner(prefix, idx))
            })
        };
        let wanted = longest(Slot::want);
        let decisive = wanted.as_ref().map(|owner| owner.prefix);
        let mut candidates = Vec::new();
        for prefix in Prefix::containing(address) {
            let beaten =
                decisive.is_some_and(|decisive| decisive.prefix_len() > prefix.prefix_len());
            candidates.extend(self.candidates(interface, prefix, beaten));
        }
        Explanation {
            interface: interface.rule().name.clone(),
            address,
            installed: longest(Slot::have),
            pinned: decisive.is_some_and(|prefix| interface.peers().pinned_at(&prefix).is_some()),
            wanted,
            candidates,
        }
    }

    /// The routes that stand for exactly this prefix, leg by leg, with what became of each.
    fn candidates(&self, interface: &Interface, prefix: Prefix, beaten: bool) -> Vec<Candidate> {
        let network = self.network();
        let (owner, outcome) = interface.judge(network, &prefix);
        let assigner = interface.assigner(network.nexthops);
        let table = network.rib.path_table();
        let winner = outcome.winner.map(|id| table.get(id));
        let mut candidates = Vec::new();
        for id in network.rib.paths(&prefix) {
            let path = table.get(id);
            if !interface.tables().contains(&path.table) {
                continue;
            }
            let claim = assigner.claim(path);
            let legs = assigner.legs(path);
            let chosen = best(interface.peers(), &legs);
            let wins = outcome.winner == Some(id) && !beaten;
            let path_verdict = match claim {
                Claim::Elsewhere | Claim::Own => Verdict::Elsewhere,
                Claim::Unresolved(reason) => Verdict::Unresolved(reason),
                _ if beaten => Verdict::LessSpecific,
                Claim::Peer { .. } if outcome.owner != owner => {
                    let pinned = interface.peers().pinned_at(&prefix).is_some();
                    match pinned {
                        true => Verdict::Shadowed(Lost::Pinned),
                        false => Verdict::Unresolved(Unresolved::NotManaged),
                    }
                }
                _ if wins => Verdict::Wins,
                _ => Verdict::Shadowed(
                    winner.map_or(Lost::Position, |w| why_lost(interface.tables(), w, path)),
                ),
            };
            if legs.is_empty() {
                let elsewhere = network.nexthops.resolve(path);
                candidates.push(self.candidate(interface, prefix, path, None, path_verdict));
                if let (Some(last), super::nexthops::ResolvedHops::Hops(hops)) =
                    (candidates.last_mut(), elsewhere)
                    && let Some(hop) = hops.first()
                {
                    last.gateway = hop.hop.gateway;
                    last.link = self.link_name(hop.hop.oif).map(str::to_owned);
                }
            }
            for (at, leg) in legs.iter().enumerate() {
                let verdict = match (path_verdict, leg.claim, chosen) {
                    (Verdict::Wins, Ok(_), Some((_, best_at))) if at != best_at => {
                        let heavier = legs[best_at].hop.hop.weight > leg.hop.hop.weight;
                        Verdict::Shadowed(if heavier { Lost::Weight } else { Lost::Key })
                    }
                    (Verdict::Wins, Err(reason), _) => Verdict::Unresolved(reason),
                    (verdict, _, _) => verdict,
                };
                candidates.push(self.candidate(interface, prefix, path, Some(leg), verdict));
            }
        }
        candidates
    }

    fn candidate(
        &self,
        interface: &Interface,
        prefix: Prefix,
        path: &Path,
        leg: Option<&Leg>,
        verdict: Verdict,
    ) -> Candidate {
        let owned = leg.and_then(|leg| leg.claim.ok());
        let why = match verdict {
            Verdict::Wins if path.kind.is_reject() => "the best route rejects: no peer".to_owned(),
            Verdict::Wins => {
                owned.map_or_else(String::new, |(idx, rule)| rule_text(interface, idx, rule))
            }
            Verdict::Shadowed(lost) => lost.to_string(),
            Verdict::LessSpecific => "a more specific prefix wins".to_owned(),
            Verdict::Unresolved(reason) => reason_text(interface, reason),
            Verdict::Elsewhere => "it does not leave by this interface".to_owned(),
        };
        Candidate {
            prefix,
            table: path.table,
            metric: path.metric,
            protocol: path.protocol,
            kind: path.kind,
            gateway: leg.and_then(|leg| leg.hop.hop.gateway),
            link: leg.and_then(|leg| self.link_name(leg.hop.hop.oif)).map(str::to_owned),
            peer: owned.map(|(idx, _)| interface.peers().get(idx).name.clone()),
            rule: owned.map(|(_, rule)| rule),
            verdict,
            why,
        }
    }
}

fn interface_status(interface: &Interface) -> InterfaceStatus {
    let state = match () {
        () if interface.ifindex().is_none() => InterfaceState::Waiting,
        () if !interface.is_ready() => InterfaceState::Reading,
        () if interface.is_in_sync() => InterfaceState::InSync,
        () => InterfaceState::Applying,
    };
    InterfaceStatus {
        name: interface.rule().name.clone(),
        state,
        dedicated: Family::ALL.into_iter().filter(|f| interface.is_dedicated(*f)).collect(),
        tables: interface.tables().to_vec(),
        peers: interface.peers().iter().filter(|(_, peer)| peer.present).count(),
        allowed_ips: interface.installed(),
        pending: interface.pending(),
        unresolved: interface.unresolved().len(),
        shadowed: interface.shadowed().len(),
        counters: interface.counters().clone(),
    }
}

fn slot_rows(interface: &Interface, keep: impl Fn(Slot) -> bool) -> Vec<RouteRow> {
    let name: Arc<str> = interface.rule().name.as_str().into();
    let names: Vec<Arc<str>> =
        interface.peers().iter().map(|(_, peer)| peer.name.as_str().into()).collect();
    let peer = |idx: PeerIdx| Arc::clone(&names[idx.0 as usize]);
    let origin = |prefix: &Prefix| match () {
        () if interface.peers().pinned_at(prefix).is_some() => Origin::Pinned,
        () if interface.is_managed(prefix) => Origin::Route,
        () => Origin::Foreign,
    };
    let slots = interface.slots().iter().filter(|(_, slot)| keep(**slot));
    slots
        .map(|(prefix, slot)| RouteRow {
            interface: Arc::clone(&name),
            prefix,
            peer: slot.want().map(peer),
            installed: slot.have().map(peer),
            origin: origin(&prefix),
        })
        .collect()
}

/// The reason, with the absent peer's name.
fn reason_text(interface: &Interface, reason: Unresolved) -> String {
    match reason {
        Unresolved::PeerAbsent(idx) => format!(
            "it belongs to peer {}, which is not on the device",
            interface.peers().get(idx).name
        ),
        reason => reason.to_string(),
    }
}

fn rule_text(interface: &Interface, idx: PeerIdx, rule: Rule) -> String {
    let name = &interface.peers().get(idx).name;
    match rule {
        Rule::Match(at) => format!("it matches entry {} of {name}'s `match` list", at + 1),
        Rule::OnlyPeer => format!("{name} is the only peer of the link"),
        Rule::Gateway(pinned) => format!("the gateway lies in {name}'s pinned {pinned}"),
    }
}
