//! Which kernel routes reachability asks for.
//!
//! Here lives [`Announcer`]: from a picture of all peers to the routes that shall stand. It knows
//! nothing of netlink. The law: a peer that is up or suspect is announced, one that is down is not,
//! and for one of which nothing is known all stays as it was: after a restart, as it is in the
//! kernel. So a restarted daemon takes no route away from a living peer, and gives none to one that
//! it has not heard of.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    route::{OurRoute, Place},
    rule::AnnounceRule,
    status::{PeerStatus, Reachability, State},
};
use crate::core::{
    peer::PublicKey,
    prefix::{Family, Prefix},
    route::IfIndex,
    time::Time,
};

/// A metric that follows the round-trip time stays for at least this long: routing daemons pass
/// every change on to their neighbours.
pub const METRIC_HOLD: Duration = Duration::from_secs(10);
/// A metric follows the round-trip time only if that changed by this many milliseconds …
const METRIC_STEP: u32 = 2;
/// … and by more than one part in this many.
const METRIC_PART: u32 = 10;

/// Works out the routes, and remembers what must not change with each picture.
#[derive(Clone, Debug, Default)]
pub struct Announcer {
    peers: BTreeMap<(String, PublicKey), Memory>,
}

/// What is remembered of a peer.
#[derive(Clone, Copy, Debug)]
struct Memory {
    ifindex: IfIndex,
    announced: bool,
    /// What its metric has beyond the base, if a round-trip time was ever known.
    extra: Option<u32>,
    /// When that changed last.
    moved: Time,
}

/// What follows from a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The routes, each with its peer.
    pub routes: BTreeMap<Place, Announced>,
    /// Peers that are announced but for these prefixes, which another has.
    pub behind: Vec<Behind>,
    /// Peers that lack a tunnel address by which these prefixes could be routed.
    pub nowhere: Vec<Nowhere>,
}

/// A route and its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The route.
    pub route: OurRoute,
    /// The interface.
    pub interface: String,
    /// The peer.
    pub peer: String,
}

/// Two peers want the same place: the first by interface and name has it while it is known to be
/// reachable. Give links different metrics to choose, or let metrics follow the round-trip time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The prefix.
    pub prefix: Prefix,
    /// Who stands back.
    pub peer: String,
    /// Who has it.
    pub first: String,
}

/// A prefix that has no way to its peer: a link with several peers needs a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nowhere {
    /// The prefix.
    pub prefix: Prefix,
    /// The interface.
    pub interface: String,
    /// The peer.
    pub peer: String,
}

impl Announcer {
    /// The routes that shall stand. `have` are those of our protocols that the kernel has.
    pub fn wanted(&mut self, picture: &Reachability, have: &BTreeSet<OurRoute>) -> Wanted {
        let mut remembered = BTreeMap::new();
        let mut standing = Vec::new();
        for peer in &picture.peers {
            let Some((rule, ifindex)) = announced_by(peer) else { continue };
            let key = (peer.interface.clone(), peer.public_key);
            let before = self.peers.remove(&key).filter(|memory| memory.ifindex == ifindex);
            let mut memory =
                before.unwrap_or_else(|| Memory::found(peer, rule, ifindex, have, picture.now));
            memory.follow(peer, rule, picture.now);
            if memory.announced {
                let extra = if rule.metric_from_rtt { memory.extra.unwrap_or(0) } else { 0 };
                standing.push((peer, rule, ifindex, rule.metric.saturating_add(extra)));
            }
            remembered.insert(key, memory);
        }
        self.peers = remembered;
        // Who is known to be reachable comes first; the picture has the rest of the order.
        standing.sort_by_key(|(peer, ..)| !peer.is_usable());
        let mut wanted = Wanted::default();
        for (peer, rule, ifindex, metric) in standing {
            wanted.take(peer, rule, ifindex, metric);
        }
        wanted
    }
}

