//! A client, its provider, four exits, and the Internet behind all of them.
//!
//! Here lives the topology in which a packet from the client to the Internet can leave by five ways: its
//! provider, and a tunnel to each exit. No address is translated anywhere: the Internet sees the client's
//! own addresses, and answers by the way that the last packet of a flow came by (connection marks), as
//! an Internet that knew the exits' routes would. Which way that was is what its [`Capture`] shows.
//! Tunnels are the scenarios' business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};

use super::{
    Lab, Link,
    capture::{Capture, Leg},
    key::Key,
    node::Node,
    service::Service,
    topology::EVERYTHING,
    wireguard::{Peer, Wireguard},
};

/// The exits' names. The first so many are built.
const NAMES: [&str; 4] = ["berlin", "paris", "oslo", "rome"];
/// Where WireGuard listens for the client; for exit N, N ports above.
const FIRST_PORT: u16 = 51820;

/// The client and everything around it.
#[derive(Debug)]
pub struct Exits {
    /// The client.
    pub client: Node,
    /// What the client's devices have for a key.
    pub key: Key,
    /// What its default route leads to, and all tunnels run through.
    pub isp: Node,
    /// The client's only cable; the provider is the `b` end.
    pub uplink: Link,
    /// The exits, `berlin` first.
    pub exits: Vec<Exit>,
    /// What they lead to.
    pub internet: Node,
    /// What arrives there.
    pub arrived: Capture,
    _service: Service,
}

/// An exit.
#[derive(Debug)]
pub struct Exit {
    /// Its number, from 1.
    pub number: u16,
    /// The node.
    pub node: Node,
    /// What its devices have for a key.
    pub key: Key,
    /// Its cable to the provider, which is the `b` end.
    pub underlay: Link,
}

impl Exit {
    /// Its name.
    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// Where its WireGuard device for a peer with this number listens (0: the client).
    pub fn endpoint(&self, peer: u16) -> String {
        format!("{}:{}", self.underlay.a.address, FIRST_PORT + peer)
    }

    /// Loses every packet between it and the provider. Nobody is told: carrier stays.
    pub fn cut(&self) -> Result<()> {
        self.loss("add dev DEVICE root netem loss 100%")
    }

    /// Undoes [`Exit::cut`].
    pub fn mend(&self) -> Result<()> {
        self.loss("del dev DEVICE root")
    }

    fn loss(&self, words: &str) -> Result<()> {
        [&self.underlay.a, &self.underlay.b].into_iter().try_for_each(|end| {
            let words = format!("qdisc {}", words.replace("DEVICE", &end.device));
            end.node.run("tc", words.split(' ')).map(drop)
        })
    }
}

