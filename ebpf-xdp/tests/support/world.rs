//! Tables as lists, searched line by line: the oracle for tries, and for the kernel's maps.

use std::collections::HashMap;

use ebpf_xdp::addr::{Addr, V4, V6};
use ebpf_xdp::flow::SECOND;
use ebpf_xdp::layout::{
    Counter, EVENTS, Event, Finder, Flow, FlowKey, FragmentKey, Link, Mode, Peer, Policy, Rule,
    SLOTS, Sample, SetMember, Settings, Tunnel, TunnelKey, domain, owner,
};
use ebpf_xdp::tables::{Tables, Work};
use ebpf_xdp::verdict::{self, Verdict};

use super::packets;

/// A prefix of the sources: family, domain, network, length, owner.
pub type Source = (u8, u32, Addr, u8, u32);

#[derive(Clone, Default)]
pub struct World {
    pub now: u64,
    pub settings: Settings,
    pub links: HashMap<u32, Link>,
    pub tunnels: HashMap<TunnelKey, Tunnel>,
    pub peers: HashMap<u32, Peer>,
    pub sources: Vec<Source>,
    pub sets: Vec<SetMember>,
    pub policies: HashMap<u32, Policy>,
    pub rules: Vec<Rule>,
    pub flows: HashMap<FlowKey, Flow>,
    pub fragments: HashMap<FragmentKey, u64>,
    pub counters: HashMap<(u32, u32), Counter>,
    pub events: [u64; EVENTS as usize],
    pub last_seen: HashMap<u32, u64>,
    pub samples: Vec<Sample>,
}

pub const DEDICATED: u32 = 11;
pub const SHARED: u32 = 12;
pub const TUNNEL: u32 = 13;
pub const POLICED: u32 = 14;
/// Dedicated links of the peers as which tunnels' packets are judged, for comparison: this plus the
/// peer's number.
pub const APART: u32 = 100;
/// A routing instance.
pub const MAIN: u32 = 1;
/// The one in which tunnels are.
pub const INNER: u32 = 2;

