//! Keys and values of the maps, byte for byte as the kernel holds them.
//!
//! Nothing here decides anything. Every type has a fixed size without padding, asserted below: a
//! byte that nobody sets would make two equal keys differ. [`VERSION`] changes with any of them.

use crate::addr::Addr;
use crate::parse::Headers;

/// Version of this layout: programs and maps of different versions never meet.
pub const VERSION: u32 = 1;
/// Marks [`Settings`] as ours.
pub const MAGIC: u32 = 0x7767_7266;

/// A type that may be handed to the kernel as bytes and taken back from it.
///
/// # Safety
///
/// `#[repr(C)]` or a primitive, without padding, and every bit pattern is a value.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($type:ty = $size:literal),* $(,)?) => { $(
        const _: () = assert!(size_of::<$type>() == $size);
        // SAFETY: `#[repr(C)]` of integers; its fields fill the size asserted above.
        unsafe impl Plain for $type {}
    )* };
}

plain! {
    u8 = 1,
    u32 = 4,
    u64 = 8,
    Settings = 32,
    Link = 8,
    Peer = 8,
    SourceKey4 = 12,
    SourceKey6 = 24,
    SetMember = 8,
    Policy = 8,
    Rule = 80,
    FlowKey = 40,
    Flow = 16,
    FragmentKey = 40,
    Counter = 16,
    Budget = 16,
    Sample = 64,
}

/// Names of the maps, as the object file has them.
pub mod names {
    /// `ARRAY` of one [`Settings`](super::Settings).
    pub const SETTINGS: &str = "WGR_SETTINGS";
    /// `HASH`: interface index to [`Link`](super::Link).
    pub const LINKS: &str = "WGR_LINKS";
    /// `ARRAY`: peer id to [`Peer`](super::Peer).
    pub const PEERS: &str = "WGR_PEERS";
    /// `LPM_TRIE`: [`SourceKey4`](super::SourceKey4) to owner.
    pub const SOURCES_V4: &str = "WGR_SOURCES_V4";
    /// `LPM_TRIE`: [`SourceKey6`](super::SourceKey6) to owner.
    pub const SOURCES_V6: &str = "WGR_SOURCES_V6";
    /// `HASH` of [`SetMember`](super::SetMember); the value says nothing.
    pub const OWNER_SETS: &str = "WGR_OWNER_SETS";
    /// `ARRAY`: policy id to [`Policy`](super::Policy).
    pub const POLICIES: &str = "WGR_POLICIES";
    /// `ARRAY` of [`Rule`](super::Rule).
    pub const RULES: &str = "WGR_RULES";
    /// `LRU_HASH`: [`FlowKey`](super::FlowKey) to [`Flow`](super::Flow).
    pub const FLOWS: &str = "WGR_FLOWS";
    /// `LRU_HASH`: [`FragmentKey`](super::FragmentKey) to the time of its first fragment.
    pub const FRAGMENTS: &str = "WGR_FRAGMENTS";
    /// `PERCPU_ARRAY`: peer id × [`SLOTS`](super::SLOTS) + slot to [`Counter`](super::Counter).
    pub const COUNTERS: &str = "WGR_COUNTERS";
    /// `PERCPU_ARRAY`: [`Event`](super::Event) to how often it happened.
    pub const EVENTS: &str = "WGR_EVENTS";
    /// `ARRAY`: peer id to the time its last accepted packet came.
    pub const LAST_SEEN: &str = "WGR_LAST_SEEN";
    /// `PERCPU_ARRAY` of one [`Budget`](super::Budget).
    pub const BUDGET: &str = "WGR_BUDGET";
    /// `RINGBUF` of [`Sample`](super::Sample).
    pub const SAMPLES: &str = "WGR_SAMPLES";
}

/// What holds for all links.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u32,
    /// Bits of [`Settings::GUARD`].
    pub flags: u32,
    /// Sampled drops a second and CPU; 0 samples nothing.
    pub samples_per_second: u32,
    /// Number of peers the tables have room for: ids are below it.
    pub peers: u32,
    /// Zero.
    pub reserved: [u32; 3],
}

