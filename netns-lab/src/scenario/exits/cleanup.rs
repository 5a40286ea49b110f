//! Nothing of ours is left, and nothing of others' is missing.
//!
//! Here lives a machine full of somebody else's things, on which everything that the daemon can do is
//! configured: after `wgrouted cleanup` the kernel holds what it held before the daemon's first start.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::{
    Scenario,
    client::{self, objects},
    support::{DIRECTORY, mount_bpffs},
};
use crate::lab::{Exits, Key, Lab, Node, PATIENCE, Peer, Wireguard, bpf, differences, wait_until};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "exits-cleanup",
    "on a machine full of others' things, cleanup leaves what was there before the first start",
    cleanup,
)
.within(180)];

/// Exits and flows, besides what all other keys of the configuration make.
const FLOWS: &str = r#"
[[exit]]
name = "berlin"
via = ["wg-berlin"]
when_down = "block"
source = ["10.50.0.1", "fd50::1"]

[[exit]]
name = "both"
via = [{ link = "wg-berlin", weight = 1 }, { link = "wg-paris", weight = 3 }]
table = 5001

[[exit]]
name = "inside"
via = ["gre-oslo"]

[[flow]]
from = ["10.50.0.128/25", "fd50:0:0:1::/64"]
exit = "both"

[[flow]]
mark = 1
exit = "berlin"

[[flow]]
uid = 1500
exit = "inside"

[[flow]]
protocol = "udp"
dport = ["5000-5999"]
exit = "block"
"#;

fn cleanup(lab: &mut Lab) -> Result<()> {
    mount_bpffs()?;
    let net = Exits::new(lab, 2)?;
    let _tunnels = net.tunnels()?;
    let node = net.client.clone();
    strangers(&node)?;
    let _program = bpf::Stranger::attach(&node, "dummy0")?;
    let before = snapshot(&node)?;
    lab.say(format_args!("{} things are there", before.len()));

    let mut daemon = lab.wgrouted_with(&node, &config(&net)?)?;
    daemon.start()?;
    wait_until(
        "the exits to be in force",
        PATIENCE,
        || client::status(&daemon),
        |status| status["in_force"] == true && status["objects"]["groups"] == 6,
    )?;
    let full = snapshot(&node)?;
    let added = differences(&before, &full).len();
    lab.say(format_args!("the daemon made {added} things"));
    ensure!(added > 40, "only {added} things");

    lab.say("refused while the daemon runs");
    let config = daemon.config()?;
    let clean = ["cleanup", "--config", &config];
    let dry = [&clean[..], &["--dry-run"]].concat();
    for command in [&clean[..], &dry] {
        let line = daemon.refused(command)?;
        lab.say(line.trim_end());
        ensure!(line.contains("running") || line.contains("runs"), "{line}");
    }
    same(&full, &node, "by a cleanup that was refused")?;

    lab.say("killed; a dry run changes nothing");
    daemon.kill()?;
    let would = daemon.run(&dry)?;
    lab.say(would.trim_end());
    ensure!(would.lines().count() > 20, "{would}");
    same(&full, &node, "by a dry run")?;

    lab.say("cleaned up");
    daemon.run(&clean)?;
    same(&before, &node, "by the daemon and its cleanup")?;
    lab.say("once more: nothing is left to do");
    daemon.run(&clean)?;
    same(&before, &node, "by a second cleanup")
}

