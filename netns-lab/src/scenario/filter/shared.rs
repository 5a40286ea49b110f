//! One device that many peers share.
//!
//! Here lives what a filter adds where WireGuard checks sources itself: it can only tighten.

use anyhow::Result;

use super::{
    Scenario,
    support::{
        DIRECTORY, DISCARD,
        Fate::{self, Dropped, Passes},
        Hook, MANY, counted, mount_bpffs, new_label, show,
    },
};
use crate::{
    lab::{Host, Injector, Lab, PATIENCE, Star, packet::Route, wait_until},
    scenario::support::{NET4, NET6, V4, V6, star},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "filter-shared-xdp",
        "on a shared interface the filter tightens what WireGuard lets through, by XDP",
        |lab| shared(lab, Hook::Xdp),
    ),
    Scenario::new(
        "filter-shared-tcx",
        "on a shared interface the filter tightens what WireGuard lets through, by tc",
        |lab| shared(lab, Hook::Tcx),
    ),
];

/// s1 may send from a part of what is routed to it; s2 is held to a policy; s3 is free.
fn config(star: &Star, hook: Hook) -> Result<String> {
    let key = |spoke: usize| -> Result<&str> { Ok(star.spoke(spoke)?.wg.public_key()) };
    Ok(format!(
        "[filter]\nhook = \"{}\"\ndirectory = \"{DIRECTORY}\"\n\
         [[filter.policy]]\nname = \"web\"\ndefault = \"drop\"\nstateful = false\nrules = [\"accept udp to port 9\"]\n\
         [[interface]]\nname = \"wg0\"\nlink = \"shared\"\n\
         [interface.filter]\nsource = \"off\"\n\
         [[interface.peer]]\nname = \"s1\"\npublic_key = \"{}\"\n\
         [interface.peer.filter]\nsource = \"list\"\n\
         list = [\"198.51.100.0/25\", \"2001:db8:1::/64\"]\n\
         [[interface.peer]]\nname = \"s2\"\npublic_key = \"{}\"\n\
         [interface.peer.filter]\nsource = \"off\"\npolicy = \"web\"\n",
        hook.name(),
        key(1)?,
        key(2)?
    ))
}

fn shared(lab: &mut Lab, hook: Hook) -> Result<()> {
    mount_bpffs()?;
    let star = star(lab, 3)?;
    let host = Host::behind(lab, &star.hub)?;
    let tap = host.tap()?;
    let (net2, net2_6) = ("203.0.113.0/24", "2001:db8:2::/48");
    star.hub.ip_batch(&format!(
        "route add {NET4} via 10.99.0.1\n\
         route add {NET6} via fd99::1\n\
         route add {net2} via 10.99.0.2\n\
         route add {net2_6} via fd99::2\n"
    ))?;
    let mut daemon = lab.wgrouted_with(&star.hub, &config(&star, hook)?)?;
    daemon.start()?;
    wait_until("the filter", PATIENCE, || show(&daemon), |answer| answer["state"] == "in-force")?;

    let judge = |spoke: usize, from: &str, port: u16, want: Option<Fate>| -> Result<()> {
        let injector = Injector::open(&star.spoke(spoke)?.node, "wg0")?;
        let from = from.parse()?;
        let route = Host::route_from(from, new_label());
        let fence =
            Route { from: star.spoke(spoke)?.inner.v4().into(), to: Host::V4.into(), ..route };
        let fence = Route { label: new_label(), ..fence };
        let before = want.map_or(Ok(0), |want| counted(&daemon, "wg0", want))?;
        for _ in 0..MANY {
            injector.send(&route.udp(40000, port))?;
        }
        injector.send(&fence.udp(DISCARD, DISCARD))?;
        tap.wait(fence.label, 1)?;
        let due = if matches!(want, Some(Passes(_))) { MANY } else { 0 };
        let arrived = tap.count(route.label);
        anyhow::ensure!(arrived == due, "{arrived} of s{spoke}'s packets from {from}, not {due}");
        if let Some(want) = want {
            // Fences and the kernel's own packets count too.
            let counted = || counted(&daemon, "wg0", want);
            wait_until("the counter", PATIENCE, counted, |count| *count >= before + MANY)?;
        }
        Ok(())
    };
    lab.say("inside the list, and outside it though WireGuard would let it through");
    judge(1, V4, DISCARD, Some(Passes("source")))?;
    judge(1, V6, DISCARD, Some(Passes("source")))?;
    judge(1, "198.51.100.200", DISCARD, Some(Dropped("not-listed")))?;
    judge(1, "2001:db8:1:1::1", DISCARD, Some(Dropped("not-listed")))?;
    lab.say("inside the policy, and outside it");
    judge(2, "203.0.113.9", DISCARD, Some(Passes("accept-rule")))?;
    judge(2, "2001:db8:2::9", DISCARD, Some(Passes("accept-rule")))?;
    judge(2, "203.0.113.9", 10, Some(Dropped("drop-default")))?;
    judge(2, "2001:db8:2::9", 10, Some(Dropped("drop-default")))?;
    lab.say("a filter lets nothing through that WireGuard does not");
    judge(3, V4, DISCARD, None)?;
    judge(2, V6, DISCARD, None)?;
    lab.say("a prefix that moves takes its owner's filter with it");
    star.hub.ip(&format!("route replace {NET4} via 10.99.0.3"))?;
    let outside = "198.51.100.200";
    let injector = Injector::open(&star.spoke(3)?.node, "wg0")?;
    let route = Host::route_from(outside.parse()?, new_label());
    let look = || {
        injector.send(&route.udp(40000, DISCARD))?;
        Ok(tap.count(route.label))
    };
    wait_until("s3's packets", PATIENCE, look, |arrived| *arrived > 0)?;
    judge(3, V4, DISCARD, Some(Passes("source")))?;
    judge(1, V4, DISCARD, None)
}
