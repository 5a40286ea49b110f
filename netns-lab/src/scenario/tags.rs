//! Routes whose peer is told by something else than the gateway.
//!
//! Here live the tags of the configuration, the order of tables, and the prefixes that the
//! configuration leaves to others.

use anyhow::{Result, ensure};

use super::{
    Scenario,
    support::{Hub, NET4, NET6, V4, V6},
};
use crate::lab::{Lab, Star};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "tag-realm",
        "realms name the peer of IPv4 routes; for IPv6 alone `check` refuses them",
        realm,
    ),
    Scenario::new(
        "tag-protocol-metric-nexthop",
        "protocol, metric, nexthop object and gateway ranges name the peer",
        other_tags,
    ),
    Scenario::new(
        "two-tables",
        "the first table that has a route decides, whatever the metrics",
        two_tables,
    ),
    Scenario::new(
        "managed-ranges",
        "prefixes outside the managed ranges are neither added nor removed",
        managed_ranges,
    ),
];

/// A configuration for `wg0` with a `match` entry for some spokes.
fn config(star: &Star, interface: &str, matches: &[(usize, &str)]) -> Result<String> {
    let mut text = format!("[[interface]]\nname = \"wg0\"\n{interface}\n");
    for (number, entries) in matches {
        let spoke = star.spoke(*number)?;
        let (name, key) = (spoke.name(), spoke.wg.public_key());
        text += &format!(
            "[[interface.peer]]\nname = \"{name}\"\npublic_key = \"{key}\"\nmatch = [{entries}]\n"
        );
    }
    Ok(text)
}

/// A hub with such a configuration.
fn hub(lab: &mut Lab, interface: &str, matches: &[(usize, &str)]) -> Result<Hub> {
    Hub::with_config(lab, 2, |star| config(star, interface, matches))
}

/// BIRD's `krt_realm`, on routes without a gateway.
fn realm(lab: &mut Lab) -> Result<()> {
    let hub = hub(lab, "", &[(1, "{ realm = 7 }"), (2, "{ realm = 8 }")])?;
    hub.ip(&format!("route add {NET4} dev wg0 realm 7"))?;
    hub.expect(&[(NET4, "s1")])?;
    hub.flows(V4, 1)?;
    hub.ip(&format!("route replace {NET4} dev wg0 realm 8"))?;
    hub.expect(&[(NET4, "s2")])?;
    hub.flows(V4, 2)?;

    lab.say("a realm stands above the gateway");
    hub.ip(&format!("route replace {NET4} via 10.99.0.2 dev wg0 realm 7"))?;
    hub.expect(&[(NET4, "s1")])?;
    hub.flows(V4, 1)?;

    lab.say("the kernel drops the realm of an IPv6 route: no peer, and the reason is told");
    hub.ip(&format!("-6 route add {NET6} dev wg0 realm 7"))?;
    hub.daemon.wait_listed("unresolved", NET6)?;
    hub.expect(&[(NET4, "s1")])?;
    hub.flows_nowhere(V6)?;

    lab.say("`check` refuses realms where only IPv6 is managed");
    let text = config(&hub.star, "managed = [\"::/0\"]", &[(1, "{ realm = 7 }")])?;
    let path = hub.star.hub.write_file("realm.toml", &text)?;
    let output =
        lab.wgrouted_once(&hub.star.hub, &["check", "--config", &path.display().to_string()])?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2), "`check` ended with {}: {stderr}", output.status);
    ensure!(
        stderr.lines().count() == 1 && stderr.contains("IPv6 routes carry no realm"),
        "`check` said: {stderr}"
    );
    Ok(())
}

