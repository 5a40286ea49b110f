//! Topologies.
//!
//! Here lives how nodes, links, WireGuard devices and tunnel addresses are put together; what
//! runs on them is not decided here.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::{
    Lab, Link,
    node::Node,
    wireguard::{Peer, Wireguard},
};

/// The addresses of a node inside the tunnels of network N: `10.(99+N).0.HOST`, `fd99:N::HOST`
/// and `fe80::N:HOST`.
///
/// The link-local address is what routing daemons use as IPv6 gateway. WireGuard devices never
/// make one themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// The network: 0, unless a scenario needs several.
    pub network: u8,
    /// The node's number in it.
    pub host: u16,
}

impl Inner {
    /// IPv4.
    pub fn v4(self) -> Ipv4Addr {
        let [high, low] = self.host.to_be_bytes();
        Ipv4Addr::new(10, 99 + self.network, high, low)
    }

    /// IPv6, global.
    pub fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd99, self.network.into(), 0, 0, 0, 0, 0, self.host)
    }

    /// IPv6, link-local.
    pub fn link_local(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, self.network.into(), self.host)
    }

    /// All three as host prefixes: the AllowedIPs that a peer with these addresses starts with.
    pub fn prefixes(self) -> Vec<IpNet> {
        [IpAddr::from(self.v4()), self.v6().into(), self.link_local().into()]
            .map(IpNet::from)
            .to_vec()
    }

    /// Gives them to a device, with the networks that all its nodes share, and brings it up.
    pub fn assign(self, device: &Wireguard) -> Result<()> {
        device.node().ip_batch(&format!(
            "address add {}/16 dev {name}\n\
             address add {}/64 dev {name} nodad\n\
             address add {}/64 dev {name} nodad\n\
             link set {name} up\n",
            self.v4(),
            self.v6(),
            self.link_local(),
            name = device.name()
        ))
    }
}

/// The hub's number among tunnel addresses; spoke N has number N.
const HUB: u16 = 254;

/// A hub with one WireGuard device that all spokes share. The interesting side is the hub: each
/// spoke sends everything to it and needs no daemon.
#[derive(Debug)]
pub struct Star {
    /// The hub.
    pub hub: Node,
    /// Its device, `wg0`.
    pub wg: Wireguard,
    /// The hub's tunnel addresses.
    pub inner: Inner,
    /// The spokes, `s1` first.
    pub spokes: Vec<Spoke>,
}

/// A spoke of a [`Star`].
#[derive(Debug)]
pub struct Spoke {
    /// The node.
    pub node: Node,
    /// Its device, `wg0`.
    pub wg: Wireguard,
    /// Its tunnel addresses.
    pub inner: Inner,
    /// Its underlay link; the hub is the `a` end.
    pub link: Link,
}

impl Star {
    /// Builds a hub, its device `wg0`, and spokes `s1` to `sN`.
    pub fn new(lab: &mut Lab, spokes: u16) -> Result<Star> {
        let hub = lab.node("hub")?;
        Star::on(lab, &hub, 0, 1..=spokes)
    }

    /// Gives a node the device `wgN` in tunnel network N, shared by spokes with these numbers.
    pub fn on(lab: &mut Lab, hub: &Node, network: u8, spokes: RangeInclusive<u16>) -> Result<Star> {
        let wg = Wireguard::new(hub, &format!("wg{network}"))?;
        let inner = Inner { network, host: HUB };
        inner.assign(&wg)?;
        let spokes: Vec<Spoke> = spokes
            .map(|host| Spoke::new(lab, &wg, Inner { network, host }))
            .collect::<Result<_>>()?;
        wg.add_peers(&spokes.iter().map(Spoke::as_peer).collect::<Vec<_>>())?;
        Ok(Star { hub: hub.clone(), wg, inner, spokes })
    }

    /// A spoke by its number, which counts from 1.
    pub fn spoke(&self, number: usize) -> Result<&Spoke> {
        number
            .checked_sub(1)
            .and_then(|index| self.spokes.get(index))
            .with_context(|| format!("this star has no spoke s{number}"))
    }