impl Settings {
    /// A device that the program is attached to but that is not in the table of links, or a peer
    /// without a mode, is refused. Without it such packets pass and are counted.
    pub const GUARD: u32 = 1;
}

/// How a link's packets find their peer. One word, so that a change is seen whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// A [`Finder`].
    pub finder: u8,
    /// Bits of `Link::ETHERNET` and the like.
    pub flags: u8,
    /// Flows and fragments are known within a zone: links of different routing instances (VRFs),
    /// where the same addresses mean different hosts, have different zones.
    pub zone: u16,
    /// The peer of a dedicated link.
    pub peer: u32,
}

impl Link {
    /// Packets begin with an Ethernet header. WireGuard and tun devices have none.
    pub const ETHERNET: u8 = 1;
    /// What cannot be told by peer (malformed packets, unknown sources) is counted, not dropped.
    pub const MONITOR: u8 = 2;
    /// Packets sent through the device open flows: wanted once a peer behind it has a policy.
    pub const LEARN: u8 = 4;
}

/// How a link's packets find their peer.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finder {
    /// The link has one peer.
    Dedicated = 1,
    /// The packet's source names it: WireGuard has checked that.
    Shared = 2,
    /// The outer packet's source names it: WireGuard has checked that.
    Tunnel = 3,
}

/// How a peer is treated. One word, so that a change is seen whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// A [`Mode`]; 0: nobody has configured this peer.
    pub mode: u8,
    /// Bits of `Peer::MONITOR` and the like.
    pub flags: u8,
    /// The policy of what the peer sends; 0: none, everything passes.
    pub policy: u16,
    /// The domain its mode asks, a [`domain`].
    pub domain: u32,
}

impl Peer {
    /// Count and sample what would be dropped, and let it pass.
    pub const MONITOR: u8 = 1;
    /// A link-local source passes towards destinations that stay on the link, in any mode: Babel,
    /// OSPFv3, neighbour discovery, link-local BFD.
    pub const LINK_LOCAL: u8 = 2;
    /// The unspecified source passes where protocols need it: DHCP requests, duplicate address
    /// detection, router solicitation, multicast listener reports.
    pub const UNSPECIFIED: u8 = 4;
    /// What stays on the link is not subject to the policy: routing protocols and neighbour
    /// discovery live under a policy that drops by default. Sources are checked nevertheless.
    pub const CONTROL: u8 = 8;
    /// Beside its mode, the source must be in the peer's list ([`domain::list`]).
    pub const NARROW: u8 = 16;
    /// `loose` is not satisfied by a default route.
    pub const IGNORE_DEFAULT: u8 = 32;
}

/// Which sources a peer may use.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Any.
    Off = 1,
    /// The best route to the source points at this peer (RFC 3704 section 2.2).
    Strict = 2,
    /// Some route to the source points at this peer (RFC 3704 section 2.3).
    Feasible = 3,
    /// There is a route to the source (RFC 3704 section 2.4).
    Loose = 4,
    /// The source is in the peer's list.
    List = 5,
    /// The source is legal for a member of the peer's group (the idea of RFC 8704).
    Group = 6,
}

/// Domains partition the tries of sources: one trie a family holds them all.
pub mod domain {
    /// Bits of the number within a kind.
    pub const BITS: u32 = 29;

    const fn of(kind: u32, number: u32) -> u32 {
        (kind << BITS) | (number & ((1 << BITS) - 1))
    }

    /// The best routes of a routing instance, with their owners: `strict` and `loose`.
    pub const fn routes(instance: u32) -> u32 {
        of(1, instance)
    }

    /// All routes towards a peer: `feasible`.
    pub const fn feasible(peer: u32) -> u32 {
        of(2, peer)
    }

    /// A peer's configured list: `list`, and what narrows other modes.
    pub const fn list(peer: u32) -> u32 {
        of(3, peer)
    }

    /// What is legal for the members of a group: `group`.
    pub const fn group(group: u32) -> u32 {
        of(4, group)
    }

    /// A peer's own addresses, which pass in any mode: its end of the link, from which OSPF, BGP
    /// and ICMP errors come whether or not a route leads there.
    pub const fn own(peer: u32) -> u32 {
        of(5, peer)
    }

