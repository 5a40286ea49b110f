//! Domains partition the tries of sources: one trie a family holds them all.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_differ() {
        let all = [routes(7), feasible(7), list(7), group(7), own(7), proven(7)];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one));
        }
    }
}
