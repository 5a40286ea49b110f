//! How large a packet may be that a link takes.

use super::rule::{Tunnel, TunnelKind};
use crate::core::prefix::Family;

/// The least that IPv6 works with (RFC 8200, section 5); the kernel takes IPv6 off a link below it.
pub const MIN: u32 = 1280;
/// What a WireGuard device has by itself: Ethernet's, with IPv6 around it
/// (`wg_setup()`, drivers/net/wireguard/device.c).
pub const WIREGUARD_DEFAULT: u32 = 1420;

/// What WireGuard adds to a packet: IP header, UDP header (8), and 32 of its own
/// (`MESSAGE_MINIMUM_LENGTH`, drivers/net/wireguard/messages.h).
const fn around(family: Family) -> u32 {
    match family {
        Family::V4 => 20 + 8 + 32,
        Family::V6 => 40 + 8 + 32,
    }
}

/// The MTU of a WireGuard device whose peers are behind paths of these MTUs: what fits the
/// narrowest of them.
pub fn wireguard(paths: impl IntoIterator<Item = (Family, u32)>) -> u32 {
    let fits = |(family, mtu): (Family, u32)| mtu.saturating_sub(around(family));
    paths.into_iter().map(fits).min().unwrap_or(WIREGUARD_DEFAULT).max(MIN)
}

/// The MTU of a tunnel inside a link of this MTU.
pub fn tunnel(tunnel: &Tunnel, over: u32) -> u32 {
    let header = match tunnel.kind {
        TunnelKind::Ipip => 20,
        TunnelKind::Gre => 20 + 4,
        TunnelKind::Ip6gre => 40 + 4,
    };
    let key = if tunnel.key.is_some() { 4 } else { 0 };
    over.saturating_sub(header + key).max(MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_path_counts() {
        assert_eq!(wireguard([]), 1420);
        assert_eq!(wireguard([(Family::V4, 1500)]), 1440);
        assert_eq!(wireguard([(Family::V4, 1500), (Family::V6, 1500)]), 1420);
        assert_eq!(wireguard([(Family::V4, 1400), (Family::V6, 9000)]), 1340);
        assert_eq!(wireguard([(Family::V4, 600)]), MIN);
    }

    #[test]
    fn a_tunnel_takes_its_header() {
        let of = |kind, key| {
            let any = std::net::Ipv4Addr::LOCALHOST.into();
            let over = "wg0".to_owned();
            tunnel(&Tunnel { kind, over, local: any, remote: any, ttl: 64, key }, 1420)
        };
        assert_eq!(of(TunnelKind::Ipip, None), 1400);
        assert_eq!(of(TunnelKind::Gre, None), 1396);
        assert_eq!(of(TunnelKind::Gre, Some(1)), 1392);
        assert_eq!(of(TunnelKind::Ip6gre, None), 1376);
    }
}