    /// What WireGuard checks on a device (its AllowedIPs), with the owners, by interface index.
    pub const fn proven(ifindex: u32) -> u32 {
        of(6, ifindex)
    }
}

/// Values of the tries.
pub mod owner {
    /// The longest match says: not this way. A reject route, or a hole in a list.
    pub const NOBODY: u32 = 0;
    /// Set in the number of a set of peers (a multipath route), see [`SetMember`](super::SetMember).
    pub const SET: u32 = 1 << 31;
    /// Set in the value of a default route, for `loose`.
    pub const DEFAULT: u32 = 1 << 30;
    /// The number of a peer or of a set.
    pub const NUMBER: u32 = DEFAULT - 1;
    /// A route that leads to none of our peers.
    pub const ELSEWHERE: u32 = NUMBER;
}

/// Bits of a trie key before the address: the domain is always matched whole.
pub const DOMAIN_BITS: u32 = 32;

/// Key of the IPv4 trie, as `BPF_MAP_TYPE_LPM_TRIE` wants it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey4 {
    /// [`DOMAIN_BITS`] plus the prefix length.
    pub bits: u32,
    /// A [`domain`].
    pub domain: u32,
    /// The network's octets.
    pub addr: [u8; 4],
}

/// Key of the IPv6 trie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey6 {
    /// [`DOMAIN_BITS`] plus the prefix length.
    pub bits: u32,
    /// A [`domain`].
    pub domain: u32,
    /// The network's octets.
    pub addr: [u8; 16],
}

/// A peer belongs to a set of owners.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SetMember {
    /// The set.
    pub set: u32,
    /// The peer.
    pub peer: u32,
}

/// Where a policy's rules lie. One word, so that a new version replaces an old one at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Index of its first rule.
    pub first: u32,
    /// Number of rules, at most [`MAX_RULES`].
    pub count: u16,
    /// 1: what no rule matches passes; anything else: it is dropped. A policy that was never
    /// loaded therefore drops.
    pub accept: u8,
    /// 1: flows are tracked.
    pub stateful: u8,
}

/// Most rules a policy may have: what bounds the work for one packet.
pub const MAX_RULES: u32 = 4096;

/// A rule. It holds masks, not lengths, so that it is matched without branches.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Source prefix.
    pub src: Addr,
    /// Mask of the source prefix.
    pub src_mask: Addr,
    /// Destination prefix.
    pub dst: Addr,
    /// Mask of the destination prefix.
    pub dst_mask: Addr,
    /// The protocol.
    pub protocol: u8,
    /// 0: any protocol; 255: the one above.
    pub protocol_mask: u8,
    /// [`Rule::V4`], [`Rule::V6`] or both.
    pub families: u8,
    /// 1: what matches is accepted; anything else: dropped.
    pub accept: u8,
    /// Lowest source port; of ICMP and ICMPv6, lowest code.
    pub src_port_min: u16,
    /// Highest source port, or code.
    pub src_port_max: u16,
    /// Lowest destination port; of ICMP and ICMPv6, lowest type.
    pub dst_port_min: u16,
    /// Highest destination port, or type.
    pub dst_port_max: u16,
    /// Free for the one who compiles policies; the programs never look at it.
    pub tag: u32,
}

impl Rule {
    /// Matches IPv4.
    pub const V4: u8 = 1;
    /// Matches IPv6.
    pub const V6: u8 = 2;

    /// Matches everything, and drops it.
    pub const ANY: Rule = Rule {
        src: Addr::UNSPECIFIED,
        src_mask: Addr::UNSPECIFIED,
        dst: Addr::UNSPECIFIED,
        dst_mask: Addr::UNSPECIFIED,
        protocol: 0,
        protocol_mask: 0,
        families: Rule::V4 | Rule::V6,
        accept: 0,
        src_port_min: 0,
        src_port_max: u16::MAX,
        dst_port_min: 0,
        dst_port_max: u16::MAX,
        tag: 0,
    };

