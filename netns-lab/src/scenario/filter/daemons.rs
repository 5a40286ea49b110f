//! Routing daemons over filtered links.
//!
//! Here live Babel and OSPF, which find their neighbours by link-local multicast and bring the
//! very routes that make sources legal.

use anyhow::{Result, ensure};

use super::{
    Scenario,
    support::{Case, DISCARD, Fate::Dropped, Filtered, Hook, config},
};
use crate::{
    lab::{Bird, Dedicated, Lab, PATIENCE, Spoke, assert_flow, packet::Route, wait_for},
    scenario::support::{NET4, NET6, V4, V6},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "filter-babel-ospf-xdp",
        "Babel and OSPF bring routes over strict links with a closed policy, by XDP",
        |lab| babel_and_ospf(lab, Hook::Xdp),
    )
    .within(240),
    Scenario::new(
        "filter-babel-ospf-tcx",
        "Babel and OSPF bring routes over strict links with a closed policy, by tc",
        |lab| babel_and_ospf(lab, Hook::Tcx),
    )
    .within(240),
];

/// What s2 announces by OSPF; s1 announces [`NET4`] and [`NET6`] by Babel.
const OSPF4: (&str, &str) = ("203.0.113.0/24", "203.0.113.1");
const OSPF6: (&str, &str) = ("2001:db8:2::/48", "2001:db8:2::1");

const BABEL: &str = "protocol babel {\n  \
                       ipv4 { import all; export where source = RTS_STATIC; };\n  \
                       ipv6 { import all; export where source = RTS_STATIC; };\n  \
                       interface \"DEVICE\" { type wired; hello interval 1 s; update interval 2 s; };\n\
                     }\n";
const OSPF: &str = "protocol ospf v2 {\n  \
                      ipv4 { import all; export where source = RTS_STATIC; };\n  \
                      area 0 { interface \"DEVICE\" { type ptp; hello 1; }; };\n\
                    }\n\
                    protocol ospf v3 {\n  \
                      ipv6 { import all; export where source = RTS_STATIC; };\n  \
                      area 0 { interface \"DEVICE\" { type ptp; hello 1; }; };\n\
                    }\n";

fn babel_and_ospf(lab: &mut Lab, hook: Hook) -> Result<()> {
    let net = Dedicated::new(lab, 2)?;
    net.open()?;
    let (first, second) = (net.spoke(1)?, net.spoke(2)?);
    first.serve(&[V4.parse()?, V6.parse()?])?;
    second.serve(&[OSPF4.1.parse()?, OSPF6.1.parse()?])?;
    // A reply to the hub's requests is all that they may send beside their protocols.
    let policy = "[[filter.policy]]\nname = \"closed\"\ndefault = \"drop\"\nstateful = true\n\
                  rules = [\"accept udp to 10.98.0.2 port 9\"]\n";
    let link = "source = \"strict\"\npolicy = \"closed\"";
    let net = Filtered::on(lab, net, &config(hook, policy, &[link; 2]))?;
    let (first, second) = (net.net.spoke(1)?, net.net.spoke(2)?);
    net.judge(vec![Case::text(1, V4, Dropped("no-route"))?])?;

    let kernel = "router id 10.100.0.254;\n\
                  protocol kernel { ipv4 { import none; export all; }; }\n\
                  protocol kernel { ipv6 { import none; export all; }; }\n";
    let text = [kernel, &BABEL.replace("DEVICE", "wg1"), &OSPF.replace("DEVICE", "wg2")].concat();
    let hub = Bird::start(&net.net.hub, &text)?;
    let _first = Bird::start(&first.node, &announcing(first, [NET4, NET6], BABEL))?;
    let _second = Bird::start(&second.node, &announcing(second, [OSPF4.0, OSPF6.0], OSPF))?;
    let routed = |prefix: &str, device: &str| {
        wait_for(format!("a route to {prefix}"), PATIENCE, || {
            let family = if prefix.contains(':') { "-6" } else { "-4" };
            Ok(net.net.hub.ip(&format!("{family} route show {prefix}"))?.contains(device))
        })
    };
    routed(NET4, "wg1")?;
    routed(NET6, "wg1")?;
    routed(OSPF4.0, "wg2")?;
    routed(OSPF6.0, "wg2")?;
    lab.say("routes are there; their sources are legal");
    for (spoke, addresses) in [(first, [V4, V6]), (second, [OSPF4.1, OSPF6.1])] {
        for address in addresses {
            let to: std::net::IpAddr = address.parse()?;
            assert_flow(&net.net.hub, to, &spoke.node)?;
        }
    }
    let case = |spoke, from: &str, want| Case::text(spoke, from, want);
    net.judge(vec![
        case(1, OSPF4.1, Dropped("other-peer"))?,
        case(1, OSPF6.1, Dropped("other-peer"))?,
        case(2, V4, Dropped("other-peer"))?,
        case(2, V6, Dropped("other-peer"))?,
        // Legal, but the policy is closed.
        case(1, V6, Dropped("drop-default"))?,
        case(2, OSPF4.1, Dropped("drop-default"))?.of(|route: Route| route.udp(DISCARD, 10)),
    ])?;
    lab.say("neighbours stay");
    let answer = hub.ask("show babel neighbors")?;
    ensure!(answer.contains("wg1"), "{answer}");
    Ok(())
}

/// A spoke's BIRD, which announces two prefixes.
fn announcing(spoke: &Spoke, [v4, v6]: [&str; 2], protocol: &str) -> String {
    format!(
        "router id {};\n\
         protocol static {{ ipv4; route {v4} blackhole; }}\n\
         protocol static {{ ipv6; route {v6} blackhole; }}\n{}",
        spoke.inner.v4(),
        protocol.replace("DEVICE", "wg0")
    )
}
