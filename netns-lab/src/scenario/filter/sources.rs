//! Which sources a peer may use.
//!
//! Here lives each mode of the source check on dedicated links, where WireGuard checks nothing:
//! what is spoofed is dropped and counted under its reason, what is legitimate arrives.

use anyhow::{Result, ensure};

use super::{
    Scenario,
    support::{
        Case, DISCARD,
        Fate::{Dropped, Monitored, Passes},
        Filtered, Hook, MANY, UNKNOWN, both, config, new_label,
    },
};
use crate::lab::{Dedicated, Host, Injector, Lab, own, packet::protocol};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "filter-absent",
        "without a filter, open dedicated links deliver every spoofed packet",
        absent,
    ),
    Scenario::new(
        "filter-sources-xdp",
        "each source mode drops what is spoofed and passes what is legitimate, by XDP",
        |lab| modes(lab, Hook::Xdp),
    ),
    Scenario::new(
        "filter-sources-tcx",
        "each source mode drops what is spoofed and passes what is legitimate, by tc",
        |lab| modes(lab, Hook::Tcx),
    ),
    Scenario::new(
        "filter-control-xdp",
        "Babel, OSPF, neighbour discovery and DHCP pass a strict filter with a closed policy, by XDP",
        |lab| control(lab, Hook::Xdp),
    ),
    Scenario::new(
        "filter-control-tcx",
        "Babel, OSPF, neighbour discovery and DHCP pass a strict filter with a closed policy, by tc",
        |lab| control(lab, Hook::Tcx),
    ),
];

/// What the others claim to stop does arrive if nothing stops it.
fn absent(lab: &mut Lab) -> Result<()> {
    let net = Dedicated::new(lab, 3)?;
    let tap = net.host.tap()?;
    let injector = Injector::open(&net.spoke(1)?.node, "wg0")?;
    let closed = new_label();
    let own_address = net.spoke(1)?.inner.v4();
    let fence = Host::route_from(own_address.into(), new_label());
    for _ in 0..MANY {
        injector.send(&Host::route_from(own(2, true), closed).udp(40000, DISCARD))?;
        injector.send(&fence.udp(40000, DISCARD))?;
    }
    tap.wait(fence.label, MANY)?;
    ensure!(tap.count(closed) == 0, "WireGuard checks no sources");

    lab.say("with 0.0.0.0/0 and ::/0");
    net.open()?;
    let unknown: Vec<_> = UNKNOWN.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    for from in [both(1).to_vec(), both(2).to_vec(), unknown].concat() {
        let route = Host::route_from(from, new_label());
        let packets = [
            route.udp(40000, DISCARD),
            route.echo(),
            route.fragment(protocol::UDP, 16, false, &[0; 8]),
            // Too short for its header, but whole as an IP packet.
            route.packet(protocol::UDP, &[0; 4]),
        ];
        for packet in &packets {
            injector.send(packet)?;
        }
        tap.wait(route.label, packets.len() as u64)?;
    }
    Ok(())
}

/// A configuration with one filter on all links.
fn uniform(hook: Hook, filter: &str) -> String {
    config(hook, "", &[filter; 3])
}