impl Exits {
    /// The client's addresses: those that it prefers, and those of another network of its own.
    pub const CLIENT: [[IpAddr; 2]; 2] = [
        [
            IpAddr::V4(Ipv4Addr::new(10, 50, 0, 1)),
            IpAddr::V6(Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, 1)),
        ],
        [
            IpAddr::V4(Ipv4Addr::new(10, 50, 0, 129)),
            IpAddr::V6(Ipv6Addr::new(0xfd50, 0, 0, 1, 0, 0, 0, 1)),
        ],
    ];
    /// All networks of the client's.
    pub const NETS: [&str; 2] = ["10.50.0.0/24", "fd50::/56"];
    /// The ports that the Internet answers at.
    pub const PORTS: [u16; 2] = [8080, 8443];

    /// The Internet's address of a family, at a port.
    pub fn to(v4: bool, port: u16) -> SocketAddr {
        let address: IpAddr = if v4 {
            Ipv4Addr::new(192, 0, 2, 1).into()
        } else {
            Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into()
        };
        SocketAddr::new(address, port)
    }

    /// Builds all of it with so many exits, and no tunnel.
    pub fn new(lab: &mut Lab, exits: usize) -> Result<Exits> {
        let (client, isp, internet) =
            (lab.node("client")?, lab.node("isp")?, lab.node("internet")?);
        let to = [Exits::to(true, 0).ip(), Exits::to(false, 0).ip()];
        internet
            .ip_batch(&format!("address add {} dev lo\naddress add {} dev lo\n", to[0], to[1]))?;
        for address in Exits::CLIENT.as_flattened() {
            client.address("lo", &address.to_string())?;
        }

        let uplink = cable(lab, &client, &isp)?;
        default_route(&client, &uplink, "")?;
        for net in Exits::NETS {
            isp.ip(&format!("route add {net} {}", towards(&uplink, &client, net.contains(':'))))?;
        }
        let outside = cable(lab, &isp, &internet)?;
        default_route(&isp, &outside, "")?;
        default_route(&internet, &outside, &format!("src {{}} table {}", door(0)))?;
        default_route(&internet, &outside, "src {}")?;

        let mut built = Vec::new();
        for (number, name) in (1..).zip(&NAMES[..exits]) {
            let node = lab.node(name)?;
            let underlay = cable(lab, &node, &isp)?;
            let way = towards(&underlay, &isp, false);
            node.ip(&format!("route add 172.31.0.0/16 {way}"))?;
            let outside = cable(lab, &node, &internet)?;
            default_route(&node, &outside, "")?;
            default_route(&internet, &outside, &format!("src {{}} table {}", door(number)))?;
            let key = Key::new(&node, "wg.key")?;
            built.push(Exit { number, node, key, underlay });
        }
        remember_doors(&internet, &NAMES[..exits])?;
        let at: Vec<_> = [true, false]
            .into_iter()
            .flat_map(|v4| Exits::PORTS.map(|p| Exits::to(v4, p)))
            .collect();
        let service = Service::start(&internet, &at)?;
        let arrived = Capture::open(&internet)?;
        let key = Key::new(&client, "wg.key")?;
        Ok(Exits { client, key, isp, uplink, exits: built, internet, arrived, _service: service })
    }

    /// An exit by name.
    pub fn exit(&self, name: &str) -> Result<&Exit> {
        let exit = self.exits.iter().find(|exit| exit.name() == name);
        exit.with_context(|| format!("there is no exit {name}"))
    }

    /// Gives each exit its device for the client, `wg-client`, without a daemon: with a link-local
    /// address, which probes find, the client for its only peer, and routes to the client's networks.
    /// At the client's end there is nothing yet.
    pub fn tunnels(&self) -> Result<Vec<Wireguard>> {
        self.exits.iter().map(|exit| self.tunnel(exit)).collect()
    }

    fn tunnel(&self, exit: &Exit) -> Result<Wireguard> {
        let wg = Wireguard::new(&exit.node, "wg-client")?;
        exit.node.run("wg", ["set", "wg-client", "private-key", &exit.key.file])?;
        wg.add_peers(&[Peer {
            name: "client".to_owned(),
            public_key: self.key.public.clone(),
            endpoint: None,
            allowed_ips: EVERYTHING.to_vec(),
        }])?;
        exit.node.ip_batch(&format!(
            "address add fe80::{}/64 dev wg-client nodad\nlink set wg-client up\n\
             route add {} dev wg-client\nroute add {} dev wg-client\n",
            exit.number,
            Exits::NETS[0],
            Exits::NETS[1]
        ))?;
        Ok(wg)
    }

    /// By which of the Internet's devices the packets of a flow came, in the order of the changes.
    pub fn ways(&self, protocol: u8, from: SocketAddr, to: SocketAddr) -> Vec<Leg> {
        let mut legs = self.arrived.legs(protocol, from, to);
        legs.retain(|leg| !leg.outgoing);
        legs
    }
}

/// The table and mark of what came from an exit; 0 is the provider.
fn door(number: u16) -> u16 {
    100 + number
}

/// Joins two nodes, for both families.
fn cable(lab: &mut Lab, a: &Node, b: &Node) -> Result<Link> {
    let link = lab.link(a, b)?;
    for (end, address) in [(&link.a, "fe80::a"), (&link.b, "fe80::b")] {
        end.node.ip(&format!("address add {address}/64 dev {} nodad", end.device))?;
    }
    Ok(link)
}

/// The end of a route by way of the node at the other end of a cable.
fn towards(link: &Link, node: &Node, v6: bool) -> String {
    let (here, there, local) = if link.a.node.name() == node.name() {
        (&link.b, &link.a, "fe80::a")
    } else {
        (&link.a, &link.b, "fe80::b")
    };
    format!("via {} dev {}", if v6 { local } else { &there.address }, here.device)
}

/// Gives a node default routes by a cable. `{}` in `more` stands for the Internet's address.
fn default_route(node: &Node, link: &Link, more: &str) -> Result<()> {
    let ends = [&link.a.node, &link.b.node];
    let other = ends.into_iter().find(|end| end.name() != node.name()).context("another node")?;
    let line = |v6: bool| {
        let more = more.replace("{}", &Exits::to(!v6, 0).ip().to_string());
        let family = if v6 { "-6" } else { "-4" };
        node.ip(&format!("{family} route add default {} {more}", towards(link, other, v6)))
            .map(drop)
    };
    line(false)?;
    line(true)
}

/// Has the Internet answer by the way that it was asked by.
fn remember_doors(internet: &Node, exits: &[&str]) -> Result<()> {
    let mut marks = String::new();
    for (number, name) in (0..).zip(std::iter::once(&"isp").chain(exits)) {
        marks += &format!("iifname \"to-{name}\" ct mark set {}\n", door(number));
        for family in ["-4", "-6"] {
            let door = door(number);
            internet.ip(&format!("{family} rule add fwmark {door} lookup {door}"))?;
        }
    }
    let table = format!(
        "table inet doors {{\n\
           chain arrive {{ type filter hook prerouting priority mangle; {marks} }}\n\
           chain leave {{ type route hook output priority mangle; meta mark set ct mark; }}\n\
         }}\n"
    );
    internet.run_input("nft", ["-f", "-"], table.as_bytes()).map(drop)
}