impl Memory {
    /// What the kernel's routes say of a peer that is seen for the first time.
    fn found(
        peer: &PeerStatus,
        rule: &AnnounceRule,
        ifindex: IfIndex,
        have: &BTreeSet<OurRoute>,
        now: Time,
    ) -> Memory {
        let ways: Vec<(Prefix, Option<IpAddr>)> =
            prefixes(peer, rule).filter_map(|prefix| Some((prefix, way(peer, prefix)?))).collect();
        let own = |route: &&OurRoute| {
            route.oif == ifindex
                && route.protocol == rule.protocol
                && route.place.table == rule.table
                && ways.contains(&(route.place.prefix, route.gateway))
        };
        let found = have.iter().find(own);
        let extra = found.and_then(|route| route.place.metric.checked_sub(rule.metric));
        Memory {
            ifindex,
            announced: found.is_some(),
            extra: extra.filter(|_| rule.metric_from_rtt),
            moved: now,
        }
    }

    fn follow(&mut self, peer: &PeerStatus, rule: &AnnounceRule, now: Time) {
        let rtt = peer.probe.and_then(|probe| probe.rtt).filter(|_| rule.metric_from_rtt);
        let known = match peer.state {
            State::Up | State::Suspect => true,
            State::Down => false,
            State::Unknown => self.announced,
        };
        let rtt = rtt.map(milliseconds);
        let due = match (self.extra, rtt) {
            (_, None) => false,
            (None, Some(_)) => true,
            // Nobody is disturbed by the metric of what is not there.
            _ if !self.announced => true,
            (Some(old), Some(new)) => {
                let difference = old.abs_diff(new);
                difference >= METRIC_STEP
                    && difference.saturating_mul(METRIC_PART) > old
                    && now.since(self.moved) >= METRIC_HOLD
            }
        };
        if due {
            (self.extra, self.moved) = (rtt, now);
        }
        self.announced = known;
    }
}

impl Wanted {
    fn take(&mut self, peer: &PeerStatus, rule: &AnnounceRule, oif: IfIndex, metric: u32) {
        for prefix in prefixes(peer, rule) {
            let Some(gateway) = way(peer, prefix) else {
                let (interface, peer) = (peer.interface.clone(), peer.peer.clone());
                self.nowhere.push(Nowhere { prefix, interface, peer });
                continue;
            };
            let place = Place { table: rule.table, prefix, metric };
            let route = OurRoute { place, protocol: rule.protocol, oif, gateway };
            match self.routes.get(&place) {
                Some(first) if first.route.oif == oif && first.peer == peer.peer => {}
                Some(first) => self.behind.push(Behind {
                    prefix,
                    peer: peer.peer.clone(),
                    first: first.peer.clone(),
                }),
                None => {
                    let (interface, peer) = (peer.interface.clone(), peer.peer.clone());
                    self.routes.insert(place, Announced { route, interface, peer });
                }
            }
        }
    }
}

fn announced_by(peer: &PeerStatus) -> Option<(&AnnounceRule, IfIndex)> {
    Some((peer.link_rule.as_ref()?.announce.as_ref()?, peer.ifindex?))
}

/// What is announced of a peer while it is reachable.
fn prefixes<'a>(
    peer: &'a PeerStatus,
    rule: &AnnounceRule,
) -> impl Iterator<Item = Prefix> + use<'a> {
    // A link-local address means something on its link only.
    let hosts = hosts(peer).filter(|host| !is_link_local(*host)).map(Prefix::host);
    let hosts = rule.hosts.then_some(hosts).into_iter().flatten();
    hosts.chain(peer.rule.announce.iter().copied())
}

/// The gateway by which a prefix goes to its peer; `None` if there is no way.
fn way(peer: &PeerStatus, prefix: Prefix) -> Option<Option<IpAddr>> {
    if peer.dedicated || peer.pinned.contains(&prefix) {
        return Some(None);
    }
    let of = |v4: bool| hosts(peer).find(|host| host.is_ipv4() == v4);
    let gateway = match prefix.family() {
        Family::V4 => of(true).or_else(|| of(false)),
        Family::V6 => of(false),
    };
    gateway.map(Some)
}

/// A peer's own tunnel addresses, as far as they are addresses: networks that it pins are not.
fn hosts(peer: &PeerStatus) -> impl Iterator<Item = IpAddr> + '_ {
    let is_host = |prefix: &&Prefix| prefix.prefix_len() == prefix.family().bits();
    peer.pinned.iter().filter(is_host).map(Prefix::addr)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Rounded, for half a millisecond is none.
fn milliseconds(rtt: Duration) -> u32 {
    u32::try_from((rtt.as_micros() + 500) / 1000).unwrap_or(u32::MAX)
}
