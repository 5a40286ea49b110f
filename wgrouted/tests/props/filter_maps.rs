//! What the filter's maps say about a packet, asked of the programs' own verdict.
//!
//! Here lives [`Maps`], which lets [`ebpf_xdp`] look into a [`FakeFilter`]: entry by entry, so that
//! the longest match is found the slow and obvious way.

use std::{collections::BTreeMap, net::IpAddr};

use ebpf_xdp::{
    addr::{Addr, V4, V6},
    layout::{
        self, Event, Finder, Flow, FlowKey, FragmentKey, Link, Peer, Policy, Rule, Sample,
        Settings, Tunnel, domain, owner,
    },
    parse::Headers,
    source,
    tables::Tables,
};
use wgrouted::{
    core::{
        filter::rule::Ends,
        filter::table::{FilterChange, Identity, SourceKey, TunnelKey},
        prefix::{Family, Prefix},
        route::IfIndex,
    },
    target::filter::fake::FakeFilter,
};

use crate::domain::small_address;

/// The addresses of the small world that may do something: bit 0 to 31 IPv4, 32 to 63 IPv6.
pub type Mask = u64;

/// The address of each bit.
pub fn addresses() -> impl Iterator<Item = (u32, IpAddr)> {
    (0..64).map(|bit: u32| {
        let family = if bit < 32 { Family::V4 } else { Family::V6 };
        (bit, small_address(family, bit as u8 & 31))
    })
}

pub struct Maps<'a>(pub &'a FakeFilter);

impl Maps<'_> {
    /// The sources that a peer may use.
    pub fn admitted(&self, id: u32) -> Mask {
        let Some((_, word)) = self.0.peers.get(&id) else { return 0 };
        let passes = |addr| source::check(self, id, word, &headers(addr)).is_ok();
        let bits = addresses().filter(|(_, addr)| word.mode != 0 && passes(*addr));
        bits.map(|(bit, _)| 1 << bit).sum()
    }

    /// The sources of every peer that the maps know.
    pub fn all_admitted(&self) -> BTreeMap<Identity, Mask> {
        self.0.peers.iter().map(|(id, (who, _))| (*who, self.admitted(*id))).collect()
    }

    /// Through which tunnels each peer speaks, and as whom what comes out of them is judged.
    pub fn tunnels(&self) -> BTreeMap<(Identity, Option<Ends>), Identity> {
        let who = |id: u32| self.0.peers.get(&id).map(|(who, _)| *who);
        let rows = self.0.tunnels.iter().filter(|(_, word)| word.peer != 0);
        let rows = rows.filter(|(key, _)| {
            // Nobody looks for it otherwise.
            let flags = self.0.peers.get(&key.peer).map_or(0, |(_, word)| word.flags);
            flags & Peer::TUNNELS != 0
        });
        rows.filter_map(|(key, word)| Some(((who(key.peer)?, key.ends), who(word.peer)?))).collect()
    }

    /// Whether a change can have changed what a peer may use.
    pub fn concerns(&self, change: &FilterChange, id: u32) -> bool {
        let asked = self.0.peers.get(&id).map(|(_, word)| word.domain);
        match change {
            FilterChange::Source { key, .. } => {
                Some(key.domain) == asked
                    || [domain::list(id), domain::own(id)].contains(&key.domain)
            }
            FilterChange::Peer { id: other, .. } => *other == id,
            FilterChange::Member { .. } => true,
            FilterChange::Link { .. }
            | FilterChange::Tunnel { .. }
            | FilterChange::Policy { .. } => false,
        }
    }

    /// The sources of all packets that pass from a link, by the peer that they count for.
    pub fn passing(&self, ifindex: IfIndex) -> BTreeMap<Identity, Mask> {
        let mut passing = BTreeMap::new();
        let Some(link) = self.0.links.get(&ifindex) else { return passing };
        for (bit, addr) in addresses() {
            let Headers { family, src, .. } = headers(addr);
            let id = match link.finder {
                finder if finder == Finder::Dedicated as u8 => link.peer,
                _ => self.owner(family, domain::proven(ifindex), src).unwrap_or(0) & owner::NUMBER,
            };
            let Some((who, word)) = self.0.peers.get(&id) else { continue };
            if word.mode != 0 && source::check(self, id, word, &headers(addr)).is_ok() {
                *passing.entry(*who).or_default() |= 1 << bit;
            }
        }
        passing
    }
}

/// A packet that goes far away.
fn headers(src: IpAddr) -> Headers {
    let (family, src, dst) = match src {
        IpAddr::V4(src) => (V4, Addr::v4(src.octets()), Addr::v4([198, 51, 100, 1])),
        IpAddr::V6(src) => (V6, Addr::v6(src.octets()), Addr { hi: 0x2001_0db8_ffff_0000, lo: 1 }),
    };
    Headers { family, src, dst, protocol: 17, ..Headers::default() }
}

impl Tables for Maps<'_> {
    fn link(&self, ifindex: u32) -> Option<Link> {
        self.0.links.get(&ifindex).copied()
    }

    fn peer(&self, peer: u32) -> Option<Peer> {
        self.0.peers.get(&peer).map(|(_, word)| *word)
    }

    fn tunnel(&self, key: &layout::TunnelKey) -> Option<Tunnel> {
        self.0.tunnels.get(&TunnelKey::from_layout(key)).copied()
    }

    fn owner(&self, family: u8, domain: u32, addr: Addr) -> Option<u32> {
        let addr = match family {
            V4 => IpAddr::from(addr.octets4()),
            _ => IpAddr::from(addr.octets6()),
        };
        let first = SourceKey { domain, prefix: Prefix::DEFAULT_V4 };
        let here = self.0.sources.range(first..).take_while(|(key, _)| key.domain == domain);
        let fitting = here.filter(|(key, _)| key.prefix.contains(addr));
        fitting.max_by_key(|(key, _)| key.prefix.prefix_len()).map(|(_, value)| *value)
    }

    fn in_set(&self, set: u32, peer: u32) -> bool {
        self.0.members.contains(&(set, peer))
    }

    fn settings(&self) -> Settings {
        Settings { flags: Settings::GUARD, ..Settings::default() }
    }

    // Nothing below is asked about sources.
    fn now(&self) -> u64 {
        0
    }
    fn policy(&self, _: u32) -> Option<Policy> {
        None
    }
    fn rule(&self, _: u32) -> Option<&Rule> {
        None
    }
    fn flow(&mut self, _: &FlowKey) -> Option<&mut Flow> {
        None
    }
    fn put_flow(&mut self, _: &FlowKey, _: &Flow) -> bool {
        false
    }
    fn fragment(&self, _: &FragmentKey) -> Option<u64> {
        None
    }
    fn put_fragment(&mut self, _: &FragmentKey, _: u64) {}
    fn count(&mut self, _: u32, _: u32, _: u32) {}
    fn event(&mut self, _: Event) {}
    fn seen(&mut self, _: u32, _: u64) {}
    fn may_sample(&mut self, _: u32, _: u64) -> bool {
        false
    }
    fn sample(&mut self, _: &Sample) {}
}
