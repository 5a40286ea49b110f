//! A link of its own for each peer, on which protocols find their neighbours by multicast.

use std::time::Duration;

use anyhow::Result;

use super::{
    bgp::birds,
    support::{Router, file, routers},
};
use crate::{
    lab::{
        Lab,
        Release::{self, Three, Two},
    },
    scenario::Scenario,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "example-bird-ospf-dedicated-2",
        "bird-examples/ospf-dedicated on BIRD 2: a link falls silent, OSPF goes round it",
        |lab| ospf(lab, Two),
    ),
    Scenario::new("example-bird-ospf-dedicated-3", "the same on BIRD 3", |lab| ospf(lab, Three)),
    Scenario::new(
        "example-babel-dedicated-rtt",
        "babel-examples/dedicated-rtt: two quick links are preferred to a slow one",
        dedicated_rtt,
    )
    .within(240),
    Scenario::new(
        "example-babel-tunnels",
        "babel-examples/tunnels: GRE links inside one shared interface, and a silent one",
        tunnels,
    ),
];

fn ospf(lab: &mut Lab, release: Release) -> Result<()> {
    let [mut r1, mut r2, mut r3] = routers(
        lab,
        [
            ("r1", file!("bird-examples/ospf-dedicated/r1.sh")),
            ("r2", file!("bird-examples/ospf-dedicated/r2.sh")),
            ("r3", file!("bird-examples/ospf-dedicated/r3.sh")),
        ],
    )?;
    r1.configured(lab, file!("bird-examples/ospf-dedicated/r1.toml"))?;
    r2.configured(lab, file!("bird-examples/ospf-dedicated/r2.toml"))?;
    r3.configured(lab, file!("bird-examples/ospf-dedicated/r3.toml"))?;
    expect_open(&r1, ["10.0.0.2/32 fe80::2/128", "10.0.0.3/32 fe80::3/128"])?;
    let _birds = birds(
        release,
        [
            (&r1, file!("bird-examples/ospf-dedicated/r1.conf")),
            (&r2, file!("bird-examples/ospf-dedicated/r2.conf")),
            (&r3, file!("bird-examples/ospf-dedicated/r3.conf")),
        ],
    )?;
    expect_way(&r1, &r2, "wg-r2", "wg-r1")?;

    lab.say("the link between r1 and r2 falls silent");
    r1.silence("wg-r2")?;
    r2.silence("wg-r1")?;
    expect_way(&r1, &r2, "wg-r3", "wg-r3")
}

fn dedicated_rtt(lab: &mut Lab) -> Result<()> {
    let [mut r1, mut r2, mut r3] = routers(
        lab,
        [
            ("r1", file!("babel-examples/dedicated-rtt/r1.sh")),
            ("r2", file!("babel-examples/dedicated-rtt/r2.sh")),
            ("r3", file!("babel-examples/dedicated-rtt/r3.sh")),
        ],
    )?;
    r1.configured(lab, file!("babel-examples/dedicated-rtt/r1.toml"))?;
    r2.configured(lab, file!("babel-examples/dedicated-rtt/r2.toml"))?;
    r3.configured(lab, file!("babel-examples/dedicated-rtt/r3.toml"))?;
    expect_open(&r1, ["fe80::2/128", "fe80::3/128"])?;
    let _babels = [
        r1.babeld(file!("babel-examples/dedicated-rtt/r1.conf"))?,
        r2.babeld(file!("babel-examples/dedicated-rtt/r2.conf"))?,
        r3.babeld(file!("babel-examples/dedicated-rtt/r3.conf"))?,
    ];
    expect_way(&r1, &r2, "wg-r2", "wg-r1")?;

    lab.say("the direct link takes 250 ms each way");
    r1.delay("wg-r2", Duration::from_millis(250))?;
    r2.delay("wg-r1", Duration::from_millis(250))?;
    expect_way(&r1, &r2, "wg-r3", "wg-r3")
}

fn tunnels(lab: &mut Lab) -> Result<()> {
    let [mut r1, mut r2, mut r3] = routers(
        lab,
        [
            ("r1", file!("babel-examples/tunnels/r1.sh")),
            ("r2", file!("babel-examples/tunnels/r2.sh")),
            ("r3", file!("babel-examples/tunnels/r3.sh")),
        ],
    )?;
    r1.configured(lab, file!("babel-examples/tunnels/r1.toml"))?;
    r2.configured(lab, file!("babel-examples/tunnels/r2.toml"))?;
    r3.configured(lab, file!("babel-examples/tunnels/r3.toml"))?;
    let _babels = [
        r1.babeld(file!("babel-examples/tunnels/r1.conf"))?,
        r2.babeld(file!("babel-examples/tunnels/r2.conf"))?,
        r3.babeld(file!("babel-examples/tunnels/r3.conf"))?,
    ];
    expect_way(&r1, &r2, "gre-r2", "gre-r1")?;

    lab.say("the tunnel between r1 and r2 falls silent");
    r1.silence("gre-r2")?;
    r2.silence("gre-r1")?;
    expect_way(&r1, &r2, "gre-r3", "gre-r3")?;
    // No route goes out of the shared interface itself.
    r1.expect("wg0", &[("r2", "10.0.0.2/32"), ("r3", "10.0.0.3/32")])
}

/// Waits until the filter is in force on r1 and its links are open, besides these AllowedIPs that
/// they begin with.
fn expect_open(r1: &Router, first: [&str; 2]) -> Result<()> {
    for (peer, first) in ["r2", "r3"].into_iter().zip(first) {
        r1.expect(&format!("wg-{peer}"), &[(peer, &format!("0.0.0.0/0 ::/0 {first}"))])?;
    }
    Ok(())
}

/// Waits until r1 reaches r2's networks by this device and r2 those of r1 by that one.
fn expect_way(r1: &Router, r2: &Router, here: &str, there: &str) -> Result<()> {
    for (router, number, device) in [(r1, 2, here), (r2, 1, there)] {
        let device = format!("dev {device}");
        for prefix in ["172.16.N.0/24", "2001:db8:N::/48"] {
            let prefix = prefix.replace('N', &number.to_string());
            // OSPF brings the network, Babel an address in it.
            router.expect_route(&format!("root {prefix}"), &device)?;
        }
    }
    r1.reaches("172.16.1.1", r2, "172.16.2.1")?;
    r1.reaches("2001:db8:1::1", r2, "2001:db8:2::1")
}
