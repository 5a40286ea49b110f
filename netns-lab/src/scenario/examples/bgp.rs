//! BGP over one interface that several peers share.

use anyhow::{Result, ensure};

use super::support::{Router, file, routers};
use crate::{
    lab::{
        Bird, Frr, Lab,
        Release::{self, Three, Two},
    },
    scenario::Scenario,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "example-bird-pair-2",
        "bird-examples/pair on BIRD 2: two routers, eBGP, no configuration of wgrouted",
        |lab| pair(lab, Two),
    ),
    Scenario::new("example-bird-pair-3", "the same on BIRD 3", |lab| pair(lab, Three)),
    Scenario::new(
        "example-bird-ibgp-2",
        "bird-examples/ibgp on BIRD 2: a route reflector, packets from client to client",
        |lab| ibgp(lab, Two),
    ),
    Scenario::new("example-bird-ibgp-3", "the same on BIRD 3", |lab| ibgp(lab, Three)),
    Scenario::new(
        "example-bird-ebgp-shared-2",
        "bird-examples/ebgp-shared on BIRD 2: eBGP, several peers on one interface, a detour",
        |lab| ebgp_shared(lab, Two),
    ),
    Scenario::new("example-bird-ebgp-shared-3", "the same on BIRD 3", |lab| {
        ebgp_shared(lab, Three)
    }),
    Scenario::new(
        "example-frr-ebgp-shared",
        "bird-examples/ebgp-shared with FRR on one router, which uses nexthop objects",
        frr_ebgp_shared,
    ),
    Scenario::new(
        "example-bird-v4-via-v6-2",
        "bird-examples/v4-via-v6 on BIRD 2: both families by one IPv6 session",
        |lab| v4_via_v6(lab, Two),
    ),
    Scenario::new("example-bird-v4-via-v6-3", "the same on BIRD 3", |lab| v4_via_v6(lab, Three)),
    Scenario::new(
        "example-frr-v4-via-v6",
        "bird-examples/v4-via-v6 with FRR on one router",
        frr_v4_via_v6,
    ),
];

const README: &str = file!("README.md");
const PAIR: [&str; 2] =
    [file!("bird-examples/pair/left.conf"), file!("bird-examples/pair/right.conf")];

fn pair(lab: &mut Lab, release: Release) -> Result<()> {
    ensure!(README.contains(PAIR[0]), "the README's BIRD configuration is not left.conf");
    let [mut left, mut right] = routers(
        lab,
        [
            ("left", file!("bird-examples/pair/left.sh")),
            ("right", file!("bird-examples/pair/right.sh")),
        ],
    )?;
    left.follow(lab, &["wg0"])?;
    right.follow(lab, &["wg0"])?;
    let _birds = [left.bird(release, PAIR[0])?, right.bird(release, PAIR[1])?];
    left.expect("wg0", &[("right", "10.0.0.2/32 172.16.2.0/24")])?;
    right.expect("wg0", &[("left", "10.0.0.1/32 172.16.1.0/24")])?;
    left.reaches("172.16.1.1", &right, "172.16.2.1")
}

const IBGP: [&str; 3] = [
    file!("bird-examples/ibgp/r1.conf"),
    file!("bird-examples/ibgp/r2.conf"),
    file!("bird-examples/ibgp/r3.conf"),
];

fn ibgp(lab: &mut Lab, release: Release) -> Result<()> {
    let [r1, r2, r3] = following(
        lab,
        [
            ("r1", file!("bird-examples/ibgp/r1.sh")),
            ("r2", file!("bird-examples/ibgp/r2.sh")),
            ("r3", file!("bird-examples/ibgp/r3.sh")),
        ],
    )?;
    let _birds = birds(release, [(&r1, IBGP[0]), (&r2, IBGP[1]), (&r3, IBGP[2])])?;
    expect_mesh([&r1, &r2, &r3])?;
    // r2 and r3 know each other's networks by r1, and reach them without it.
    r2.expect_route("172.16.3.0/24", "via 10.0.0.3 dev wg0")?;
    r2.reaches("172.16.2.1", &r3, "172.16.3.1")?;
    r1.reaches("172.16.1.1", &r2, "172.16.2.1")
}

const EBGP: [&str; 3] = [
    file!("bird-examples/ebgp-shared/r1.conf"),
    file!("bird-examples/ebgp-shared/r2.conf"),
    file!("bird-examples/ebgp-shared/r3.conf"),
];

fn ebgp_routers(lab: &mut Lab) -> Result<[Router; 3]> {
    following(
        lab,
        [
            ("r1", file!("bird-examples/ebgp-shared/r1.sh")),
            ("r2", file!("bird-examples/ebgp-shared/r2.sh")),
            ("r3", file!("bird-examples/ebgp-shared/r3.sh")),
        ],
    )
}

