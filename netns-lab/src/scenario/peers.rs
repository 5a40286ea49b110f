//! Peers that come and go, and what is theirs.
//!
//! Here live changes of the peer list, which the kernel announces to nobody, and edits of
//! AllowedIPs by others.

use std::process::Command;

use anyhow::{Result, ensure};
use ipnet::IpNet;

use super::{
    Scenario,
    support::{Hub, NET4, NET6, V4, V6, expect_allowed_ips, flows, flows_nowhere, star},
};
use crate::lab::{AllowedIps, Lab, Owner, PATIENCE, wait_equal};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "peer-added",
        "a peer that appears at run time gets the routes that were waiting for it",
        added,
    ),
    Scenario::new(
        "peer-removed-and-back",
        "a peer is removed and added again while its routes stay",
        removed_and_back,
    ),
    Scenario::new(
        "outside-edits",
        "AllowedIPs that somebody adds, steals or removes by hand are repaired and counted",
        outside_edits,
    ),
    Scenario::new(
        "edits-during-dumps",
        "somebody edits all the time: nothing of what is routed is ever lost",
        edits_during_dumps,
    ),
    Scenario::new(
        "pinned-stay",
        "a peer's own prefixes survive routes, withdrawals and the daemon's end",
        pinned_stay,
    ),
];

/// Looks at the device every second and soon ends the learning, so that scenarios need not wait
/// long.
const BRISK: &str =
    "[daemon]\naudit_interval = \"1s\"\n[[interface]]\nname = \"wg0\"\nadopt = \"500ms\"\n";

fn added(lab: &mut Lab) -> Result<()> {
    let star = star(lab, 3)?;
    star.wg.remove_peer("s3")?;
    let mut daemon = lab.wgrouted_with(&star.hub, BRISK)?;
    daemon.start()?;
    star.hub.ip(&format!("route add {NET4} via 10.99.0.3"))?;
    daemon.wait_listed("unresolved", NET4)?;
    flows_nowhere(&star, V4)?;
    star.wg.add_peers(&[star.spoke(3)?.as_peer()])?;
    expect_allowed_ips(&star, &[(NET4, "s3")])?;
    flows(&star, V4, 3)
}

