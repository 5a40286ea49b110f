//! The links that the operator wants, as plain data.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use ebpf_xdp::parse::protocol;

use super::address::InterfaceAddress;
use crate::core::{peer::PublicKey, prefix::Prefix};

/// A link that we make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRule {
    /// Its name.
    pub name: String,
    /// What it is.
    pub shape: ShapeRule,
    /// Its addresses, without the link-local one that `link_local` asks for.
    pub addresses: Vec<InterfaceAddress>,
    /// Its link-local address.
    pub link_local: LinkLocal,
    /// Its MTU.
    pub mtu: MtuRule,
}

/// What a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShapeRule {
    /// A WireGuard device.
    Wireguard(DeviceRule),
    /// A tunnel inside one.
    Tunnel(Tunnel),
}

/// A WireGuard device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Where its private key is.
    pub private_key_file: PathBuf,
    /// Its UDP port; `None`: the one that it has.
    pub listen_port: Option<u16>,
    /// The mark of its packets; `None`: the one that it has.
    pub fwmark: Option<u32>,
    /// Its peers.
    pub peers: Vec<PeerLinkRule>,
}

/// A peer of a device that we make. What is `None` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLinkRule {
    /// Its key.
    pub public_key: PublicKey,
    /// Where it is at first. WireGuard follows it when it moves.
    pub endpoint: Option<Endpoint>,
    /// Persistent keepalive in seconds, zero for none.
    pub keepalive: Option<u16>,
    /// Where its preshared key is.
    pub preshared_key_file: Option<PathBuf>,
    /// The AllowedIPs with which it begins; what happens to them later is not our business.
    pub allowed_ips: Vec<Prefix>,
}

/// A tunnel inside a WireGuard device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// What it is.
    pub kind: TunnelKind,
    /// The device.
    pub over: String,
    /// This end, an address of the device.
    pub local: IpAddr,
    /// The other end, an address of the peer.
    pub remote: IpAddr,
    /// Time to live of its packets.
    pub ttl: u8,
    /// Tells tunnels between the same addresses apart.
    pub key: Option<u32>,
}

/// Kinds of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// GRE in IPv4.
    Gre,
    /// GRE in IPv6.
    Ip6gre,
    /// IPv4 in IPv4.
    Ipip,
}

impl TunnelKind {
    /// The kernel's name.
    pub const fn name(self) -> &'static str {
        match self {
            TunnelKind::Gre => "gre",
            TunnelKind::Ip6gre => "ip6gre",
            TunnelKind::Ipip => "ipip",
        }
    }

    /// Protocol of its packets.
    pub const fn protocol(self) -> u8 {
        match self {
            TunnelKind::Gre | TunnelKind::Ip6gre => protocol::GRE,
            TunnelKind::Ipip => protocol::IPIP,
        }
    }

    /// Whether its ends have IPv6 addresses.
    pub const fn is_over_ipv6(self) -> bool {
        matches!(self, TunnelKind::Ip6gre)
    }

    /// Whether it carries IPv6.
    pub const fn carries_ipv6(self) -> bool {
        !matches!(self, TunnelKind::Ipip)
    }
}

/// The link-local address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLocal {
    /// One that is always the same for the same key, or for the same ends of a tunnel.
    Auto,
    /// This one.
    Given(Ipv6Addr),
    /// None of ours.
    Off,
}

/// The MTU of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtuRule {
    /// What the path to the peers leaves.
    Auto,
    /// This.
    Given(u32),
}

/// Where a peer is: an address or a name, and a UDP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name, or an address without brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

/// Why a text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an endpoint: write a name or an address, and a port, such as \
     \"vpn.example.net:51820\" or \"[2001:db8::1]:51820\""
)]
pub struct ParseEndpointError(pub String);

impl Endpoint {
    /// The endpoint, if it needs no name service.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, self.port))
    }
}

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseEndpointError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        let port: u16 = port.parse().map_err(|_| malformed())?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            // A zone, as in fe80::1%eth0, is left to the resolver.
            Some(host) if host.split('%').next().is_some_and(|a| a.parse::<Ipv6Addr>().is_ok()) => {
                host
            }
            Some(_) => return Err(malformed()),
            None => host,
        };
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let valid = bracketed.is_some() || (!host.is_empty() && host.chars().all(name));
        if !valid || port == 0 {
            return Err(malformed());
        }
        Ok(Endpoint { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_survive_printing_and_parsing() {
        for text in ["192.0.2.1:51820", "[2001:db8::1]:51820", "vpn.example.net:1", "[fe80::1%e]:9"]
        {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in
            ["192.0.2.1", "2001:db8::1:51820", "a b:1", ":1", "x:0", "x:65536", "[x]:1", "[]:1"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
