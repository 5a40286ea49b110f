//! A hub with one WireGuard device a spoke, and a host behind the hub.
//!
//! Here lives the topology in which WireGuard checks no sources: each device has one peer, which
//! may be given 0.0.0.0/0 and ::/0. What a spoke sends to the host has passed the hub, so the host
//! is where a filter's verdict is counted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::{
    Lab, Link,
    node::Node,
    packet::Route,
    tap::Tap,
    topology::{EVERYTHING, Spoke, Star},
};

/// A hub with dedicated links.
#[derive(Debug)]
pub struct Dedicated {
    /// The hub.
    pub hub: Node,
    /// The host behind it.
    pub host: Host,
    /// A star of one spoke for each link, `wg1` to `s1` first.
    pub links: Vec<Star>,
}

impl Dedicated {
    /// Builds a hub with devices `wg1` to `wgN`, their spokes and the host. The hub has routes to
    /// what the spokes have of their own ([`own_net`]). Peers have their tunnel addresses as
    /// AllowedIPs, see [`Dedicated::open`].
    pub fn new(lab: &mut Lab, spokes: u8) -> Result<Dedicated> {
        let hub = lab.node("hub")?;
        let host = Host::behind(lab, &hub)?;
        let mut links = Vec::new();
        for number in 1..=spokes {
            let star = Star::on(lab, &hub, number, number.into()..=number.into())?;
            let spoke = star.spoke(1)?;
            spoke.serve(&[own(number, true), own(number, false)])?;
            // What it forwards, and answers from its own addresses, goes to the hub.
            spoke.node.ip_batch("route add 0.0.0.0/0 dev wg0\nroute add ::/0 dev wg0\n")?;
            for family in [true, false] {
                let net = own_net(number, family);
                hub.ip(&format!("route add {net} dev {}", star.wg.name()))?;
            }
            links.push(star);
        }
        Ok(Dedicated { hub, host, links })
    }

    /// Gives the peers 0.0.0.0/0 and ::/0: from now on WireGuard checks no source.
    pub fn open(&self) -> Result<()> {
        self.links.iter().try_for_each(|link| {
            let spoke = link.spoke(1)?;
            link.wg
                .set_allowed_ips(spoke.name(), &[&spoke.inner.prefixes()[..], &EVERYTHING].concat())
        })
    }

    /// The link with this number, which counts from 1.
    pub fn link(&self, number: usize) -> Result<&Star> {
        let link = number.checked_sub(1).and_then(|index| self.links.get(index));
        link.with_context(|| format!("this hub has no link wg{number}"))
    }

    /// The spoke behind it.
    pub fn spoke(&self, number: usize) -> Result<&Spoke> {
        self.link(number)?.spoke(1)
    }
}

/// What a spoke has of its own, and answers for: `10.N.0.1` or `fd00:N::1`.
pub fn own(spoke: u8, v4: bool) -> IpAddr {
    if v4 {
        Ipv4Addr::new(10, spoke, 0, 1).into()
    } else {
        Ipv6Addr::new(0xfd00, spoke.into(), 0, 0, 0, 0, 0, 1).into()
    }
}

/// The network of that: `10.N.0.0/16` or `fd00:N::/32`.
pub fn own_net(spoke: u8, v4: bool) -> IpNet {
    let length = if v4 { 16 } else { 32 };
    IpNet::new(own(spoke, v4), length).expect("a prefix length").trunc()
}

/// A host on the far side of a router, which sees what the router forwards.
#[derive(Debug)]
pub struct Host {
    /// The host.
    pub node: Node,
    /// Its link; the router is the `a` end.
    pub link: Link,
}

impl Host {
    /// Its addresses; the router has `.1` and `::1` beside them.
    pub const V4: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 2);
    /// IPv6.
    pub const V6: Ipv6Addr = Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 2);

    /// Makes the node `host` behind a router.
    pub fn behind(lab: &mut Lab, router: &Node) -> Result<Host> {
        let node = lab.node("host")?;
        let link = lab.link(router, &node)?;
        let device = &link.a.device;
        router.ip_batch(&format!(
            "address add 10.98.0.1/24 dev {device}\naddress add fd98::1/64 dev {device} nodad\n"
        ))?;
        let device = &link.b.device;
        node.ip_batch(&format!(
            "address add {}/24 dev {device}\n\
             address add {}/64 dev {device} nodad\n\
             route add default via 10.98.0.1\n\
             route add default via fd98::1\n",
            Host::V4,
            Host::V6
        ))?;
        Ok(Host { node, link })
    }

    /// Its address of a family.
    pub fn address(v4: bool) -> IpAddr {
        if v4 { Host::V4.into() } else { Host::V6.into() }
    }

    /// A packet's way to it from any source.
    pub fn route_from(from: IpAddr, label: u16) -> Route {
        Route { from, to: Host::address(from.is_ipv4()), label }
    }

    /// Counts what arrives at it.
    pub fn tap(&self) -> Result<Tap> {
        Tap::open(&self.node, &self.link.b.device)
    }
}
