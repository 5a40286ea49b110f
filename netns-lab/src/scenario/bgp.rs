//! Three routers that speak BGP over their tunnels.
//!
//! Here live the configuration of BIRD that the triangle and the demo share, and what AllowedIPs
//! must be on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use ipnet::IpNet;

use crate::lab::{
    AllowedIps, Bird, Lab, Member, Mesh, Owner, PATIENCE, Wgrouted, wait_equal, wait_until,
};

/// What a failure of a neighbour takes to be noticed: 8 times 400 ms. Shorter would mistake a busy
/// emulated machine for a failed link.
const BFD: &str = "interval 400 ms; multiplier 8;";

/// A router's own networks, which it announces: `198.51.100.N/32` and `2001:db8:N::/48`.
pub(crate) fn own_v4(number: u16) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, number as u8)
}

/// Likewise.
pub(crate) fn own_v6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, 1)
}

/// Three routers with BIRD and wgrouted.
#[derive(Debug)]
pub(crate) struct Triangle {
    /// The routers.
    pub(crate) mesh: Mesh,
    /// BIRD on each.
    pub(crate) birds: Vec<Bird>,
    /// wgrouted on each.
    pub(crate) daemons: Vec<Wgrouted>,
}

impl Triangle {
    /// Three routers that own the networks which they will announce, without daemons.
    pub(crate) fn new(mesh: Mesh) -> Result<Triangle> {
        for member in &mesh.members {
            let number = member.inner.host;
            member.node.address("lo", &format!("{}/32", own_v4(number)))?;
            member.node.address("lo", &format!("{}/128", own_v6(number)))?;
        }
        Ok(Triangle { mesh, birds: Vec::new(), daemons: Vec::new() })
    }

    /// Starts wgrouted on each, in router order.
    pub(crate) fn start_daemons(&mut self, lab: &Lab) -> Result<()> {
        for member in &self.mesh.members {
            let mut daemon = lab.wgrouted(&member.node, &["wg0"])?;
            daemon.start()?;
            self.daemons.push(daemon);
        }
        Ok(())
    }

    /// Starts BIRD on each, in router order, and waits until all sessions stand.
    pub(crate) fn start_birds(&mut self) -> Result<()> {
        for member in &self.mesh.members {
            self.birds.push(Bird::start(&member.node, &config(&self.mesh, member, ""))?);
        }
        self.wait_established()
    }

    /// Waits until all sessions stand, those of BFD too: without them BGP notices a failure only
    /// after minutes. Two BGP connections that collide take one BFD session with them, which
    /// comes back a little later.
    pub(crate) fn wait_established(&self) -> Result<()> {
        for (member, bird) in self.mesh.members.iter().zip(&self.birds) {
            for other in others(&self.mesh, member) {
                bird.wait_established(other.node.name())?;
                bird.wait_bfd(other.inner.v4().into())?;
            }
        }
        Ok(())
    }

    /// Waits until a router sends each other's networks to that other directly.
    pub(crate) fn expect_direct(&self, member: &Member) -> Result<()> {
        let mut want = AllowedIps::new();
        for other in others(&self.mesh, member) {
            let name = Owner::from(other.node.name());
            let number = other.inner.host;
            let networks = [IpNet::from(IpAddr::from(own_v4(number))), network_v6(number)];
            let all = other.inner.prefixes().into_iter().chain(networks);
            want.extend(all.map(|prefix| (prefix, name.clone())));
        }
        let what = format!("the AllowedIPs of {}", member.node.name());
        wait_equal(what, PATIENCE, &want, || member.wg.allowed_ips())
    }

    /// Waits until a router's networks belong to this peer on another router.
    pub(crate) fn expect_owner(&self, on: &Member, of: &Member, peer: &str) -> Result<()> {
        let number = of.inner.host;
        for network in [IpNet::from(IpAddr::from(own_v4(number))), network_v6(number)] {
            wait_until(
                format!("{} to give {network} to {peer}", on.node.name()),
                PATIENCE,
                || Ok(on.wg.allowed_ips()?.get(&network).cloned()),
                |owner| owner.as_deref() == Some(peer),
            )?;
        }
        Ok(())
    }
}

fn network_v6(number: u16) -> IpNet {
    IpNet::new(own_v6(number).into(), 48).expect("48 is a length").trunc()
}

fn others<'a>(mesh: &'a Mesh, member: &'a Member) -> impl Iterator<Item = &'a Member> {
    mesh.members.iter().filter(|other| other.inner != member.inner)
}

/// BIRD's configuration of a router. `more` is put at its end.
pub(crate) fn config(mesh: &Mesh, member: &Member, more: &str) -> String {
    let number = member.inner.host;
    let mut text = format!(
        "router id {id};\n\
         # Give the kernel what BGP has learned, nothing else.\n\
         protocol kernel {{ scan time 900; ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
         protocol kernel {{ scan time 900; ipv6 {{ import none; export where source = RTS_BGP; }}; }}\n\
         # This router's own networks.\n\
         protocol static {{ ipv4; route {v4}/32 blackhole; }}\n\
         protocol static {{ ipv6; route {v6} blackhole; }}\n\
         protocol bfd {{ interface \"wg0\" {{ {BFD} }}; }}\n\
         # The tunnels share a network, but it is no LAN: without `next hop self` BIRD would pass\n\
         # on a neighbour's address as next hop, and that neighbour has a tunnel of its own.\n\
         template bgp tunnel {{\n  \
           local {id} as {number};\n  \
           bfd on;\n  \
           connect delay time 1;\n  \
           error wait time 1, 2;\n  \
           ipv4 {{ import all; export where source ~ [ RTS_STATIC, RTS_BGP ]; next hop self; }};\n  \
           ipv6 {{ import all; export where source ~ [ RTS_STATIC, RTS_BGP ]; \
           next hop self; next hop address {inner_v6}; }};\n\
         }}\n",
        id = member.inner.v4(),
        number = 65000 + u32::from(number),
        v4 = own_v4(number),
        v6 = network_v6(number),
        inner_v6 = member.inner.v6(),
    );
    for other in others(mesh, member) {
        text += &format!(
            "protocol bgp {} from tunnel {{ neighbor {} as {}; }}\n",
            other.node.name(),
            other.inner.v4(),
            65000 + u32::from(other.inner.host),
        );
    }
    text + more
}

/// The numbers of two routers as addresses of both families: what packets between them use.
pub(crate) fn pairs(from: &Member, to: &Member) -> [(IpAddr, IpAddr); 2] {
    let (from, to) = (from.inner.host, to.inner.host);
    [(own_v4(from).into(), own_v4(to).into()), (own_v6(from).into(), own_v6(to).into())]
}
