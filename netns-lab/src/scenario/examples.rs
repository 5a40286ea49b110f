//! The shipped examples, as they stand.
//!
//! Here live scenarios that run the files of `bird-examples` and `babel-examples` on the addresses
//! that their READMEs give, and the README's own first steps.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::Scenario;
use crate::lab::{
    AllowedIps, Babeld, Bird, Lab, Node, Owner, PATIENCE, Peer, Ping, Wgrouted, Wireguard,
    assert_flow, wait_equal,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "example-bird-pair",
        "bird-examples/pair: two routers, eBGP, no configuration of wgrouted",
        bird_pair,
    ),
    Scenario::new(
        "example-babel-device-per-peer",
        "babel-examples/device-per-peer: Babel over a tunnel whose sources are checked",
        babel_device_per_peer,
    ),
];

const README: &str = include_str!("../../../README.md");
const BIRD_LEFT: &str = include_str!("../../../bird-examples/pair/left.conf");
const BIRD_RIGHT: &str = include_str!("../../../bird-examples/pair/right.conf");
const BABEL_LEFT: &str = include_str!("../../../babel-examples/device-per-peer/left.conf");
const BABEL_RIGHT: &str = include_str!("../../../babel-examples/device-per-peer/right.conf");

/// One of the two routers of an example.
struct Router {
    node: Node,
    wg: Wireguard,
    _daemon: Wgrouted,
}

/// Two routers joined by a link, each with the other as the only peer of `wg0`. `addresses` are
/// each one's own on `wg0`, `allowed` what the other allows it at first.
fn routers(lab: &mut Lab, addresses: [&[&str]; 2], allowed: [&[&str]; 2]) -> Result<[Router; 2]> {
    let nodes = [lab.node("left")?, lab.node("right")?];
    let link = lab.link(&nodes[0], &nodes[1])?;
    let devices = [Wireguard::new(&nodes[0], "wg0")?, Wireguard::new(&nodes[1], "wg0")?];
    let ends = [&link.a, &link.b];
    for (here, there) in [(0, 1), (1, 0)] {
        for address in addresses[here] {
            nodes[here].address("wg0", address)?;
        }
        nodes[here].ip("link set wg0 up")?;
        let allowed_ips: Result<Vec<IpNet>, _> =
            allowed[there].iter().map(|prefix| prefix.parse()).collect();
        devices[here].add_peers(&[Peer {
            name: nodes[there].name().to_owned(),
            public_key: devices[there].public_key().to_owned(),
            endpoint: Some(format!("{}:{}", ends[there].address, devices[there].port())),
            allowed_ips: allowed_ips?,
        }])?;
    }
    let mut routers = Vec::new();
    for (node, wg) in nodes.into_iter().zip(devices) {
        let mut daemon = lab.wgrouted(&node, &["wg0"])?;
        daemon.start()?;
        routers.push(Router { node, wg, _daemon: daemon });
    }
    routers.try_into().ok().context("two routers")
}

impl Router {
    /// Waits until the only peer has exactly these prefixes.
    fn expect(&self, peer: &str, prefixes: &[&str]) -> Result<()> {
        let owner = Owner::from(peer);
        let want: Result<AllowedIps> =
            prefixes.iter().map(|prefix| Ok((prefix.parse()?, owner.clone()))).collect();
        let what = format!("the AllowedIPs of {}", self.node.name());
        wait_equal(what, PATIENCE, &want?, || self.wg.allowed_ips())
    }
}

fn bird_pair(lab: &mut Lab) -> Result<()> {
    ensure!(README.contains(BIRD_LEFT), "the README's BIRD configuration is not left.conf");
    let [left, right] =
        routers(lab, [&["10.0.0.1/24"], &["10.0.0.2/24"]], [&["10.0.0.1/32"], &["10.0.0.2/32"]])?;
    left.node.address("lo", "172.16.1.1/32")?;
    right.node.address("lo", "172.16.2.1/32")?;
    let _birds =
        [Bird::start_as_is(&left.node, BIRD_LEFT)?, Bird::start_as_is(&right.node, BIRD_RIGHT)?];
    left.expect("right", &["10.0.0.2/32", "172.16.2.0/24"])?;
    right.expect("left", &["10.0.0.1/32", "172.16.1.0/24"])?;
    let (from, to): (IpAddr, IpAddr) = ("172.16.1.1".parse()?, "172.16.2.1".parse()?);
    assert_flow(&left.node, Ping { from: Some(from), ..Ping::from(to) }, &right.node)
}

fn babel_device_per_peer(lab: &mut Lab) -> Result<()> {
    let own = [
        ["fe80::1/128", "ff02::1:6/128", "10.0.0.1/32"],
        ["fe80::2/128", "ff02::1:6/128", "10.0.0.2/32"],
    ];
    let [left, right] = routers(
        lab,
        [&["fe80::1/64 nodad", "10.0.0.1/32"], &["fe80::2/64 nodad", "10.0.0.2/32"]],
        [&own[0][..2], &own[1][..2]],
    )?;
    left.node.address("lo", "172.16.1.1/32")?;
    left.node.address("lo", "2001:db8:1::1/128")?;
    right.node.address("lo", "172.16.2.1/32")?;
    right.node.address("lo", "2001:db8:2::1/128")?;
    let _babels = [
        Babeld::start(&left.node, &[], BABEL_LEFT)?,
        Babeld::start(&right.node, &[], BABEL_RIGHT)?,
    ];
    left.expect("right", &[&own[1][..2], &["172.16.2.1/32", "2001:db8:2::1/128"]].concat())?;
    right.expect("left", &[&own[0][..2], &["172.16.1.1/32", "2001:db8:1::1/128"]].concat())?;
    for (from, to) in [("172.16.1.1", "172.16.2.1"), ("2001:db8:1::1", "2001:db8:2::1")] {
        let (from, to): (IpAddr, IpAddr) = (from.parse()?, to.parse()?);
        assert_flow(&left.node, Ping { from: Some(from), ..Ping::from(to) }, &right.node)?;
    }
    Ok(())
}