impl World {
    /// Peers 1 to 6 on a shared link (12) and on one with tunnels only (13), one mode each; peer 1
    /// on a dedicated link (11), peer 7 on another (14). Peers 2, 5 and 7 have a policy. Peers 1 to
    /// 5 have tunnels, whose peers are 11 to 15: 1 GRE and IPIP in IPv4 and GRE in IPv6, 2 two GREs
    /// with keys, 3 one of which nothing is known, 4 and 5 GRE. All have a dedicated link as well.
    pub fn standard() -> World {
        let mut world = World { now: 1000 * SECOND, ..World::default() };
        world.settings.flags = Settings::GUARD;
        world.settings.samples_per_second = 1000;
        let link = |finder, peer| Link { finder: finder as u8, flags: Link::LEARN, zone: 3, peer };
        world.links.insert(DEDICATED, link(Finder::Dedicated, 1));
        world.links.insert(POLICED, link(Finder::Dedicated, 7));
        for ifindex in [SHARED, TUNNEL] {
            let link = link(Finder::Shared, 0);
            world.links.insert(ifindex, Link { flags: link.flags | Link::TUNNELS, ..link });
        }
        for peer in [11, 12, 13, 14, 15, 22] {
            world.links.insert(APART + peer, link(Finder::Dedicated, peer));
        }
        let usual = Peer::LINK_LOCAL | Peer::UNSPECIFIED | Peer::CONTROL;
        let peers = [
            (1, Mode::Strict, usual, 0, domain::routes(MAIN)),
            (2, Mode::Feasible, usual, 1, domain::feasible(2)),
            (3, Mode::Loose, Peer::IGNORE_DEFAULT, 0, domain::routes(MAIN)),
            (4, Mode::List, Peer::MONITOR, 0, domain::list(4)),
            (5, Mode::Group, Peer::NARROW, 2, domain::group(9)),
            (6, Mode::Off, 0, 0, 0),
            (7, Mode::Off, Peer::CONTROL, 1, 0),
            (11, Mode::Strict, usual, 0, domain::routes(INNER)),
            (12, Mode::Feasible, usual, 1, domain::feasible(2)),
            (13, Mode::Loose, Peer::IGNORE_DEFAULT, 0, domain::routes(INNER)),
            (14, Mode::List, Peer::MONITOR, 2, domain::list(4)),
            (15, Mode::Group, usual, 2, domain::group(9)),
            (22, Mode::Strict, 0, 0, domain::routes(MAIN)),
        ];
        for (id, mode, flags, policy, domain) in peers {
            let flags = if id < 6 { flags | Peer::TUNNELS } else { flags };
            world.peers.insert(id, Peer { mode: mode as u8, flags, policy, domain });
        }
        let own = [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7)];
        for (peer, host) in own {
            for ifindex in [SHARED, TUNNEL] {
                let proven = domain::proven(ifindex);
                world.source(proven, &format!("10.9.0.{host}/32"), peer);
                world.source(proven, &format!("fd09::{host}/128"), peer);
            }
            world.source(domain::own(peer), &format!("10.9.0.{host}/32"), peer);
            world.source(domain::own(peer), &format!("fd09::{host}/128"), peer);
        }
        for (net, peer) in [("10.1.0.0/16", 1), ("10.2.0.0/16", 2), ("172.16.0.0/12", 3)] {
            world.source(domain::proven(SHARED), net, peer);
        }
        for (net, peer) in [("2001:db8:1::/48", 1), ("2001:db8:2::/48", 2), ("fe80::/10", 4)] {
            world.source(domain::proven(SHARED), net, peer);
        }
        world.source(domain::proven(SHARED), "192.0.2.0/24", 5);
        for (net, owner) in [
            ("10.1.0.0/16", 11),
            ("10.1.7.0/24", 12),
            ("10.2.9.0/24", owner::NOBODY),
            ("0.0.0.0/0", owner::DEFAULT | 13),
            ("2001:db8:1::/48", 11),
        ] {
            world.source(domain::routes(INNER), net, owner);
        }
        world.tunnels();
        let routes = domain::routes(MAIN);
        for (net, owner) in [
            ("10.1.0.0/16", 1),
            ("10.1.7.0/24", 2),
            ("10.2.0.0/16", owner::SET | 1),
            ("10.2.9.0/24", owner::NOBODY),
            ("192.0.2.0/24", owner::ELSEWHERE),
            ("0.0.0.0/0", owner::DEFAULT | 1),
            ("2001:db8:1::/48", 1),
            ("2001:db8:1:7::/64", owner::NOBODY),
            ("2001:db8:2::/48", 2),
            ("2001:db8:2::5/128", owner::SET | 1),
        ] {
            world.source(routes, net, owner);
        }
        for net in ["10.1.0.0/16", "10.2.0.0/16", "2001:db8::/32"] {
            world.source(domain::feasible(2), net, 2);
            world.source(domain::group(9), net, 1);
        }
        world.source(domain::group(9), "192.0.2.0/24", 5);
        world.source(domain::list(4), "10.0.0.0/8", 4);
        world.source(domain::list(4), "10.2.0.0/16", owner::NOBODY);
        world.source(domain::list(5), "0.0.0.0/0", 5);
        world.sets = vec![SetMember { set: 1, peer: 1 }, SetMember { set: 1, peer: 3 }];
        let accept = Rule { accept: 1, ..Rule::ANY };
        let tcp = Rule { protocol: 6, protocol_mask: 255, ..accept };
        let udp = Rule { protocol: 17, protocol_mask: 255, ..accept };
        world.rules = vec![
            Rule { dst_port_min: 80, dst_port_max: 443, ..tcp },
            Rule { dst_port_min: 8080, dst_port_max: 8080, accept: 0, ..tcp },
            Rule { dst: Addr::v4([10, 2, 0, 5]), dst_mask: Addr::mask(V4, 32), families: 1, ..udp },
            Rule {
                src: Addr::v6(packets::v6("2001:db8:1::")),
                src_mask: Addr::mask(V6, 48),
                families: Rule::V6,
                ..udp
            },
            Rule { protocol: 1, protocol_mask: 255, families: 1, dst_port_max: 8, ..accept },
            Rule { dst_port_min: 53, dst_port_max: 53, accept: 0, ..udp },
        ];
        world.policies.insert(1, Policy { first: 0, count: 5, accept: 0, stateful: 1 });
        world.policies.insert(2, Policy { first: 5, count: 1, accept: 1, stateful: 0 });
        world
    }

    fn tunnels(&mut self) {
        let four = |peer: u32, protocol| TunnelKey {
            local: Addr::v4([10, 9, 0, 1]),
            remote: Addr::v4([10, 9, 0, peer as u8 + 1]),
            peer,
            family: V4,
            protocol,
            ..TunnelKey::default()
        };
        let six = |peer: u32| TunnelKey {
            local: Addr::v6(packets::v6("fd09::1")),
            remote: Addr::v6(packets::v6(&format!("fd09::{}", peer + 1))),
            family: V6,
            ..four(peer, 47)
        };
        let keyed = |key| TunnelKey { keyed: 1, key, ..four(2, 47) };
        for (key, peer) in [
            (four(1, 47), 11),
            (four(1, 4), 11),
            (six(1), 11),
            (four(2, 47), 0),
            (keyed(0), 12),
            (keyed(0x2a), 22),
            (TunnelKey { peer: 3, ..TunnelKey::default() }, 13),
            (four(4, 47), 14),
            (four(5, 47), 15),
            (six(5), 15),
        ] {
            // As on the dedicated links.
            self.tunnels.insert(key, Tunnel { peer, zone: 3, reserved: 0 });
        }
    }

    pub fn source(&mut self, domain: u32, net: &str, owner: u32) {
        let (addr, len) = net.split_once('/').unwrap();
        let (family, addr) = if addr.contains(':') {
            (V6, Addr::v6(packets::v6(addr)))
        } else {
            (V4, Addr::v4(packets::v4(addr)))
        };
        self.sources.push((family, domain, addr, len.parse().unwrap(), owner));
    }

    pub fn ingress(&mut self, ifindex: u32, packet: &[u8]) -> Verdict {
        verdict::ingress(&packet, ifindex, self, &mut Work::default())
    }

    pub fn decide(&mut self, ifindex: u32, packet: &[u8]) -> Verdict {
        verdict::decide(&packet, ifindex, self, &mut Work::default())
    }

    pub fn egress(&mut self, ifindex: u32, packet: &[u8]) {
        verdict::egress(&packet, ifindex, self, &mut Work::default());
    }
}

