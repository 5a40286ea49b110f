//! Network prefixes in canonical form.
//!
//! Here lives [`Prefix`] alone. Invariant: the host bits of every `Prefix` are zero, so equality,
//! order and hash of two prefixes agree with the kernel's idea of "the same prefix".

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Address family of a prefix, a route or a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4 (`AF_INET`).
    V4,
    /// IPv6 (`AF_INET6`).
    V6,
}

impl Family {
    /// Both families, in the order in which they are dumped.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// Number of bits in an address of this family.
    pub const fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        })
    }
}

/// An IPv4 or IPv6 network whose host bits are zero.
///
/// Ordered by family, then address, then length, as `ip route` users read tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prefix {
    /// An IPv4 network.
    V4(Ipv4Net),
    /// An IPv6 network.
    V6(Ipv6Net),
}

impl Prefix {
    /// `0.0.0.0/0`.
    pub const DEFAULT_V4: Prefix = Prefix::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
    /// `::/0`.
    pub const DEFAULT_V6: Prefix = Prefix::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0));

    /// The network of `len` bits that contains `addr`; `None` if `len` exceeds the family's bits.
    pub fn new(addr: IpAddr, len: u8) -> Option<Prefix> {
        Some(match addr {
            IpAddr::V4(addr) => Prefix::V4(Ipv4Net::new(addr, len).ok()?.trunc()),
            IpAddr::V6(addr) => Prefix::V6(Ipv6Net::new(addr, len).ok()?.trunc()),
        })
    }

    /// The host prefix (`/32` or `/128`) of an address.
    pub fn host(addr: IpAddr) -> Prefix {
        match addr {
            IpAddr::V4(addr) => Prefix::V4(Ipv4Net::from(addr)),
            IpAddr::V6(addr) => Prefix::V6(Ipv6Net::from(addr)),
        }
    }

    /// The address of a host prefix; `None` for a network of several.
    pub fn host_address(&self) -> Option<IpAddr> {
        (*self == Prefix::host(self.addr())).then(|| self.addr())
    }

    /// The default route of a family.
    pub const fn default_of(family: Family) -> Prefix {
        match family {
            Family::V4 => Prefix::DEFAULT_V4,
            Family::V6 => Prefix::DEFAULT_V6,
        }
    }

    /// The family.
    pub const fn family(&self) -> Family {
        match self {
            Prefix::V4(_) => Family::V4,
            Prefix::V6(_) => Family::V6,
        }
    }

    /// The network address.
    pub const fn addr(&self) -> IpAddr {
        match self {
            Prefix::V4(net) => IpAddr::V4(net.addr()),
            Prefix::V6(net) => IpAddr::V6(net.addr()),
        }
    }

    /// The prefix length in bits.
    pub const fn prefix_len(&self) -> u8 {
        match self {
            Prefix::V4(net) => net.prefix_len(),
            Prefix::V6(net) => net.prefix_len(),
        }
    }

    /// Whether this is `0.0.0.0/0` or `::/0`.
    pub const fn is_default(&self) -> bool {
        self.prefix_len() == 0
    }

    /// Whether the address lies in this prefix. Addresses of the other family never do.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self, addr) {
            (Prefix::V4(net), IpAddr::V4(addr)) => net.contains(&addr),
            (Prefix::V6(net), IpAddr::V6(addr)) => net.contains(&addr),
            _ => false,
        }
    }

    /// Whether `other` is this prefix or a more specific one inside it.
    pub fn covers(&self, other: &Prefix) -> bool {
        self.prefix_len() <= other.prefix_len() && self.contains(other.addr())
    }

    /// The prefixes that contain `addr`, most specific first, the host prefix included.
    pub fn containing(addr: IpAddr) -> impl Iterator<Item = Prefix> {
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        (0..=bits).rev().filter_map(move |len| Prefix::new(addr, len))
    }
}

impl From<IpNet> for Prefix {
    fn from(net: IpNet) -> Self {
        match net {
            IpNet::V4(net) => Prefix::V4(net.trunc()),
            IpNet::V6(net) => Prefix::V6(net.trunc()),
        }
    }
}

impl From<Prefix> for IpNet {
    fn from(prefix: Prefix) -> Self {
        match prefix {
            Prefix::V4(net) => IpNet::V4(net),
            Prefix::V6(net) => IpNet::V6(net),
        }
    }
}

/// Why a text is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePrefixError {
    /// Neither an address nor `address/length`.
    #[error("`{0}` is not a prefix: write address/length, such as 192.0.2.0/24 or 2001:db8::/32")]
    Syntax(String),
    /// Bits are set to the right of the prefix length.
    #[error("`{given}` has bits set outside its length: write {meant}")]
    HostBits {
        /// What was written.
        given: String,
        /// The network that contains it.
        meant: Prefix,
    },
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    /// Parses `address/length` or a bare address (a host prefix). Host bits are refused, as
    /// `ip route` does: they are more often a mistyped length than a wish.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Ok(Prefix::host(addr));
        }
        let net: IpNet = text.parse().map_err(|_| ParsePrefixError::Syntax(text.to_owned()))?;
        let prefix = Prefix::from(net);
        if prefix.addr() != net.addr() {
            return Err(ParsePrefixError::HostBits { given: text.to_owned(), meant: prefix });
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Prefix::V4(net) => net.fmt(f),
            Prefix::V6(net) => net.fmt(f),
        }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_refused_with_the_network_that_was_meant() {
        let error = "10.0.0.1/24".parse::<Prefix>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`10.0.0.1/24` has bits set outside its length: write 10.0.0.0/24"
        );
    }

    #[test]
    fn a_bare_address_is_a_host_prefix() {
        assert_eq!("192.0.2.1".parse::<Prefix>().unwrap().to_string(), "192.0.2.1/32");
        assert_eq!("fe80::1".parse::<Prefix>().unwrap().to_string(), "fe80::1/128");
    }

    #[test]
    fn new_masks_host_bits() {
        let prefix = Prefix::new("10.1.2.3".parse().unwrap(), 8).unwrap();
        assert_eq!(prefix, "10.0.0.0/8".parse().unwrap());
        assert_eq!(Prefix::new("10.1.2.3".parse().unwrap(), 33), None);
    }

    #[test]
    fn covers_is_containment() {
        let wide: Prefix = "10.0.0.0/8".parse().unwrap();
        let narrow: Prefix = "10.1.0.0/16".parse().unwrap();
        assert!(wide.covers(&narrow) && wide.covers(&wide) && !narrow.covers(&wide));
        assert!(!Prefix::DEFAULT_V6.covers(&narrow));
    }
}
