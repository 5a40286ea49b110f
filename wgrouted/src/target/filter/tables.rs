//! The maps of one generation: which there are, how large they are, and what they mean in the
//! daemon's words.
//!
//! Here lives the list of maps. How they come to be is [`super::generation`]'s business.

use std::path::Path;

use ebpf_xdp::layout::{
    self, Budget, Counter, DOMAIN_BITS, EVENTS, Flow, FlowKey, FragmentKey, Link, MAGIC, Peer,
    Plain, Policy, Rule, SLOTS, SetMember, Settings, Tunnel, VERSION, names,
};

use super::{
    error::refuse,
    map::Map,
    pins::{self, foreign},
    sys::{self, MapKind, Pinned},
};
use crate::core::{
    filter::{
        rule::Sizes,
        table::{Contents, FilterError, Identity, SourceKey, TunnelKey, TunnelName},
    },
    peer::PublicKey,
    prefix::Prefix,
};

// enum bpf_map_type, include/uapi/linux/bpf.h
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;
const LPM_TRIE: u32 = 11;
const RINGBUF: u32 = 27;

/// Who the peers are. The programs do not know this map.
pub(super) const IDENTITIES: &str = "WGR_IDENTITIES";

/// Policies: more than anybody writes, at eight bytes each.
const POLICIES: u32 = 4096;
/// Members of all sets of owners. Room is taken as they come.
const MEMBERS: u32 = 1 << 18;
/// Links without a peer of their own beside those that have one.
const SHARED_LINKS: u32 = 256;
/// Bytes for samples that nobody has read yet: some thousands. A multiple of every page size.
const SAMPLES: u32 = 256 << 10;

/// A map as it shall be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) kind: MapKind,
}

const fn shape<K, V>(name: &'static str, kind: u32, entries: u32) -> Shape {
    let (key, value) = (size_of::<K>() as u32, size_of::<V>() as u32);
    Shape { name, kind: MapKind { kind, key, value, entries } }
}

/// Before Linux 6.13 a full trie refuses even to overwrite an entry: a full one is never full.
const fn slack(entries: u32) -> u32 {
    entries.saturating_add(entries / 8).saturating_add(64)
}

/// Peer numbers: they begin at 1.
pub(super) const fn peer_room(sizes: &Sizes) -> u32 {
    sizes.peers.saturating_add(1)
}

/// A tunnel has a row of its own, and with a key another one. Room is taken as they come.
const fn tunnel_room(sizes: &Sizes) -> u32 {
    sizes.peers.saturating_mul(2)
}

/// All maps that are pinned. What the programs have beside them is their own.
pub(super) fn shapes(sizes: &Sizes) -> [Shape; 17] {
    let peers = peer_room(sizes);
    let flows = if sizes.flows == 0 { 1 } else { sizes.flows };
    let rules = if sizes.rules == 0 { 1 } else { sizes.rules };
    let counters = peers.saturating_mul(SLOTS);
    [
        shape::<u32, Settings>(names::SETTINGS, ARRAY, 1),
        shape::<u32, Link>(names::LINKS, HASH, sizes.peers.saturating_add(SHARED_LINKS)),
        shape::<layout::TunnelKey, Tunnel>(names::TUNNELS, HASH, tunnel_room(sizes)),
        shape::<u32, Peer>(names::PEERS, ARRAY, peers),
        shape::<layout::SourceKey4, u32>(names::SOURCES_V4, LPM_TRIE, slack(sizes.sources_v4)),
        shape::<layout::SourceKey6, u32>(names::SOURCES_V6, LPM_TRIE, slack(sizes.sources_v6)),
        shape::<SetMember, u8>(names::OWNER_SETS, HASH, MEMBERS),
        shape::<u32, Policy>(names::POLICIES, ARRAY, POLICIES),
        shape::<u32, Rule>(names::RULES, ARRAY, rules),
        shape::<FlowKey, Flow>(names::FLOWS, LRU_HASH, flows),
        shape::<FragmentKey, u64>(names::FRAGMENTS, LRU_HASH, (flows / 8).clamp(1024, 65536)),
        shape::<u32, Counter>(names::COUNTERS, PERCPU_ARRAY, counters),
        shape::<u32, u64>(names::EVENTS, PERCPU_ARRAY, EVENTS),
        shape::<u32, u64>(names::LAST_SEEN, ARRAY, peers),
        shape::<u32, Budget>(names::BUDGET, PERCPU_ARRAY, 1),
        shape::<(), ()>(names::SAMPLES, RINGBUF, SAMPLES),
        shape::<u32, Who>(IDENTITIES, ARRAY, peers),
    ]
}