impl Tables for World {
    fn now(&self) -> u64 {
        self.now
    }

    fn settings(&self) -> Settings {
        self.settings
    }

    fn link(&self, ifindex: u32) -> Option<Link> {
        self.links.get(&ifindex).copied()
    }

    fn peer(&self, peer: u32) -> Option<Peer> {
        self.peers.get(&peer).copied()
    }

    fn tunnel(&self, key: &TunnelKey) -> Option<Tunnel> {
        self.tunnels.get(key).copied()
    }

    fn owner(&self, family: u8, domain: u32, addr: Addr) -> Option<u32> {
        let holds = |source: &&Source| {
            let mask = Addr::mask(family, source.3);
            source.0 == family
                && source.1 == domain
                && addr.hi & mask.hi == source.2.hi
                && addr.lo & mask.lo == source.2.lo
        };
        self.sources.iter().filter(holds).max_by_key(|source| source.3).map(|source| source.4)
    }

    fn in_set(&self, set: u32, peer: u32) -> bool {
        self.sets.contains(&SetMember { set, peer })
    }

    fn policy(&self, policy: u32) -> Option<Policy> {
        self.policies.get(&policy).copied()
    }

    fn rule(&self, index: u32) -> Option<&Rule> {
        self.rules.get(index as usize)
    }

    fn flow(&mut self, key: &FlowKey) -> Option<&mut Flow> {
        self.flows.get_mut(key)
    }

    fn put_flow(&mut self, key: &FlowKey, flow: &Flow) -> bool {
        self.flows.insert(*key, *flow);
        true
    }

    fn fragment(&self, key: &FragmentKey) -> Option<u64> {
        self.fragments.get(key).copied()
    }

    fn put_fragment(&mut self, key: &FragmentKey, now: u64) {
        self.fragments.insert(*key, now);
    }

    fn count(&mut self, peer: u32, slot: u32, bytes: u32) {
        assert!(slot < SLOTS);
        let counter = self.counters.entry((peer, slot)).or_default();
        counter.packets += 1;
        counter.bytes += u64::from(bytes);
    }

    fn event(&mut self, event: Event) {
        self.events[event as usize] += 1;
    }

    fn seen(&mut self, peer: u32, now: u64) {
        self.last_seen.insert(peer, now);
    }

    fn may_sample(&mut self, limit: u32, _: u64) -> bool {
        self.samples.len() < limit as usize
    }

    fn sample(&mut self, sample: &Sample) {
        self.samples.push(*sample);
    }
}
