//! The walk through policy rules and tables, held against the kernel's own answers.
//!
//! Here live random worlds of rules, routes, nexthop objects and a VRF, in namespaces of their own,
//! and packets that are put to the walk and to the kernel.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;
mod world;

use std::collections::BTreeMap;

use support::netns::{fresh, try_ip};
use wgrouted::{
    core::{
        lookup::{
            kernel::Lookup,
            packet::Packet,
            walk::{Decision, Outcome, Walk},
        },
        prefix::Family,
        route::RouteKind,
    },
    explain::network::Network,
    source::rtnetlink::Error,
};
use world::{Dice, any, build, packet};

/// Worlds, and packets of each family in each.
const WORLDS: u64 = 24;
const PACKETS: usize = 40;

/// What happened, so that a test that compares nothing is noticed.
#[derive(Default, Debug)]
struct Seen(BTreeMap<String, usize>);

impl Seen {
    fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    fn note(&mut self, packet: &Packet, walk: &Walk) {
        let family = packet.family();
        self.count(match &walk.decision {
            Decision::Route { best, .. } if best.route.path.kind == RouteKind::Other => {
                format!("{family} local")
            }
            Decision::Route { best, .. } if best.hops.len() > 1 => format!("{family} multipath"),
            Decision::Route { best, .. } if best.route.path.nexthop != 0 => {
                format!("{family} nexthop object")
            }
            Decision::Route { best, .. } if best.route.path.source.is_some() => {
                format!("{family} source-specific")
            }
            Decision::Route { .. } => format!("{family} route"),
            Decision::OnLink { .. } => format!("{family} on link"),
            Decision::Rejected { route, .. } => {
                format!("{family} rejected by {}", if route.is_some() { "route" } else { "rule" })
            }
            Decision::NoRoute => format!("{family} no route"),
        });
        for step in &walk.steps {
            match &step.outcome {
                Outcome::Jumped => self.count("jumped"),
                Outcome::NoTarget => self.count("no target"),
                Outcome::Looked { suppressed: Some(_), .. } => self.count("suppressed"),
                Outcome::Looked { .. } if step.rule.selector.l3mdev => self.count("l3mdev"),
                Outcome::Skipped(why) => {
                    let json = serde_json::to_value(why).unwrap();
                    self.count(format!("skipped by {}", json["selector"]));
                }
                _ => {}
            }
        }
    }
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test explain -- --ignored"]
fn the_walk_ends_where_the_kernel_ends() {
    let (mut seen, mut wrong) = (Seen::default(), Vec::new());
    let mut vrf = false;
    for seed in 1..=WORLDS {
        if !fresh() {
            return;
        }
        let mut dice = Dice::new(seed);
        vrf = build(&mut dice);
        for family in Family::ALL {
            let mut network = Network::read(any(family)).unwrap();
            for _ in 0..PACKETS {
                let packet = packet(&mut dice, family);
                let walked = network.walk(packet).unwrap();
                if !network.doubts(&walked).is_empty() {
                    seen.count("open");
                    continue;
                }
                let said = network.ask(&packet);
                seen.note(&packet, &walked);
                if !said.as_ref().is_ok_and(|said| said.agrees(&walked)) {
                    wrong.push(complaint(seed, &packet, &walked, &said));
                }
            }
        }
    }
    println!("{seen:#?}");
    let packets = WORLDS as usize * PACKETS * Family::ALL.len();
    for what in [
        "ipv4 route",
        "ipv6 route",
        "ipv4 multipath",
        "ipv6 multipath",
        "ipv4 nexthop object",
        "ipv6 nexthop object",
        "ipv6 source-specific",
        "ipv4 on link",
        "ipv4 no route",
        "ipv6 no route",
        "ipv4 rejected by route",
        "ipv6 rejected by route",
        "ipv4 rejected by rule",
        "ipv6 rejected by rule",
        "jumped",
        "suppressed",
        "l3mdev",
    ] {
        assert!(what == "l3mdev" && !vrf || seen.0.contains_key(what), "no packet met: {what}");
    }
    assert!(
        wrong.is_empty(),
        "{} of {packets} packets go elsewhere:\n{}",
        wrong.len(),
        wrong.iter().take(3).cloned().collect::<Vec<_>>().join("\n\n")
    );
}

fn complaint(seed: u64, packet: &Packet, walk: &Walk, said: &Result<Lookup, Error>) -> String {
    let flag = if packet.dst.is_ipv4() { "-4" } else { "-6" };
    let show = |what: &str| try_ip(&format!("{flag} {what}")).unwrap_or_default();
    let steps: Vec<String> =
        walk.steps.iter().map(|step| format!("  {}: {:?}", step.rule, step.outcome)).collect();
    format!(
        "world {seed}: {packet:?}\nkernel: {said:?}\nwalk: {:?}\n{}\n{}{}{}",
        walk.decision,
        steps.join("\n"),
        show("-br addr show"),
        show("rule show"),
        show("route show table all")
    )
}
