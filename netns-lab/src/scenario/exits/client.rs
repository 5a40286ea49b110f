//! A client whose daemon makes the links to its exits and sends flows by them.
//!
//! Here live its start, and the looks at what the daemon says and the kernel holds.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::{
    Exits, Lab, Node, Origin, PATIENCE, Shots, Wgrouted, Wireguard, wait_for, wait_until,
};

/// Time between two probes; a peer that answers none is down after three times as long.
pub(super) const PROBES: std::time::Duration = std::time::Duration::from_millis(200);

/// The client, its exits without daemons, and the daemon.
pub(super) struct Client {
    pub(super) net: Exits,
    pub(super) daemon: Wgrouted,
    _tunnels: Vec<Wireguard>,
}

impl Client {
    /// Builds it. `flows` are the exits and flows of its configuration. The daemon is not started.
    pub(super) fn new(lab: &mut Lab, exits: usize, flows: &str) -> Result<Client> {
        let net = Exits::new(lab, exits)?;
        let tunnels = net.tunnels()?;
        let daemon = lab.wgrouted_with(&net.client, &config(&net, flows)?)?;
        Ok(Client { net, daemon, _tunnels: tunnels })
    }

    /// The client's node.
    pub(super) fn node(&self) -> &Node {
        &self.net.client
    }

    /// Starts the daemon and waits until all its links work.
    pub(super) fn start(&mut self) -> Result<()> {
        self.daemon.start()?;
        self.wait_good()
    }

    /// Loads the configuration again with other exits and flows.
    pub(super) fn reload(&mut self, flows: &str) -> Result<()> {
        let text = config(&self.net, flows)?;
        self.daemon.reload(&text)
    }

    /// Waits until the links of all exits work, and all is as configured.
    pub(super) fn wait_good(&self) -> Result<()> {
        wait_until(
            "all links to be good",
            PATIENCE,
            || status(&self.daemon),
            |status| {
                let exits = status["exits"].as_array().into_iter().flatten();
                let mut links =
                    exits.flat_map(|exit| exit["links"].as_array().into_iter().flatten());
                status["in_force"] == true && links.all(|link| link["health"] == "good")
            },
        )
        .map(drop)
    }

    /// Waits until an exit uses just these links.
    pub(super) fn wait_used(&self, exit: &str, links: &[&str]) -> Result<()> {
        wait_until(
            format!("exit {exit} to use {links:?}"),
            PATIENCE,
            || used(&self.daemon, exit),
            |used| used == links,
        )
        .map(drop)
    }
}

/// A configuration with a link to each exit, and these exits and flows.
pub(super) fn config(net: &Exits, flows: &str) -> Result<String> {
    let mut text = String::new();
    for exit in &net.exits {
        write!(
            text,
            "[[interface]]\n\
             name = \"wg-{name}\"\n\
             link = \"dedicated\"\n\
             manage = true\n\
             private_key_file = \"{}\"\n\
             listen_port = {}\n\
             reach = {{ interval = \"{}ms\", hold_down = \"0ms\" }}\n\
             [[interface.peer]]\n\
             name = \"{name}\"\n\
             public_key = \"{}\"\n\
             endpoint = \"{}\"\n",
            net.key.file,
            51820 + exit.number,
            PROBES.as_millis(),
            exit.key.public,
            exit.endpoint(0),
            name = exit.name(),
        )?;
    }
    Ok(text + flows)
}

/// What `wgrouted exits` says.
pub(super) fn status(daemon: &Wgrouted) -> Result<Value> {
    serde_json::from_str(&daemon.run(&["exits", "--json"])?).context("wgrouted exits --json")
}

/// The links that an exit uses.
pub(super) fn used(daemon: &Wgrouted, exit: &str) -> Result<Vec<String>> {
    let status = status(daemon)?;
    let mut exits = status["exits"].as_array().context("no exits")?.iter();
    let found = exits.find(|row| row["name"] == exit).with_context(|| format!("no exit {exit}"))?;
    let links = found["links"].as_array().context("no links")?.iter();
    let used = links.filter(|link| link["used"] == true);
    Ok(used.filter_map(|link| link["link"].as_str().map(str::to_owned)).collect())
}

/// A flow with a mark.
pub(super) fn marked(v4: bool, mark: u32) -> Shots {
    let from = Some(Exits::CLIENT[0][usize::from(!v4)]);
    Shots { origin: Origin { from, mark, uid: 0 }, to: Exits::to(v4, Exits::PORTS[0]) }
}

/// By which ways a flow of datagrams arrived, in their order: the name of an exit, or `isp`.
pub(super) fn ways(net: &Exits, from: SocketAddr, to: SocketAddr) -> Vec<String> {
    let legs = net.ways(crate::lab::packet::protocol::UDP, from, to);
    legs.into_iter().map(|leg| leg.device.trim_start_matches("to-").to_owned()).collect()
}

/// Waits until a node has a link, or has none, of this name.
pub(super) fn wait_link(node: &Node, name: &str, there: bool) -> Result<()> {
    wait_for(format!("{name} to {}", if there { "be there" } else { "go" }), PATIENCE, || {
        Ok(node.output("ip", ["link", "show", "dev", name])?.status.success() == there)
    })
}

/// The kernel's rules, routes of tables that are not everybody's, and nexthop objects, a line each.
pub(super) fn objects(node: &Node) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for words in [
        "-4 -d rule show",
        "-6 -d rule show",
        "-4 -d route show table all",
        "-6 -d route show table all",
        "-d nexthop show",
    ] {
        let text = node.run_long("ip", words.split(' '))?;
        for line in text.lines() {
            // How long a resilient group has been out of balance is not what it is.
            let line = line.split("unbalanced_time ").next().unwrap_or(line);
            all.insert(format!("{words}: {}", line.trim()), String::new());
        }
    }
    Ok(all)
}
