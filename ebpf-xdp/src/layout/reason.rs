//! Why packets pass or are dropped, and where that is counted.

/// Why a packet passed or was dropped.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Passed: the source is right and there is no policy.
    Source = 0,
    /// Passed: it stays on the link ([`super::Peer::CONTROL`]).
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
    /// Passed: a later fragment between the ends of a tunnel. The kernel puts packets together
    /// before it looks inside, and without a first fragment that passed there is nothing to put
    /// together.
    TunnelFragment = 8,
    /// Dropped: neither IPv4 nor IPv6.
    NotIp = 9,
    /// Dropped: truncated, contradictory, or with more extension headers than are followed.
    Malformed = 10,
    /// Dropped: a guarded link or peer that is not configured.
    Unconfigured = 11,
    /// Dropped: no peer owns the source that WireGuard let through.
    UnknownPeer = 12,
    /// Dropped: a source that no packet may have.
    Martian = 13,
    /// Dropped: no route to the source, in the sense of the peer's mode.
    NoRoute = 14,
    /// Dropped: the route to the source leads to another peer.
    OtherPeer = 15,
    /// Dropped: the source is not in the peer's list.
    NotListed = 16,
    /// Dropped: a rule says so.
    Rule = 17,
    /// Dropped: no rule accepts it.
    Default = 18,
    /// Dropped: a later fragment of a packet whose first fragment did not pass here.
    Fragment = 19,
    /// Dropped: GRE of a version, or with fields, that cannot be looked through.
    Encapsulation = 20,
    /// Dropped: what the tunnel carries is not IP (GRE keepalives, Ethernet, ERSPAN, MPLS, IS-IS),
    /// or not the IP that the encapsulation announces.
    TunnelPayload = 21,
    /// Dropped: the encapsulation ends too early, or the first fragment does not show the headers
    /// of the packet inside.
    TunnelTruncated = 22,
    /// Dropped: between the ends of tunnels, but for none of them: GRE without a key, or with a
    /// wrong one.
    NoTunnel = 23,
}

impl Reason {
    /// All, in the order of their numbers.
    pub const ALL: [Reason; 24] = [
        Reason::Source,
        Reason::Control,
        Reason::Flow,
        Reason::Related,
        Reason::Accept,
        Reason::AcceptDefault,
        Reason::Unguarded,
        Reason::Arp,
        Reason::TunnelFragment,
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
        Reason::TunnelPayload,
        Reason::TunnelTruncated,
        Reason::NoTunnel,
    ];

    /// Number of reasons to pass; the others are reasons to drop.
    pub const PASSES: u32 = 9;
    /// Number of reasons to drop.
    pub const DROPS: u32 = 15;

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
            Reason::TunnelFragment => "tunnel-fragment",
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
            Reason::TunnelPayload => "tunnel-payload",
            Reason::TunnelTruncated => "tunnel-truncated",
            Reason::NoTunnel => "no-tunnel",
        }
    }
}

/// Counters of a peer: one a reason, and for each reason to drop one more for packets that passed
/// because the peer is monitored.
pub const SLOTS: u32 = Reason::PASSES + 2 * Reason::DROPS;

/// The counter of a reason.
#[inline(always)]
pub const fn slot(reason: Reason, monitored: bool) -> u32 {
    reason as u32 + if monitored && reason.is_drop() { Reason::DROPS } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
        assert_eq!(
            Reason::ALL.iter().filter(|reason| reason.is_drop()).count(),
            Reason::DROPS as usize
        );
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
}
