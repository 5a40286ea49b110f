//! An address of either family as two words.
//!
//! Invariant: an IPv4 address lies in the low 32 bits and all other bits are zero. Which family an
//! address belongs to is never told by its bits; it stands beside it.

/// An IPv4 or IPv6 address as a number: the first octet is the most significant.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr {
    /// The first eight octets of an IPv6 address; zero for IPv4.
    pub hi: u64,
    /// The last eight octets of an IPv6 address; an IPv4 address.
    pub lo: u64,
}

impl Addr {
    /// The unspecified address.
    pub const UNSPECIFIED: Addr = Addr { hi: 0, lo: 0 };

    /// An IPv4 address from its octets.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Addr {
        Addr { hi: 0, lo: u32::from_be_bytes(octets) as u64 }
    }

    /// An IPv6 address from its octets.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Addr {
        let all = u128::from_be_bytes(octets);
        Addr { hi: (all >> 64) as u64, lo: all as u64 }
    }

    /// The IPv4 octets.
    #[inline(always)]
    pub const fn octets4(self) -> [u8; 4] {
        (self.lo as u32).to_be_bytes()
    }

    /// The IPv6 octets.
    #[inline(always)]
    pub const fn octets6(self) -> [u8; 16] {
        (((self.hi as u128) << 64) | self.lo as u128).to_be_bytes()
    }

    /// The mask of a prefix of this length.
    pub const fn mask(family: u8, len: u8) -> Addr {
        const fn ones(len: u32, of: u32) -> u64 {
            let len = if len > of { of } else { len };
            if len == 0 { 0 } else { (u64::MAX << (of - len)) & (u64::MAX >> (64 - of)) }
        }
        let len = len as u32;
        if family == V4 {
            Addr { hi: 0, lo: ones(len, 32) }
        } else {
            Addr { hi: ones(len, 64), lo: ones(len.saturating_sub(64), 64) }
        }
    }
}

/// Family 4.
pub const V4: u8 = 4;
/// Family 6.
pub const V6: u8 = 6;

/// Sources that no packet may have, whatever the routes say: `0.0.0.0/8` (but see
/// [`is_unspecified_use`](crate::source::is_unspecified_use)), `127.0.0.0/8`, multicast and class
/// E with broadcast (RFC 1122 section 3.2.1.3, RFC 6890); `::`, `::1`, IPv4-mapped and multicast
/// (RFC 4291 section 2).
#[inline(always)]
pub const fn is_martian(family: u8, addr: Addr) -> bool {
    if family == V4 {
        let first = (addr.lo >> 24) as u8;
        first == 0 || first == 127 || first >= 224
    } else {
        addr.hi >> 56 == 0xff || (addr.hi == 0 && (addr.lo <= 1 || addr.lo >> 32 == 0xffff))
    }
}

/// `169.254.0.0/16` and `fe80::/10`.
#[inline(always)]
pub const fn is_link_local(family: u8, addr: Addr) -> bool {
    if family == V4 { addr.lo >> 16 == 0xa9fe } else { addr.hi >> 54 == 0xfe80 >> 6 }
}

/// Multicast and limited broadcast.
#[inline(always)]
pub const fn is_multicast(family: u8, addr: Addr) -> bool {
    if family == V4 {
        addr.lo >> 28 == 0xe || addr.lo == 0xffff_ffff
    } else {
        addr.hi >> 56 == 0xff
    }
}

/// Destinations that no router forwards: link-local unicast, `224.0.0.0/24` (RFC 5771 section 4),
/// limited broadcast, and IPv6 multicast of interface or link scope (RFC 4291 section 2.7).
#[inline(always)]
pub const fn stays_on_link(family: u8, addr: Addr) -> bool {
    is_link_local(family, addr)
        || if family == V4 {
            addr.lo >> 8 == 0xe0_0000 || addr.lo == 0xffff_ffff
        } else {
            addr.hi >> 56 == 0xff && (addr.hi >> 48) & 0xf <= 2
        }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v4(text: &str) -> Addr {
        Addr::v4(text.parse::<Ipv4Addr>().unwrap().octets())
    }

    fn v6(text: &str) -> Addr {
        Addr::v6(text.parse::<Ipv6Addr>().unwrap().octets())
    }

    #[test]
    fn octets_survive() {
        assert_eq!(v4("192.0.2.1").octets4(), [192, 0, 2, 1]);
        let addr: Ipv6Addr = "2001:db8::1:2".parse().unwrap();
        assert_eq!(Addr::v6(addr.octets()).octets6(), addr.octets());
    }

    #[test]
    fn masks() {
        assert_eq!(Addr::mask(V4, 0), Addr::UNSPECIFIED);
        assert_eq!(Addr::mask(V4, 8), v4("255.0.0.0"));
        assert_eq!(Addr::mask(V4, 32), v4("255.255.255.255"));
        assert_eq!(Addr::mask(V6, 0), Addr::UNSPECIFIED);
        assert_eq!(Addr::mask(V6, 32), v6("ffff:ffff::"));
        assert_eq!(Addr::mask(V6, 64), v6("ffff:ffff:ffff:ffff::"));
        assert_eq!(Addr::mask(V6, 65), v6("ffff:ffff:ffff:ffff:8000::"));
        assert_eq!(Addr::mask(V6, 128), v6("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
    }

    #[test]
    fn kinds() {
        for text in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.5", "255.255.255.255", "240.0.0.1"]
        {
            assert!(is_martian(V4, v4(text)), "{text}");
        }
        for text in ["::", "::1", "ff02::1", "::ffff:10.0.0.1"] {
            assert!(is_martian(V6, v6(text)), "{text}");
        }
        assert!(!is_martian(V4, v4("10.0.0.1")) && !is_martian(V6, v6("fe80::1")));
        assert!(is_link_local(V4, v4("169.254.1.1")) && !is_link_local(V4, v4("169.255.1.1")));
        assert!(is_link_local(V6, v6("febf::1")) && !is_link_local(V6, v6("fec0::1")));
        for (text, on_link) in [("224.0.0.5", true), ("224.0.1.1", false), ("10.0.0.1", false)] {
            assert_eq!(stays_on_link(V4, v4(text)), on_link, "{text}");
        }
        for (text, on_link) in [("ff02::1:6", true), ("ff01::1", true), ("ff05::2", false)] {
            assert_eq!(stays_on_link(V6, v6(text)), on_link, "{text}");
            assert!(is_multicast(V6, v6(text)));
        }
    }
}
