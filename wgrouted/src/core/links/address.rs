//! Addresses of interfaces.
//!
//! Here live [`InterfaceAddress`], an address with the length of its network, and the link-local
//! address that a link is given by default.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use sha2::{Digest, Sha256};

use crate::core::prefix::{Family, Prefix};

/// An address and the length of the network that it is in: `10.0.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// Length of the network's prefix.
    pub length: u8,
}

/// Why a text is not an interface's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an interface's address: write it with a length, such as \"10.0.0.1/24\"")]
pub struct ParseAddressError(pub String);

impl InterfaceAddress {
    /// Family of the address.
    pub const fn family(&self) -> Family {
        match self.address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

impl FromStr for InterfaceAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseAddressError(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        if !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        let length = length.parse().map_err(|_| malformed())?;
        Prefix::new(address, length).ok_or_else(malformed)?;
        if address.is_unspecified() || address.is_multicast() {
            return Err(malformed());
        }
        Ok(InterfaceAddress { address, length })
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The link-local address of a link: the same whenever it is made again, and another one for every
/// `seed`. WireGuard devices have no hardware address to make one of.
pub fn link_local(seed: &[&[u8]]) -> InterfaceAddress {
    let mut hash = Sha256::new_with_prefix(b"wgrouted link-local");
    for part in seed {
        // With its length, so that no two seeds are the same run of bytes.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..].copy_from_slice(&digest[..8]);
    InterfaceAddress { address: Ipv6Addr::from(octets).into(), length: 64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_printing_and_parsing() {
        for text in ["10.0.0.1/24", "10.0.0.1/32", "fe80::1/64", "2001:db8::1/128"] {
            assert_eq!(text.parse::<InterfaceAddress>().unwrap().to_string(), text);
        }
        for text in
            ["10.0.0.1", "10.0.0.1/33", "10.0.0.1/+4", "x/24", "0.0.0.0/0", "ff02::1/64", ""]
        {
            assert!(text.parse::<InterfaceAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn link_local_addresses_are_stable_and_told_apart() {
        let one = link_local(&[&[1; 32]]);
        assert_eq!(one, link_local(&[&[1; 32]]));
        assert!(one.to_string().starts_with("fe80::") && one.to_string().ends_with("/64"));
        assert_ne!(one, link_local(&[&[2; 32]]));
        assert_ne!(link_local(&[b"ab", b"c"]), link_local(&[b"a", b"bc"]));
    }
}
