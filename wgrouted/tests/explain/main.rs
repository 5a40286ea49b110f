//! The walk through policy rules and tables, held against the kernel's own answers.
//!
//! Here live random worlds of rules, routes, nexthop objects and a VRF, in namespaces of their own,
//! and packets that are put to the walk and to the kernel.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;
mod world;

use std::{collections::BTreeMap, fs};

use support::netns::{fresh, try_ip};
use wgrouted::{
    core::{
        lookup::{
            kernel::Lookup,
            packet::Packet,
            picture::{Kernel, Picture},
            walk::{Decision, Outcome, Walk, walk},
        },
        nexthops::Nexthops,
        prefix::Family,
        route::{RouteKind, TableId},
    },
    source::rtnetlink::Dumper,
};
use world::{Dice, build, packet};

/// Worlds, and packets of each family in each.
const WORLDS: u64 = 24;
const PACKETS: usize = 40;

/// What there is to walk through.
struct Read {
    rules: BTreeMap<Family, Vec<wgrouted::core::exits::iprule::IpRule>>,
    links: Vec<wgrouted::core::route::Link>,
    groups: BTreeMap<u32, u32>,
    nexthops: Nexthops,
    dumper: Dumper,
}

impl Read {
    fn new() -> Read {
        let mut dumper = Dumper::open().unwrap();
        let mut nexthops = Nexthops::default();
        for object in dumper.nexthops().unwrap() {
            nexthops.insert(object);
        }
        Read {
            rules: Family::ALL.map(|family| (family, dumper.iprules(family).unwrap())).into(),
            links: dumper.links().unwrap(),
            groups: dumper.link_groups().unwrap(),
            nexthops,
            dumper,
        }
    }

    /// The walk, and whether it depends on the kernel's hash.
    fn walk(&mut self, packet: Packet) -> (Walk, bool) {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let picture = Picture {
            rules: &self.rules[&packet.family()],
            links: &self.links,
            groups: &self.groups,
            nexthops: &self.nexthops,
            kernel: Kernel::of_release(&release),
        };
        let dumper = &mut self.dumper;
        let routes = |table: TableId| dumper.routes_to(table, packet.dst);
        let walked = walk(&picture, packet, routes).unwrap();
        let is_open = walked.steps.iter().any(|step| step.is_open(&picture));
        (walked, is_open)
    }
}

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
        let mut read = Read::new();
        for family in Family::ALL {
            for _ in 0..PACKETS {
                let packet = packet(&mut dice, family);
                let (walked, is_open) = read.walk(packet);
                if is_open {
                    seen.count("open");
                    continue;
                }
                let said = read.dumper.route_get(&packet);
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

fn complaint(
    seed: u64,
    packet: &Packet,
    walk: &Walk,
    said: &Result<Lookup, wgrouted::source::rtnetlink::Error>,
) -> String {
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