/// Maps of the state of conversations: they outlive a generation where they fit.
pub(super) const CONVERSATIONS: [&str; 2] = [names::FLOWS, names::FRAGMENTS];

/// An [`Identity`] as its map holds it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Who {
    /// 1: the number is taken.
    used: u32,
    ifindex: u32,
    key: [u8; 32],
    /// All zero: none.
    tunnel: [u8; 16],
}

// SAFETY: `#[repr(C)]` of integers; its fields fill its size.
unsafe impl Plain for Who {}
const _: () = assert!(size_of::<Who>() == 56);

impl From<Option<Identity>> for Who {
    fn from(identity: Option<Identity>) -> Who {
        identity.map_or_else(Who::default, |identity| Who {
            used: 1,
            ifindex: identity.ifindex,
            key: identity.public_key.0,
            tunnel: identity.tunnel.map_or([0; 16], |name| name.0),
        })
    }
}

impl Who {
    pub(super) fn identity(&self) -> Option<Identity> {
        (self.used == 1).then(|| Identity {
            ifindex: self.ifindex,
            public_key: PublicKey(self.key),
            tunnel: (self.tunnel != [0; 16]).then_some(TunnelName(self.tunnel)),
        })
    }
}

/// A trie key.
pub(super) fn key4(key: &SourceKey) -> Option<layout::SourceKey4> {
    let Prefix::V4(net) = key.prefix else { return None };
    let bits = DOMAIN_BITS + u32::from(net.prefix_len());
    Some(layout::SourceKey4 { bits, domain: key.domain, addr: net.addr().octets() })
}

/// A trie key.
pub(super) fn key6(key: &SourceKey) -> Option<layout::SourceKey6> {
    let Prefix::V6(net) = key.prefix else { return None };
    let bits = DOMAIN_BITS + u32::from(net.prefix_len());
    Some(layout::SourceKey6 { bits, domain: key.domain, addr: net.addr().octets() })
}

fn source_key(domain: u32, addr: std::net::IpAddr, bits: u32) -> Option<SourceKey> {
    let len = u8::try_from(bits.checked_sub(DOMAIN_BITS)?).ok()?;
    Some(SourceKey { domain, prefix: Prefix::new(addr, len)? })
}

/// The maps that the daemon writes and reads, open.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) settings: Map,
    pub(super) links: Map,
    pub(super) tunnels: Map,
    pub(super) peers: Map,
    pub(super) sources_v4: Map,
    pub(super) sources_v6: Map,
    pub(super) owner_sets: Map,
    pub(super) policies: Map,
    pub(super) rules: Map,
    pub(super) counters: Map,
    pub(super) events: Map,
    pub(super) last_seen: Map,
    pub(super) identities: Map,
}

/// How a directory of maps compares with what is wanted.
#[derive(Debug)]
pub(super) enum Fit {
    /// They are what is wanted.
    Fits(Box<Tables>),
    /// Ours, but of another version or size.
    Differs,
}

impl Tables {
    /// Opens the maps of a directory.
    pub(super) fn open(directory: &Path) -> Result<Tables, FilterError> {
        let map = |name| open(directory, name);
        Ok(Tables {
            settings: map(names::SETTINGS)?,
            links: map(names::LINKS)?,
            tunnels: map(names::TUNNELS)?,
            peers: map(names::PEERS)?,
            sources_v4: map(names::SOURCES_V4)?,
            sources_v6: map(names::SOURCES_V6)?,
            owner_sets: map(names::OWNER_SETS)?,
            policies: map(names::POLICIES)?,
            rules: map(names::RULES)?,
            counters: map(names::COUNTERS)?,
            events: map(names::EVENTS)?,
            last_seen: map(names::LAST_SEEN)?,
            identities: map(IDENTITIES)?,
        })
    }