    /// Makes all spokes answer for these addresses, so that a packet finds an answer whichever
    /// spoke it reaches.
    pub fn serve(&self, addresses: &[IpAddr]) -> Result<()> {
        self.spokes.iter().try_for_each(|spoke| spoke.serve(addresses))
    }
}

impl Spoke {
    fn new(lab: &mut Lab, hub: &Wireguard, inner: Inner) -> Result<Spoke> {
        let node = lab.node(&format!("s{}", inner.host))?;
        let link = lab.link(hub.node(), &node)?;
        let wg = Wireguard::new(&node, "wg0")?;
        inner.assign(&wg)?;
        wg.add_peers(&[Peer {
            name: "hub".to_owned(),
            public_key: hub.public_key().to_owned(),
            endpoint: Some(format!("{}:{}", link.a.address, hub.port())),
            allowed_ips: EVERYTHING.to_vec(),
        }])?;
        Ok(Spoke { node, wg, inner, link })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// How the hub sees it: a peer with its tunnel addresses.
    pub fn as_peer(&self) -> Peer {
        Peer {
            name: self.name().to_owned(),
            public_key: self.wg.public_key().to_owned(),
            endpoint: Some(format!("{}:{}", self.link.b.address, self.wg.port())),
            allowed_ips: self.inner.prefixes(),
        }
    }

    /// Makes it answer for these addresses.
    pub fn serve(&self, addresses: &[IpAddr]) -> Result<()> {
        let lines: String = addresses
            .iter()
            .map(|address| format!("address add {} dev lo\n", IpNet::from(*address)))
            .collect();
        self.node.ip_batch(&lines)
    }
}

/// Both default routes.
pub const EVERYTHING: [IpNet; 2] = [
    IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
];

/// Nodes that are joined each to each, with one shared WireGuard device a node.
#[derive(Debug)]
pub struct Mesh {
    /// The nodes with their devices, in the order of their names.
    pub members: Vec<Member>,
    links: Vec<Link>,
}

/// A node of a [`Mesh`].
#[derive(Debug)]
pub struct Member {
    /// The node.
    pub node: Node,
    /// Its device, `wg0`.
    pub wg: Wireguard,
    /// Its tunnel addresses.
    pub inner: Inner,
}

impl Mesh {
    /// Builds a mesh of nodes with these names.
    pub fn new(lab: &mut Lab, names: &[&str]) -> Result<Mesh> {
        let mut members = Vec::new();
        for (host, name) in (1..).zip(names) {
            let node = lab.node(name)?;
            let wg = Wireguard::new(&node, "wg0")?;
            let inner = Inner { network: 0, host };
            inner.assign(&wg)?;
            members.push(Member { node, wg, inner });
        }
        let mut links = Vec::new();
        for i in 0..members.len() {
            for j in i + 1..members.len() {
                let link = lab.link(&members[i].node, &members[j].node)?;
                let ends = [(i, j, &link.b), (j, i, &link.a)];
                for (here, there, end) in ends {
                    let peer = &members[there];
                    members[here].wg.add_peers(&[Peer {
                        name: peer.node.name().to_owned(),
                        public_key: peer.wg.public_key().to_owned(),
                        endpoint: Some(format!("{}:{}", end.address, peer.wg.port())),
                        allowed_ips: peer.inner.prefixes(),
                    }])?;
                }
                links.push(link);
            }
        }
        Ok(Mesh { members, links })
    }

    /// A node by name.
    pub fn member(&self, name: &str) -> Result<&Member> {
        self.members
            .iter()
            .find(|member| member.node.name() == name)
            .with_context(|| format!("this mesh has no node {name}"))
    }

    /// The underlay link between two nodes.
    pub fn link(&self, a: &str, b: &str) -> Result<&Link> {
        let joins = |link: &Link| {
            let ends = [link.a.node.name(), link.b.node.name()];
            ends == [a, b] || ends == [b, a]
        };
        self.links
            .iter()
            .find(|link| joins(link))
            .with_context(|| format!("no link joins {a} and {b}"))
    }
}