    /// Whether the rule matches.
    #[inline(always)]
    pub const fn matches(&self, headers: &Headers) -> bool {
        // Families 4 and 6 are `V4` and `V6`, 1 and 2.
        let family = (headers.family >> 1).wrapping_sub(1);
        let mut miss = (family & !self.families) as u64;
        miss |= ((headers.protocol ^ self.protocol) & self.protocol_mask) as u64;
        miss |= outside(headers.src_port, self.src_port_min, self.src_port_max);
        miss |= outside(headers.dst_port, self.dst_port_min, self.dst_port_max);
        miss |= (headers.src.hi ^ self.src.hi) & self.src_mask.hi;
        miss |= (headers.src.lo ^ self.src.lo) & self.src_mask.lo;
        miss |= (headers.dst.hi ^ self.dst.hi) & self.dst_mask.hi;
        miss |= (headers.dst.lo ^ self.dst.lo) & self.dst_mask.lo;
        miss == 0
    }
}

/// Not zero: the port is not between the two.
#[inline(always)]
const fn outside(port: u16, min: u16, max: u16) -> u64 {
    let (port, min, max) = (port as i64, min as i64, max as i64);
    (((port - min) | (max - port)) >> 63) as u64
}

/// A flow, the same for both directions: `a` is the lower of the two ends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Lower end.
    pub a: Addr,
    /// Higher end.
    pub b: Addr,
    /// Port of the lower end.
    pub a_port: u16,
    /// Port of the higher end.
    pub b_port: u16,
    /// Protocol.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// [`Link::zone`].
    pub zone: u16,
}

/// What is known of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// When a packet of it passed last, in nanoseconds of the coarse monotonic clock; no more
    /// exact than a second.
    pub seen: u64,
    /// The peer that opened it; 0: this side.
    pub peer: u32,
    /// Bits of [`crate::flow::FROM_A`] and the like.
    pub state: u32,
}

/// A fragmented packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Identification.
    pub id: u32,
    /// [`Link::zone`].
    pub zone: u16,
    /// Protocol; 0 for IPv6, where only the first fragment knows it (RFC 8200 section 4.5).
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
}

/// Packets and bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes as the hook saw them: tc counts a coalesced packet once.
    pub bytes: u64,
}

/// How many samples a CPU may still take.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// When the second began.
    pub since: u64,
    /// Samples taken in it.
    pub taken: u64,
}

/// A dropped packet, or one that would have been.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Nanoseconds of the coarse monotonic clock.
    pub time: u64,
    /// Source; of the inner packet on tunnel links.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Device.
    pub ifindex: u32,
    /// Peer; 0: unknown.
    pub peer: u32,
    /// Index of the rule within its policy plus one; 0: no rule.
    pub rule: u32,
    /// Length of the packet.
    pub length: u32,
    /// Source port, or ICMP code.
    pub src_port: u16,
    /// Destination port, or ICMP type.
    pub dst_port: u16,
    /// Protocol.
    pub protocol: u8,
    /// 4 or 6; 0: the packet was not understood.
    pub family: u8,
    /// A [`Reason`].
    pub reason: u8,
    /// 1: the packet passed, for the peer is monitored.
    pub monitored: u8,
}

/// Why a packet passed or was dropped.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Passed: the source is right and there is no policy.
    Source = 0,
    /// Passed: it stays on the link ([`Peer::CONTROL`]).
    Control = 1,
    /// Passed: a known flow, or a later fragment of a packet that passed.
    Flow = 2,
    /// Passed: an ICMP error about a known flow.
    Related = 3,
    /// Passed: a rule accepts it.
    Accept = 4,
    /// Passed: the policy accepts by default.
    AcceptDefault = 5,
    /// Passed: nobody has configured this link or peer, and nothing is guarded.
    Unguarded = 6,
    /// Passed: no IP (ARP on an Ethernet device).
    Arp = 7,
    /// Dropped: neither IPv4 nor IPv6.
    NotIp = 8,
    /// Dropped: truncated, contradictory, or with more extension headers than are followed.
    Malformed = 9,
    /// Dropped: a guarded link or peer that is not configured.
    Unconfigured = 10,
    /// Dropped: no peer owns the source that WireGuard let through.
    UnknownPeer = 11,
    /// Dropped: a source that no packet may have.
    Martian = 12,
    /// Dropped: no route to the source, in the sense of the peer's mode.
    NoRoute = 13,
    /// Dropped: the route to the source leads to another peer.
    OtherPeer = 14,
    /// Dropped: the source is not in the peer's list.
    NotListed = 15,
    /// Dropped: a rule says so.
    Rule = 16,
    /// Dropped: no rule accepts it.
    Default = 17,
    /// Dropped: a later fragment of a packet whose first fragment did not pass here.
    Fragment = 18,
    /// Dropped: an encapsulation that cannot be looked into.
    Encapsulation = 19,
}