fn removed_and_back(lab: &mut Lab) -> Result<()> {
    let hub = Hub::with_config(lab, 2, |_| Ok(BRISK.to_owned()))?;
    hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    hub.ip(&format!("route add {NET6} via fd99::2"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s2")])?;
    hub.flows(V4, 1)?;

    lab.say("s1 is removed");
    hub.star.wg.remove_peer("s1")?;
    hub.flows_nowhere(V4)?;
    hub.daemon.wait_log("peer vanished")?;
    hub.flows(V6, 2)?;

    lab.say("s1 is back");
    hub.star.wg.add_peers(&[hub.spoke(1)?.as_peer()])?;
    hub.expect(&[(NET4, "s1"), (NET6, "s2")])?;
    hub.flows(V4, 1)?;

    lab.say("removed and added at once, between two looks");
    hub.star.wg.remove_peer("s1")?;
    hub.star.wg.add_peers(&[hub.spoke(1)?.as_peer()])?;
    hub.expect(&[(NET4, "s1"), (NET6, "s2")])?;
    hub.flows(V4, 1)
}

fn outside_edits(lab: &mut Lab) -> Result<()> {
    let hub = Hub::with_config(lab, 2, |_| Ok(BRISK.to_owned()))?;
    hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    hub.ip(&format!("route add {NET6} via fd99::2"))?;
    let wanted = [(NET4, "s1"), (NET6, "s2")];
    hub.expect(&wanted)?;
    hub.daemon.wait_learned()?;
    let own = |number| anyhow::Ok(hub.spoke(number)?.inner.prefixes());
    let (net4, net6): (IpNet, IpNet) = (NET4.parse()?, NET6.parse()?);
    let drift = || hub.daemon.counter("/interfaces/0/counters/drift");
    ensure!(drift()? == 0, "drift was counted before anybody edited");

    lab.say("a foreign prefix");
    hub.star
        .wg
        .set_allowed_ips("s1", &[own(1)?, vec![net4, "203.0.113.0/24".parse()?]].concat())?;
    hub.expect(&wanted)?;
    hub.daemon.wait_counter("/interfaces/0/counters/drift", 1)?;

    lab.say("a prefix given to another peer");
    hub.star.wg.set_allowed_ips("s2", &[own(2)?, vec![net4, net6]].concat())?;
    hub.expect(&wanted)?;
    hub.flows(V4, 1)?;
    hub.daemon.wait_counter("/interfaces/0/counters/drift", 2)?;

    lab.say("a prefix taken away");
    hub.star.wg.set_allowed_ips("s2", &own(2)?)?;
    hub.expect(&wanted)?;
    hub.flows(V6, 2)?;
    hub.daemon.wait_counter("/interfaces/0/counters/drift", 3)?;

    lab.say("a peer's own prefix taken away");
    hub.star.wg.set_allowed_ips("s1", &[own(1)?[1..].to_vec(), vec![net4]].concat())?;
    hub.expect(&wanted)?;
    hub.flows("10.99.0.1", 1)?;
    hub.daemon.wait_counter("/interfaces/0/counters/drift", 4)?;
    ensure!(drift()? == 4, "{} repairs were counted for four edits", drift()?);
    Ok(())
}

/// A dump that somebody's change interrupts ends early and says so only by a flag. Taken at its
/// word it would have the daemon add everything again, or worse.
fn edits_during_dumps(lab: &mut Lab) -> Result<()> {
    let hub = Hub::with_config(lab, 2, |_| Ok(BRISK.to_owned()))?;
    let table: AllowedIps = (0..5_000u32)
        .map(|i| {
            let address = std::net::Ipv4Addr::from_bits((20 << 24) + (i << 8));
            Ok((IpNet::new(address.into(), 24)?, Owner::from("s1")))
        })
        .collect::<Result<_>>()?;
    let via = "10.99.0.1".parse()?;
    hub.routes(crate::lab::routes::Op::Add, via, table.keys())?;
    hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    let mut wanted = table.clone();
    wanted.insert(NET4.parse()?, Owner::from("s1"));
    hub.expect_table(&wanted)?;
    // Or the editor's prefix would become s2's own.
    hub.daemon.wait_learned()?;

    lab.say("edit for a dozen audits");
    let (key, own) = (hub.spoke(2)?.wg.public_key(), hub.spoke(2)?.inner.prefixes());
    let own: Vec<String> = own.iter().map(IpNet::to_string).collect();
    let script = format!(
        "while :; do wg set wg0 peer {key} allowed-ips {own},203.0.113.0/24; \
         wg set wg0 peer {key} allowed-ips {own}; done",
        own = own.join(",")
    );
    let train = hub.train(V4, std::time::Duration::from_millis(5))?;
    let editor = hub.star.hub.spawn("editor", Command::new("sh").args(["-c", &script]))?;
    let audits = hub.daemon.counter("/interfaces/0/counters/device_dumps")?;
    hub.daemon.wait_counter("/interfaces/0/counters/device_dumps", audits + 12)?;
    let owners = hub.star.wg.allowed_ips()?;
    let missing = table.keys().filter(|prefix| !owners.contains_key(prefix)).count();
    drop(editor);
    ensure!(missing == 0, "{missing} routed prefixes were missing while somebody edited");
    // Whatever the editor did last, there is something to repair.
    let own = hub.spoke(2)?.inner.prefixes();
    hub.star.wg.set_allowed_ips("s2", &[own, vec!["203.0.113.0/24".parse()?]].concat())?;
    hub.expect_table(&wanted)?;
    let report = train.stop()?;
    lab.say(&report);
    report.assert_no_loss()?;
    let adds = hub.daemon.counter("/interfaces/0/counters/adds")?;
    // The table once, and s2's own prefixes when the editor's command had just emptied the list.
    lab.say(format_args!("{adds} prefixes were added in all"));
    ensure!(adds < 2 * wanted.len() as u64, "whole tables were added again");
    wait_equal("the end", PATIENCE, &wanted, || {
        let mut have = hub.star.wg.allowed_ips()?;
        have.retain(|prefix, _| wanted.contains_key(prefix));
        Ok(have)
    })
}

fn pinned_stay(lab: &mut Lab) -> Result<()> {
    let star = star(lab, 2)?;
    let network: IpNet = "192.0.2.0/24".parse()?;
    let own = star.spoke(1)?.inner.prefixes();
    star.wg.set_allowed_ips("s1", &[own, vec![network]].concat())?;
    star.spoke(1)?.serve(&["192.0.2.1".parse()?])?;
    let config = "[[interface]]\nname = \"wg0\"\non_exit = \"remove\"\n";
    let mut daemon = lab.wgrouted_with(&star.hub, config)?;
    daemon.start()?;
    let network = ("192.0.2.0/24", "s1");
    expect_allowed_ips(&star, &[network])?;

    lab.say("routes over and under a peer's own prefixes, by the other peer");
    star.hub.ip_batch(&format!(
        "route add 192.0.2.0/24 via 10.99.0.2\n\
         route add 192.0.2.128/25 via 10.99.0.2\n\
         route add 0.0.0.0/0 via 10.99.0.2\n\
         route add {NET4} via 10.99.0.1\n"
    ))?;
    let wanted = [network, ("192.0.2.128/25", "s2"), ("0.0.0.0/0", "s2"), (NET4, "s1")];
    expect_allowed_ips(&star, &wanted)?;
    flows(&star, "192.0.2.1", 1)?;
    star.hub.ip("route del 192.0.2.0/24")?;
    star.hub.ip("route del 192.0.2.128/25")?;
    expect_allowed_ips(&star, &[network, ("0.0.0.0/0", "s2"), (NET4, "s1")])?;

    lab.say("the daemon ends and removes what is its own");
    let status = daemon.terminate()?;
    ensure!(status.success(), "the daemon ended with {status}");
    expect_allowed_ips(&star, &[network])?;
    flows(&star, "10.99.0.1", 1)?;

    lab.say("the next one finds the same pinned prefixes");
    daemon.start()?;
    expect_allowed_ips(&star, &[network, ("0.0.0.0/0", "s2"), (NET4, "s1")])?;
    flows(&star, V4, 1)
}