    /// Whether the maps of a directory have the layout that this program knows.
    pub(super) fn is_of_this_version(directory: &Path) -> bool {
        open(directory, names::SETTINGS)
            .is_ok_and(|settings| words(&settings) == Some([MAGIC, VERSION]))
    }

    /// Compares a directory with the plan. Fails if it is not ours.
    pub(super) fn adopt(directory: &Path, sizes: &Sizes) -> Result<Fit, FilterError> {
        let settings = open(directory, names::SETTINGS)?;
        match words(&settings) {
            Some([MAGIC, VERSION]) => {}
            Some([MAGIC, _]) => return Ok(Fit::Differs),
            _ => return Err(foreign(&directory.join(names::SETTINGS))),
        }
        let shapes = shapes(sizes);
        for name in pins::names(directory)? {
            let ours = shapes.iter().any(|shape| shape.name == name);
            if !ours && !super::programs::is_name(&name) {
                return Err(foreign(&directory.join(name)));
            }
        }
        let mut fits = true;
        for Shape { name, kind } in shapes {
            let info = *open(directory, name)?.info();
            if (info.kind, info.key, info.value) != (kind.kind, kind.key, kind.value) {
                return Err(foreign(&directory.join(name)));
            }
            fits &= info.entries == kind.entries;
        }
        if fits { Ok(Fit::Fits(Box::new(Tables::open(directory)?))) } else { Ok(Fit::Differs) }
    }

    /// Writes what holds for all links.
    pub(super) fn configure(&self, sizes: &Sizes, samples: u32) -> std::io::Result<()> {
        let settings = Settings {
            magic: MAGIC,
            version: VERSION,
            flags: Settings::GUARD,
            samples_per_second: samples,
            peers: peer_room(sizes),
            reserved: [0; 3],
        };
        self.settings.set(&0_u32, &settings)
    }

    /// Reads who the peers are.
    pub(super) fn identities(&self) -> std::io::Result<Vec<(u32, Identity)>> {
        let mut all = Vec::new();
        self.identities.scan(|id: u32, who: Who| {
            all.extend(who.identity().map(|identity| (id, identity)));
        })?;
        all.sort_unstable();
        Ok(all)
    }

    /// Reads everything but the policies, in order.
    pub(super) fn contents(&self) -> std::io::Result<Contents> {
        let mut contents = Contents { peers: self.identities()?, ..Contents::default() };
        let sources = &mut contents.sources;
        self.sources_v4.scan(|key: layout::SourceKey4, owner: u32| {
            sources.extend(source_key(key.domain, key.addr.into(), key.bits).map(|k| (k, owner)));
        })?;
        self.sources_v6.scan(|key: layout::SourceKey6, owner: u32| {
            sources.extend(source_key(key.domain, key.addr.into(), key.bits).map(|k| (k, owner)));
        })?;
        self.owner_sets.scan(|member: SetMember, _: u8| {
            contents.members.push((member.set, member.peer));
        })?;
        self.links.scan(|ifindex: u32, _: Link| contents.links.push(ifindex))?;
        self.tunnels.scan(|key: layout::TunnelKey, _: Tunnel| {
            contents.tunnels.push(TunnelKey::from_layout(&key));
        })?;
        contents.sources.sort_unstable();
        contents.members.sort_unstable();
        contents.links.sort_unstable();
        contents.tunnels.sort_unstable();
        Ok(contents)
    }
}

/// Opens a pinned map.
pub(super) fn open(directory: &Path, name: &str) -> Result<Map, FilterError> {
    let path = directory.join(name);
    sys::open(&path, Pinned::Map).and_then(Map::new).map_err(|error| {
        refuse(format!(
            "cannot use {} ({error}): remove the directory it is in, or name another one for the \
             pins",
            path.display()
        ))
    })
}

/// Magic and version, which stand first in the settings of every version.
fn words(settings: &Map) -> Option<[u32; 2]> {
    let info = settings.info();
    let plausible = info.kind == ARRAY && info.key == 4 && (8..=4096).contains(&info.value);
    plausible.then(|| settings.head(&0_u32)).and_then(Result::ok)
}
