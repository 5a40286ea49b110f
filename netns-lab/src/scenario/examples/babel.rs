//! Babel beside something else: WireGuard's own source check, BGP.

use anyhow::Result;

use super::support::{file, routers};
use crate::{
    lab::{
        Lab,
        Release::{self, Three, Two},
    },
    scenario::Scenario,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "example-babel-device-per-peer",
        "babel-examples/device-per-peer: Babel over a tunnel whose sources are checked",
        device_per_peer,
    ),
    Scenario::new(
        "example-babel-islands-2",
        "babel-examples/islands with BIRD 2: two islands of Babel, joined by BGP",
        |lab| islands(lab, Two),
    ),
    Scenario::new("example-babel-islands-3", "the same with BIRD 3", |lab| islands(lab, Three)),
];

fn device_per_peer(lab: &mut Lab) -> Result<()> {
    let [mut left, mut right] = routers(
        lab,
        [
            ("left", file!("babel-examples/device-per-peer/left.sh")),
            ("right", file!("babel-examples/device-per-peer/right.sh")),
        ],
    )?;
    left.follow(lab, &["wg0"])?;
    right.follow(lab, &["wg0"])?;
    let _babels = [
        left.babeld(file!("babel-examples/device-per-peer/left.conf"))?,
        right.babeld(file!("babel-examples/device-per-peer/right.conf"))?,
    ];
    let group = "ff02::1:6/128";
    let own = |number: u8| {
        format!("fe80::{number}/128 {group} 172.16.{number}.1/32 2001:db8:{number}::1/128")
    };
    left.expect("wg0", &[("right", &own(2))])?;
    right.expect("wg0", &[("left", &own(1))])?;
    left.reaches("172.16.1.1", &right, "172.16.2.1")?;
    left.reaches("2001:db8:1::1", &right, "2001:db8:2::1")
}

fn islands(lab: &mut Lab, release: Release) -> Result<()> {
    let [mut a_border, a_inner, mut b_border, b_inner] = routers(
        lab,
        [
            ("a-border", file!("babel-examples/islands/a-border.sh")),
            ("a-inner", file!("babel-examples/islands/a-inner.sh")),
            ("b-border", file!("babel-examples/islands/b-border.sh")),
            ("b-inner", file!("babel-examples/islands/b-inner.sh")),
        ],
    )?;
    a_border.follow(lab, &["wg0"])?;
    b_border.follow(lab, &["wg0"])?;
    let _babels = [
        a_border.babeld(file!("babel-examples/islands/a-border-babel.conf"))?,
        a_inner.babeld(file!("babel-examples/islands/a-inner.conf"))?,
        b_border.babeld(file!("babel-examples/islands/b-border-babel.conf"))?,
        b_inner.babeld(file!("babel-examples/islands/b-inner.conf"))?,
    ];
    let _birds = [
        a_border.bird(release, file!("babel-examples/islands/a-border.conf"))?,
        b_border.bird(release, file!("babel-examples/islands/b-border.conf"))?,
    ];
    a_border.expect("wg0", &[("b-border", "10.0.0.3/32 172.16.4.1/32")])?;
    b_border.expect("wg0", &[("a-border", "10.0.0.1/32 172.16.2.1/32")])?;
    a_inner.expect_route("172.16.4.1", "dev wg1 proto babel")?;
    b_inner.expect_route("172.16.2.1", "dev wg1 proto babel")?;
    a_inner.reaches("172.16.2.1", &b_inner, "172.16.4.1")
}
