//! Peers that are gone, found out by wgrouted and told to routing daemons.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context, Result};

use super::{
    bgp::{birds, following},
    exits::wait_bfd,
    support::{Router, file, routers},
};
use crate::{
    lab::{
        Frr, Lab, PATIENCE,
        Release::{self, Three, Two},
        wait_for,
    },
    scenario::Scenario,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "example-bird-bfd-or-liveness-2",
        "bird-examples/bfd-or-liveness on BIRD 2: the same failure, found out in both ways",
        |lab| bfd_or_liveness(lab, Two),
    )
    .within(240),
    Scenario::new("example-bird-bfd-or-liveness-3", "the same on BIRD 3", |lab| {
        bfd_or_liveness(lab, Three)
    })
    .within(240),
    Scenario::new(
        "example-bird-learn-2",
        "bird-examples/learn on BIRD 2: branches without a routing daemon, announced while alive",
        |lab| learn(lab, Some(Two)),
    ),
    Scenario::new("example-bird-learn-3", "the same on BIRD 3", |lab| learn(lab, Some(Three))),
    Scenario::new("example-frr-learn", "the same with FRR on the hub", |lab| learn(lab, None)),
    Scenario::new(
        "example-babel-redistribute",
        "babel-examples/redistribute: the same by babeld",
        redistribute,
    ),
];

fn bfd_or_liveness(lab: &mut Lab, release: Release) -> Result<()> {
    let [mut client, exit_a, exit_b] = following(
        lab,
        [
            ("client", file!("bird-examples/bfd-or-liveness/client.sh")),
            ("exit-a", file!("bird-examples/bfd-or-liveness/exit-a.sh")),
            ("exit-b", file!("bird-examples/bfd-or-liveness/exit-b.sh")),
        ],
    )?;
    let by_a = |client: &Router| -> Result<()> {
        client.expect("wg0", &[("exit-a", "10.0.0.2/32 0.0.0.0/0"), ("exit-b", "10.0.0.3/32")])?;
        client.reaches("172.16.1.1", &exit_a, "203.0.113.1")
    };
    // Cuts exit-a off, measures, and mends it.
    let fail = |client: &Router| -> Result<f32> {
        by_a(client)?;
        exit_a.cut()?;
        let began = lab.elapsed();
        client.expect("wg0", &[("exit-a", "10.0.0.2/32"), ("exit-b", "10.0.0.3/32 0.0.0.0/0")])?;
        let took = (lab.elapsed() - began).as_secs_f32();
        client.reaches("172.16.1.1", &exit_b, "203.0.113.1")?;
        exit_a.mend()?;
        by_a(client)?;
        Ok(took)
    };

    lab.say("BFD");
    let birds = birds(
        release,
        [
            (&client, file!("bird-examples/bfd-or-liveness/client-bfd.conf")),
            (&exit_a, file!("bird-examples/bfd-or-liveness/exit-a-bfd.conf")),
            (&exit_b, file!("bird-examples/bfd-or-liveness/exit-b-bfd.conf")),
        ],
    )?;
    wait_bfd(&birds[0], ["10.0.0.2", "10.0.0.3"])?;
    let bfd = fail(&client)?;
    drop(birds);
    // What a BIRD that was killed leaves behind, the next one replaces at its first scan, which need
    // not be before the failure.
    client.node.ip("route flush proto bird")?;

    lab.say("wgrouted's liveness");
    let bird = client.bird(release, file!("bird-examples/bfd-or-liveness/client-liveness.conf"))?;
    usual_socket(&client)?;
    client.configured(lab, file!("bird-examples/bfd-or-liveness/client-liveness.toml"))?;
    let liveness = fail(&client)?;
    drop(bird);
    lab.say(format_args!("rerouted after: BFD {bfd:.1} s, wgrouted's liveness {liveness:.1} s"));
    Ok(())
}

/// Puts the socket of a router's BIRD where Debian has it.
fn usual_socket(router: &Router) -> Result<()> {
    let socket = Path::new("/run/bird/bird.ctl");
    let folder = socket.parent().context("a socket in no folder")?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    symlink(router.node.dir().join("bird.ctl"), socket).context("BIRD's usual socket")
}

/// On the hub BIRD of this release, or FRR.
fn learn(lab: &mut Lab, release: Option<Release>) -> Result<()> {
    let [core, mut hub, s1, s2] = routers(
        lab,
        [
            ("core", file!("bird-examples/learn/core.sh")),
            ("hub", file!("bird-examples/learn/hub.sh")),
            ("s1", file!("bird-examples/learn/s1.sh")),
            ("s2", file!("bird-examples/learn/s2.sh")),
        ],
    )?;
    hub.configured(lab, file!("bird-examples/learn/hub.toml"))?;
    let core_bird = file!("bird-examples/learn/core.conf");
    let _core = core.bird(release.unwrap_or(Three), core_bird)?;
    let (_bird, _frr);
    match release {
        Some(release) => _bird = hub.bird(release, file!("bird-examples/learn/hub.conf"))?,
        None => _frr = Frr::start(&hub.node, file!("bird-examples/learn/hub-frr.conf"))?,
    }
    branches(lab, &core, &hub, [&s1, &s2], "via 192.0.2.2 dev eth0")
}

fn redistribute(lab: &mut Lab) -> Result<()> {
    let [core, mut hub, s1, s2] = routers(
        lab,
        [
            ("core", file!("babel-examples/redistribute/core.sh")),
            ("hub", file!("babel-examples/redistribute/hub.sh")),
            ("s1", file!("babel-examples/redistribute/s1.sh")),
            ("s2", file!("babel-examples/redistribute/s2.sh")),
        ],
    )?;
    hub.configured(lab, file!("babel-examples/redistribute/hub.toml"))?;
    let _babels = [
        hub.babeld(file!("babel-examples/redistribute/hub.conf"))?,
        core.babeld(file!("babel-examples/redistribute/core.conf"))?,
    ];
    branches(lab, &core, &hub, [&s1, &s2], "dev wg1 proto babel")
}

/// The core has a route to each branch while that answers.
fn branches(
    lab: &Lab,
    core: &Router,
    hub: &Router,
    [s1, s2]: [&Router; 2],
    way: &str,
) -> Result<()> {
    let both = || -> Result<()> {
        core.expect_route("172.16.3.0/24", way)?;
        core.expect_route("172.16.4.0/24", way)?;
        hub.expect(
            "wg0",
            &[("s1", "10.0.0.3/32 172.16.3.0/24"), ("s2", "10.0.0.4/32 172.16.4.0/24")],
        )?;
        core.reaches("172.16.1.1", s1, "172.16.3.1")?;
        core.reaches("172.16.1.1", s2, "172.16.4.1")
    };
    both()?;

    lab.say("s1 loses its cable");
    s1.cut()?;
    let began = lab.elapsed();
    wait_for("the end of the core's route to s1", PATIENCE, || {
        // babeld puts an unreachable route in its place for a while.
        let route = core.node.ip("route show 172.16.3.0/24")?;
        Ok(route.is_empty() || route.starts_with("unreachable"))
    })?;
    lab.say(format_args!("withdrawn after {:.1} s", (lab.elapsed() - began).as_secs_f32()));
    core.reaches("172.16.1.1", s2, "172.16.4.1")?;

    lab.say("and has it back");
    s1.mend()?;
    both()
}