fn modes(lab: &mut Lab, hook: Hook) -> Result<()> {
    let mut net = Filtered::new(lab, &uniform(hook, "source = \"strict\""))?;
    let foreign = |want| -> Result<Vec<Case>> {
        UNKNOWN.iter().map(|from| Case::text(1, from, want)).collect()
    };
    let owns = |spoke: u8, of: u8, want| both(of).map(|from| Case::new(spoke, from, want));
    // Each spoke's own, and its tunnel addresses, whatever the routes say.
    let legitimate = |net: &Filtered| -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for spoke in 1..=3 {
            let inner = net.net.spoke(spoke.into())?.inner;
            cases.extend(owns(spoke, spoke, Passes("source")));
            cases.push(Case::new(spoke, inner.v4(), Passes("source")));
            cases.push(Case::new(spoke, inner.v6(), Passes("source")));
        }
        Ok(cases)
    };

    lab.say("strict");
    net.judge(legitimate(&net)?)?;
    net.judge(owns(1, 2, Dropped("other-peer")).into())?;
    net.judge(owns(3, 1, Dropped("other-peer")).into())?;
    net.judge(foreign(Dropped("no-route"))?)?;
    let martians = ["127.0.0.1", "0.0.0.0", "224.0.0.5", "255.255.255.255", "::1", "ff02::1", "::"];
    for from in martians {
        net.judge(vec![Case::text(1, from, Dropped("martian"))?])?;
    }

    lab.say("feasible");
    net.daemon.reload(&uniform(hook, "source = \"feasible\""))?;
    net.judge(legitimate(&net)?)?;
    net.judge(owns(1, 2, Dropped("no-route")).into())?;
    net.judge(foreign(Dropped("no-route"))?)?;

    lab.say("loose");
    net.daemon.reload(&uniform(hook, "source = \"loose\""))?;
    net.judge(legitimate(&net)?)?;
    net.judge(owns(1, 2, Passes("source")).into())?;
    net.judge(foreign(Dropped("no-route"))?)?;

    lab.say("list");
    let list = "source = \"list\"\nlist = [\"198.51.100.0/24\", \"2001:db8:5::/48\"]";
    net.daemon.reload(&uniform(hook, list))?;
    net.judge(vec![
        Case::text(1, "198.51.100.9", Passes("source"))?,
        Case::text(1, "2001:db8:5::9", Passes("source"))?,
    ])?;
    net.judge(owns(1, 1, Dropped("not-listed")).into())?;
    net.judge(foreign(Dropped("not-listed"))?)?;

    lab.say("group");
    let group = "source = \"group\"\ngroup = \"mesh\"";
    net.daemon.reload(&config(hook, "", &[group, group, "source = \"strict\""]))?;
    net.judge(legitimate(&net)?)?;
    net.judge(owns(1, 2, Passes("source")).into())?;
    net.judge(owns(2, 1, Passes("source")).into())?;
    net.judge(owns(1, 3, Dropped("no-route")).into())?;
    net.judge(owns(3, 1, Dropped("other-peer")).into())?;

    lab.say("monitor");
    net.daemon.reload(&uniform(hook, "source = \"strict\"\naction = \"monitor\""))?;
    net.judge(legitimate(&net)?)?;
    net.judge(owns(1, 2, Monitored("other-peer")).into())?;
    net.judge(foreign(Monitored("no-route"))?)?;

    lab.say("off");
    net.daemon.reload(&uniform(hook, "source = \"off\""))?;
    net.judge(legitimate(&net)?)?;
    net.judge(owns(1, 2, Passes("source")).into())?;
    net.judge(foreign(Passes("source"))?)
}

/// What stays on the link: neither source modes nor policies may break routing protocols.
fn control(lab: &mut Lab, hook: Hook) -> Result<()> {
    let policy = "[[filter.policy]]\nname = \"closed\"\ndefault = \"drop\"\n\
                  rules = [\"accept udp to 0.0.0.0/0 port 9\"]\n";
    let link = "source = \"strict\"\npolicy = \"closed\"";
    let net = Filtered::new(lab, &config(hook, policy, &[link; 3]))?;
    let inner = net.net.spoke(1)?.inner;
    let (local, v4) = (inner.link_local(), inner.v4());
    let babel = |route: crate::lab::packet::Route| route.udp(6696, 6696);
    let ospf = |route: crate::lab::packet::Route| route.packet(protocol::OSPF, &[2, 1, 0, 44]);
    net.judge(vec![
        Case::new(1, local, Passes("control")).of(babel).to("ff02::1:6")?,
        Case::new(1, local, Passes("control")).of(ospf).to("ff02::5")?,
        Case::new(1, v4, Passes("control")).of(ospf).to("224.0.0.5")?,
        Case::text(1, "169.254.7.7", Passes("control"))?.of(ospf).to("224.0.0.5")?,
        // Neighbour and router solicitation, and duplicate address detection.
        Case::new(1, local, Passes("control"))
            .of(|route| route.icmp(135, 0, &[0; 20]))
            .to("ff02::1:ff00:fe")?,
        Case::new(1, local, Passes("control"))
            .of(|route| route.icmp(133, 0, &[0; 4]))
            .to("ff02::2")?,
        Case::text(1, "::", Passes("control"))?
            .of(|route| route.icmp(135, 0, &[0; 20]))
            .to("ff02::1:ff00:fe")?,
        Case::text(1, "0.0.0.0", Passes("control"))?
            .of(|route| route.udp(68, 67))
            .to("255.255.255.255")?,
    ])?;
    lab.say("sources are checked there too");
    net.judge(vec![
        Case::new(1, own(2, true), Dropped("other-peer")).of(ospf).to("224.0.0.5")?,
        Case::new(1, own(2, false), Dropped("other-peer")).of(babel).to("ff02::1:6")?,
    ])?;
    lab.say("link-local sources do not leave the link");
    net.judge(vec![Case::text(1, "169.254.7.7", Dropped("no-route"))?])?;
    net.judge(vec![Case::text(1, "0.0.0.0", Dropped("martian"))?.of(|route| route.udp(68, 67))])?;
    lab.say("and what leaves the link is the policy's business");
    net.judge(vec![Case::new(1, own(1, true), Dropped("drop-default")).of(babel)])
}