fn ebgp_shared(lab: &mut Lab, release: Release) -> Result<()> {
    let [r1, r2, r3] = ebgp_routers(lab)?;
    let birds = birds(release, [(&r1, EBGP[0]), (&r2, EBGP[1]), (&r3, EBGP[2])])?;
    expect_mesh([&r1, &r2, &r3])?;
    r1.reaches("172.16.1.1", &r2, "172.16.2.1")?;

    lab.say("r1 ends its session with r2");
    birds[0].ask("disable r2")?;
    expect_detour(&r1, &r2)?;

    lab.say("and takes it up again");
    birds[0].ask("enable r2")?;
    expect_mesh([&r1, &r2, &r3])?;
    r1.reaches("172.16.1.1", &r2, "172.16.2.1")
}

fn frr_ebgp_shared(lab: &mut Lab) -> Result<()> {
    let [r1, r2, r3] = ebgp_routers(lab)?;
    let birds = birds(Three, [(&r2, EBGP[1]), (&r3, EBGP[2])])?;
    let _frr = Frr::start(&r1.node, file!("bird-examples/ebgp-shared/r1-frr.conf"))?;
    expect_mesh([&r1, &r2, &r3])?;
    r1.expect_route("172.16.2.0/24", "nhid")?;
    r1.reaches("172.16.1.1", &r2, "172.16.2.1")?;

    lab.say("r2 ends its session with r1");
    birds[0].ask("disable r1")?;
    expect_detour(&r1, &r2)?;

    lab.say("and takes it up again");
    birds[0].ask("enable r1")?;
    expect_mesh([&r1, &r2, &r3])?;
    r1.reaches("172.16.1.1", &r2, "172.16.2.1")
}

const V4_VIA_V6: [&str; 2] =
    [file!("bird-examples/v4-via-v6/left.conf"), file!("bird-examples/v4-via-v6/right.conf")];

fn v4_via_v6_routers(lab: &mut Lab) -> Result<[Router; 2]> {
    following(
        lab,
        [
            ("left", file!("bird-examples/v4-via-v6/left.sh")),
            ("right", file!("bird-examples/v4-via-v6/right.sh")),
        ],
    )
}

fn v4_via_v6(lab: &mut Lab, release: Release) -> Result<()> {
    let [left, right] = v4_via_v6_routers(lab)?;
    let _birds = birds(release, [(&left, V4_VIA_V6[0]), (&right, V4_VIA_V6[1])])?;
    expect_both_families(&left, &right)
}

fn frr_v4_via_v6(lab: &mut Lab) -> Result<()> {
    let [left, right] = v4_via_v6_routers(lab)?;
    let _bird = right.bird(Three, V4_VIA_V6[1])?;
    let _frr = Frr::start(&left.node, file!("bird-examples/v4-via-v6/left-frr.conf"))?;
    expect_both_families(&left, &right)
}

fn expect_both_families(left: &Router, right: &Router) -> Result<()> {
    left.expect("wg0", &[("right", "fd00::2/128 fe80::2/128 172.16.2.0/24 2001:db8:2::/48")])?;
    right.expect("wg0", &[("left", "fd00::1/128 fe80::1/128 172.16.1.0/24 2001:db8:1::/48")])?;
    left.expect_route("172.16.2.0/24", "via inet6")?;
    left.reaches("172.16.1.1", right, "172.16.2.1")?;
    left.reaches("2001:db8:1::1", right, "2001:db8:2::1")
}

/// Routers on each of which wgrouted follows `wg0` without a configuration.
pub(super) fn following<const N: usize>(
    lab: &mut Lab,
    sites: [(&str, &str); N],
) -> Result<[Router; N]> {
    let mut routers = routers(lab, sites)?;
    for router in &mut routers {
        router.follow(lab, &["wg0"])?;
    }
    Ok(routers)
}

/// BIRD on each of these routers.
pub(super) fn birds<const N: usize>(
    release: Release,
    routers: [(&Router, &str); N],
) -> Result<Vec<Bird>> {
    routers.into_iter().map(|(router, config)| router.bird(release, config)).collect()
}

/// Waits until each of r1, r2 and r3 sends the others' networks to these others directly.
fn expect_mesh(routers: [&Router; 3]) -> Result<()> {
    let peers = [
        ("r1", "10.0.0.1/32 172.16.1.0/24"),
        ("r2", "10.0.0.2/32 172.16.2.0/24"),
        ("r3", "10.0.0.3/32 172.16.3.0/24"),
    ];
    routers.iter().try_for_each(|router| {
        let others: Vec<_> =
            peers.into_iter().filter(|(name, _)| *name != router.node.name()).collect();
        router.expect("wg0", &others)
    })
}

/// Waits until r1 and r2 send to each other by r3.
fn expect_detour(r1: &Router, r2: &Router) -> Result<()> {
    r1.expect("wg0", &[("r2", "10.0.0.2/32"), ("r3", "10.0.0.3/32 172.16.2.0/24 172.16.3.0/24")])?;
    r2.expect("wg0", &[("r1", "10.0.0.1/32"), ("r3", "10.0.0.3/32 172.16.1.0/24 172.16.3.0/24")])?;
    r1.reaches("172.16.1.1", r2, "172.16.2.1")
}