impl Reason {
    /// All, in the order of their numbers.
    pub const ALL: [Reason; 20] = [
        Reason::Source,
        Reason::Control,
        Reason::Flow,
        Reason::Related,
        Reason::Accept,
        Reason::AcceptDefault,
        Reason::Unguarded,
        Reason::Arp,
        Reason::NotIp,
        Reason::Malformed,
        Reason::Unconfigured,
        Reason::UnknownPeer,
        Reason::Martian,
        Reason::NoRoute,
        Reason::OtherPeer,
        Reason::NotListed,
        Reason::Rule,
        Reason::Default,
        Reason::Fragment,
        Reason::Encapsulation,
    ];

    /// Number of reasons to pass; the others are reasons to drop.
    pub const PASSES: u32 = 8;
    /// Number of reasons to drop.
    pub const DROPS: u32 = 12;

    /// Whether it speaks against the packet.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self as u32 >= Reason::PASSES
    }

    /// The word that people and scripts read.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Source => "source",
            Reason::Control => "control",
            Reason::Flow => "flow",
            Reason::Related => "related",
            Reason::Accept => "accept-rule",
            Reason::AcceptDefault => "accept-default",
            Reason::Unguarded => "unguarded",
            Reason::Arp => "arp",
            Reason::NotIp => "not-ip",
            Reason::Malformed => "malformed",
            Reason::Unconfigured => "unconfigured",
            Reason::UnknownPeer => "unknown-peer",
            Reason::Martian => "martian",
            Reason::NoRoute => "no-route",
            Reason::OtherPeer => "other-peer",
            Reason::NotListed => "not-listed",
            Reason::Rule => "drop-rule",
            Reason::Default => "drop-default",
            Reason::Fragment => "fragment",
            Reason::Encapsulation => "encapsulation",
        }
    }
}

/// Counters of a peer: one a reason, and for each reason to drop one more for packets that passed
/// because the peer is monitored.
pub const SLOTS: u32 = 32;

const _: () = assert!(Reason::PASSES + 2 * Reason::DROPS == SLOTS);

/// The counter of a reason.
#[inline(always)]
pub const fn slot(reason: Reason, monitored: bool) -> u32 {
    reason as u32 + if monitored && reason.is_drop() { Reason::DROPS } else { 0 }
}

/// What is counted beside packets.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A flow was opened. The table drops the least recently used ones by itself: what was opened,
    /// has not ended and is not there was evicted.
    FlowOpened = 0,
    /// A flow could not be stored: its replies will not pass.
    FlowFailed = 1,
    /// A packet met its flow after the timeout.
    FlowExpired = 2,
    /// The first fragment of a packet passed.
    FragmentOpened = 3,
    /// A sample was not taken: the second's budget was spent.
    SampleLimited = 4,
    /// A sample was not taken: the reader is behind.
    SampleLost = 5,
}

/// Number of [`Event`]s.
pub const EVENTS: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
        assert_eq!(Reason::ALL.iter().filter(|reason| reason.is_drop()).count(), 12);
    }

    #[test]
    fn slots_do_not_overlap() {
        let mut seen = [false; SLOTS as usize];
        for reason in Reason::ALL {
            for monitored in [false, true] {
                if !monitored || reason.is_drop() {
                    let slot = &mut seen[slot(reason, monitored) as usize];
                    assert!(!*slot, "{reason:?} {monitored}");
                    *slot = true;
                }
            }
        }
        assert!(seen.into_iter().all(|seen| seen));
    }

    #[test]
    fn domains_differ() {
        let all = [
            domain::routes(7),
            domain::feasible(7),
            domain::list(7),
            domain::group(7),
            domain::own(7),
            domain::proven(7),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one));
        }
    }
}