/// The tags that work for both families.
fn other_tags(lab: &mut Lab) -> Result<()> {
    let hub = hub(
        lab,
        "",
        &[
            (1, "{ protocol = \"bird\", metric = 50 }, { nexthop = 12 }"),
            (2, "{ protocol = \"bird\", metric = 60 }, { gateway = \"10.99.7.0/24\" }"),
        ],
    )?;
    lab.say("protocol and metric together");
    hub.ip(&format!("route add {NET4} dev wg0 proto bird metric 60"))?;
    hub.ip(&format!("route add {NET6} dev wg0 proto bird metric 60"))?;
    hub.expect(&[(NET4, "s2"), (NET6, "s2")])?;
    hub.ip(&format!("route add {NET4} dev wg0 proto bird metric 50"))?;
    hub.ip(&format!("route add {NET6} dev wg0 proto bird metric 50"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    hub.flows(V4, 1)?;
    hub.flows(V6, 1)?;
    for metric in ["50", "60"] {
        hub.ip(&format!("route del {NET4} metric {metric}"))?;
        hub.ip(&format!("-6 route del {NET6} metric {metric}"))?;
    }
    hub.ip(&format!("route add {NET4} dev wg0 proto static metric 50"))?;
    hub.daemon.wait_listed("unresolved", NET4)?;
    hub.expect(&[])?;
    hub.ip(&format!("route del {NET4} metric 50"))?;

    lab.say("a nexthop object without gateway");
    hub.ip("nexthop add id 12 dev wg0")?;
    hub.ip(&format!("route add {NET4} nhid 12"))?;
    hub.expect(&[(NET4, "s1")])?;
    hub.flows(V4, 1)?;

    lab.say("a range of gateways that are no tunnel addresses");
    hub.ip(&format!("route replace {NET4} via 10.99.7.9 dev wg0 onlink"))?;
    hub.expect(&[(NET4, "s2")])?;
    hub.flows(V4, 2)
}

/// Policy routing: what the preferred table says counts, though the other one has the better
/// metric. One of the tables has a number beyond the header's eight bits.
fn two_tables(lab: &mut Lab) -> Result<()> {
    let hub = hub(lab, "tables = [1000, \"main\"]", &[])?;
    hub.ip("rule add pref 100 lookup 1000")?;
    hub.ip("-6 rule add pref 100 lookup 1000")?;
    hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    hub.ip(&format!("route add {NET6} via fd99::1 metric 1"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    hub.flows(V4, 1)?;
    hub.ip(&format!("route add {NET4} via 10.99.0.2 table 1000 metric 500"))?;
    hub.ip(&format!("route add {NET6} via fd99::2 table 1000 metric 500"))?;
    hub.expect(&[(NET4, "s2"), (NET6, "s2")])?;
    hub.flows(V4, 2)?;
    hub.flows(V6, 2)?;
    hub.daemon.wait_listed("shadowed", NET4)?;

    lab.say("a table that is not followed changes nothing");
    hub.ip("route add 203.0.113.0/24 via 10.99.0.1 table 77")?;
    hub.ip(&format!("route del {NET4} table 1000"))?;
    hub.ip(&format!("-6 route del {NET6} table 1000"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    hub.flows(V4, 1)?;
    hub.flows(V6, 1)
}

/// Prefixes that somebody configures by hand beside the synced ones.
fn managed_ranges(lab: &mut Lab) -> Result<()> {
    let hub = Hub::with_config(lab, 2, |star| {
        let interface = config(star, "managed = [\"198.51.100.0/22\", \"::/0\"]", &[])?;
        Ok(format!("[daemon]\naudit_interval = \"1s\"\n{interface}"))
    })?;
    // What comes by hand from now on is not the peer's own, so only its range protects it.
    hub.daemon.wait_learned()?;
    let foreign: ipnet::IpNet = "203.0.113.0/24".parse()?;
    let own = hub.spoke(2)?.inner.prefixes();
    hub.star.wg.set_allowed_ips("s2", &[own, vec![foreign]].concat())?;

    hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    hub.ip("route add 203.0.113.0/24 via 10.99.0.1")?;
    hub.ip("route add 192.0.2.0/24 via 10.99.0.1")?;
    let foreign = ("203.0.113.0/24", "s2");
    hub.expect(&[(NET4, "s1"), foreign])?;
    hub.flows(V4, 1)?;

    lab.say("several audits later it is still so");
    let audits = hub.daemon.counter("/interfaces/0/counters/device_dumps")?;
    hub.daemon.wait_counter("/interfaces/0/counters/device_dumps", audits + 3)?;
    hub.expect(&[(NET4, "s1"), foreign])?;
    hub.ip(&format!("route del {NET4}"))?;
    hub.expect(&[foreign])
}
