//! Peers: how what they send is treated.

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
    /// The domain its mode asks, a [`super::domain`].
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
    /// Beside its mode, the source must be in the peer's list ([`super::domain::list`]).
    pub const NARROW: u8 = 16;
    /// `loose` is not satisfied by a default route.
    pub const IGNORE_DEFAULT: u8 = 32;
    /// It has tunnels: what its packets encapsulate is looked for in the table of tunnels, and
    /// judged as sent by the tunnel's peer.
    pub const TUNNELS: u8 = 64;
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
