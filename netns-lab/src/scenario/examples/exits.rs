//! A better way and a spare one: two exits, two hubs.

use anyhow::Result;

use super::{
    bgp::{birds, following},
    support::file,
};
use crate::{
    lab::{
        Bird, Lab,
        Release::{self, Three, Two},
    },
    scenario::Scenario,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "example-bird-two-exits-2",
        "bird-examples/two-exits on BIRD 2: the default route fails over, found out by BFD",
        |lab| two_exits(lab, Two),
    ),
    Scenario::new("example-bird-two-exits-3", "the same on BIRD 3", |lab| two_exits(lab, Three)),
    Scenario::new(
        "example-bird-hub-spoke-2",
        "bird-examples/hub-spoke on BIRD 2: spokes change to the other hub and back",
        |lab| hub_spoke(lab, Two),
    ),
    Scenario::new("example-bird-hub-spoke-3", "the same on BIRD 3", |lab| hub_spoke(lab, Three)),
];

fn two_exits(lab: &mut Lab, release: Release) -> Result<()> {
    let [client, exit_a, exit_b] = following(
        lab,
        [
            ("client", file!("bird-examples/two-exits/client.sh")),
            ("exit-a", file!("bird-examples/two-exits/exit-a.sh")),
            ("exit-b", file!("bird-examples/two-exits/exit-b.sh")),
        ],
    )?;
    let birds = birds(
        release,
        [
            (&client, file!("bird-examples/two-exits/client.conf")),
            (&exit_a, file!("bird-examples/two-exits/exit-a.conf")),
            (&exit_b, file!("bird-examples/two-exits/exit-b.conf")),
        ],
    )?;
    let by_a = || -> Result<()> {
        client.expect("wg0", &[("exit-a", "10.0.0.2/32 0.0.0.0/0"), ("exit-b", "10.0.0.3/32")])?;
        client.reaches("172.16.1.1", &exit_a, "203.0.113.1")
    };
    by_a()?;
    wait_bfd(&birds[0], ["10.0.0.2", "10.0.0.3"])?;

    lab.say("exit-a loses its cable");
    exit_a.cut()?;
    let began = lab.elapsed();
    client.expect("wg0", &[("exit-a", "10.0.0.2/32"), ("exit-b", "10.0.0.3/32 0.0.0.0/0")])?;
    lab.say(format_args!("by exit-b after {:.1} s", (lab.elapsed() - began).as_secs_f32()));
    client.reaches("172.16.1.1", &exit_b, "203.0.113.1")?;

    lab.say("and has it back");
    exit_a.mend()?;
    by_a()
}

fn hub_spoke(lab: &mut Lab, release: Release) -> Result<()> {
    let [hub_a, hub_b, s1, s2] = following(
        lab,
        [
            ("hub-a", file!("bird-examples/hub-spoke/hub-a.sh")),
            ("hub-b", file!("bird-examples/hub-spoke/hub-b.sh")),
            ("s1", file!("bird-examples/hub-spoke/s1.sh")),
            ("s2", file!("bird-examples/hub-spoke/s2.sh")),
        ],
    )?;
    let birds = birds(
        release,
        [
            (&hub_a, file!("bird-examples/hub-spoke/hub-a.conf")),
            (&hub_b, file!("bird-examples/hub-spoke/hub-b.conf")),
            (&s1, file!("bird-examples/hub-spoke/s1.conf")),
            (&s2, file!("bird-examples/hub-spoke/s2.conf")),
        ],
    )?;
    // Both hubs know both spokes, whichever is used.
    let spokes = [("s1", "10.0.0.3/32 172.16.3.0/24"), ("s2", "10.0.0.4/32 172.16.4.0/24")];
    hub_a.expect("wg0", &spokes)?;
    hub_b.expect("wg0", &spokes)?;
    let by = |a: &str, b: &str| -> Result<()> {
        for (spoke, other) in [(&s1, "172.16.4.0/24"), (&s2, "172.16.3.0/24")] {
            let own = |tunnel: &str, used: &str| format!("{tunnel} {}", used.replace("*", other));
            let (a, b) = (own("10.0.0.1/32", a), own("10.0.0.2/32", b));
            spoke.expect("wg0", &[("hub-a", &a), ("hub-b", &b)])?;
        }
        s1.reaches("172.16.3.1", &s2, "172.16.4.1")
    };
    by("*", "")?;
    wait_bfd(&birds[2], ["10.0.0.1", "10.0.0.2"])?;
    wait_bfd(&birds[3], ["10.0.0.1", "10.0.0.2"])?;

    lab.say("hub-a loses its cable");
    hub_a.cut()?;
    let began = lab.elapsed();
    by("", "*")?;
    lab.say(format_args!("by hub-b after {:.1} s", (lab.elapsed() - began).as_secs_f32()));

    lab.say("and has it back");
    hub_a.mend()?;
    by("*", "")
}

/// Waits for the BFD sessions with these neighbours: without them BGP would notice a failure only
/// after minutes.
pub(super) fn wait_bfd<const N: usize>(bird: &Bird, neighbours: [&str; N]) -> Result<()> {
    neighbours.into_iter().try_for_each(|address| bird.wait_bfd(address.parse()?))
}