/// Somebody's rules, tables, routes, nexthop objects, links, addresses and peers.
fn strangers(node: &Node) -> Result<()> {
    node.ip_batch(
        "link add dummy0 type dummy\n\
         link set dummy0 up\n\
         address add 10.77.0.1/24 dev dummy0\n\
         address add fd77::1/64 dev dummy0 nodad\n\
         link add blue type vrf table 88\n\
         link set blue up\n\
         link add gre9 type gre local 10.77.0.1 remote 10.77.0.9\n\
         link set gre9 up\n\
         nexthop add id 5 dev dummy0 proto static\n\
         nexthop add id 6 group 5 proto static\n\
         route add 198.18.0.0/24 nhid 6 proto static\n\
         route add 198.18.1.0/24 dev dummy0 proto babel table 77\n\
         route add unreachable default table 77 metric 4278198272\n\
         route add 198.18.2.0/24 dev dummy0 proto 119\n\
         route add 2001:db8:77::/48 dev dummy0 proto 119\n\
         route add 2001:db8:78::/48 dev dummy0 proto bird table 77\n",
    )?;
    for family in ["-4", "-6"] {
        for rule in [
            "priority 500 fwmark 0x99 lookup 77",
            "priority 9999 fwmark 0x1 lookup 77",
            "priority 31000 fwmark 0x1 lookup 77 protocol 119",
            "priority 31001 goto 32766",
        ] {
            node.ip(&format!("{family} rule add {rule}"))?;
        }
    }
    let wg = Wireguard::new(node, "wg9")?;
    node.ip_batch("address add 10.78.0.1/24 dev wg9\nlink set wg9 up\n")?;
    for number in [2, 3] {
        let key = Key::new(node, &format!("stranger-{number}.key"))?;
        wg.add_peers(&[Peer {
            name: format!("stranger-{number}"),
            public_key: key.public,
            endpoint: Some(format!("198.51.100.{number}:51820")),
            allowed_ips: vec![format!("10.78.0.{number}/32").parse()?],
        }])?;
    }
    node.ip("route add 198.51.100.0/24 via 10.78.0.2 dev wg9 proto bird").map(drop)
}

/// Everything: links that the daemon makes, filters, announcements, exits.
fn config(net: &Exits) -> Result<String> {
    let peer = Key::new(&net.client, "oslo.key")?;
    let links = client::config(net, "reach = { announce = [\"10.44.0.0/16\"] }\n")?
        .replace("hold_down = \"0ms\" }", "hold_down = \"0ms\", announce = { hosts = false } }")
        .replace(
            "link = \"dedicated\"\n",
            "link = \"dedicated\"\nfilter = { source = \"strict\", open = true }\n",
        );
    Ok(format!(
        "[filter]\n\
         directory = \"{DIRECTORY}\"\n\
         {links}\
         [[interface]]\n\
         name = \"wg0\"\n\
         link = \"shared\"\n\
         manage = true\n\
         private_key_file = \"{}\"\n\
         addresses = [\"10.99.0.100/24\"]\n\
         [[interface.peer]]\n\
         name = \"oslo\"\n\
         public_key = \"{}\"\n\
         pinned = [\"10.99.0.3/32\"]\n\
         [[tunnel]]\n\
         name = \"gre-oslo\"\n\
         kind = \"gre\"\n\
         over = \"wg0\"\n\
         peer = \"oslo\"\n\
         {FLOWS}",
        net.key.file, peer.public
    ))
}

/// What there is, a line each.
fn snapshot(node: &Node) -> Result<BTreeMap<String, String>> {
    let mut all = objects(node)?;
    for words in ["-d -o link show", "-o address show", "-d tunnel show"] {
        for line in node.run_long("ip", words.split(' '))?.lines() {
            // What is left of an address's life is not what it is.
            let line = line.split("valid_lft").next().unwrap_or(line);
            all.insert(format!("{words}: {line}"), String::new());
        }
    }
    for line in node.run("wg", ["show", "all", "dump"])?.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        // Of a peer: without handshakes and counters, which others move.
        let known = if fields.len() > 6 { [&fields[..5], &fields[8..]].concat() } else { fields };
        all.insert(format!("wg: {}", known.join(" ")), String::new());
    }
    let mut programs = bpf::programs()?;
    programs.sort();
    all.insert("programs".to_owned(), programs.join(" "));
    all.insert("maps".to_owned(), bpf::maps()?.len().to_string());
    all.insert("attachments".to_owned(), bpf::Attachment::all()?.len().to_string());
    for entry in std::fs::read_dir("/run/bpf")? {
        all.insert(format!("pinned: {}", entry?.path().display()), String::new());
    }
    Ok(all)
}

/// Nothing was changed, but for what the kernel frees a moment later.
fn same(want: &BTreeMap<String, String>, node: &Node, by: &str) -> Result<()> {
    wait_until(
        format!("nothing to be changed {by}"),
        std::time::Duration::from_secs(10),
        || Ok(differences(want, &snapshot(node)?)),
        |differences| differences.is_empty(),
    )
    .map(drop)
}
