//! What the kernel routes where, as `ip route` prints it.
//!
//! Here lives the look at a routing table that full tables are compared by. It reads iproute2's
//! text and so shares nothing with wgrouted.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::{
    node::Node,
    topology::Inner,
    wireguard::{AllowedIps, Owner},
};

/// Gateways by prefix.
pub type Gateways = BTreeMap<IpNet, IpAddr>;

/// The gateway of each prefix that a table routes through a device. Of several routes for a
/// prefix the one with the lowest metric counts.
pub fn gateways(node: &Node, table: &str, device: &str) -> Result<Gateways> {
    let through = |route: &Route<'_>| (route.device == device).then_some(route.gateway);
    Ok(best(node, table, through)?.into_iter().collect())
}

/// What `pick` says of each prefix that a table has routes with a gateway for. Of several that it
/// says something of, the one with the lowest metric counts.
pub fn best<T>(
    node: &Node,
    table: &str,
    pick: impl Fn(&Route<'_>) -> Option<T>,
) -> Result<HashMap<IpNet, T>> {
    let mut best: HashMap<IpNet, (u32, T)> = HashMap::new();
    for family in ["-4", "-6"] {
        let text = node.run_long("ip", [family, "route", "show", "table", table])?;
        for line in text.lines() {
            let route = parse(line, family == "-6").with_context(|| format!("`{line}`"))?;
            let Some(route) = route else { continue };
            let Some(picked) = pick(&route) else { continue };
            let better = best.get(&route.prefix).is_none_or(|(metric, _)| route.metric < *metric);
            if better {
                best.insert(route.prefix, (route.metric, picked));
            }
        }
    }
    Ok(best.into_iter().map(|(prefix, (_, picked))| (prefix, picked)).collect())
}

/// The AllowedIPs that these routes ask for: each prefix belongs to the peer that has the gateway
/// among its tunnel addresses, and these addresses belong to it too.
pub fn allowed_ips<'a>(
    gateways: Gateways,
    peers: impl IntoIterator<Item = (Inner, &'a str)>,
) -> Result<AllowedIps> {
    let mut owners = HashMap::new();
    let mut wanted = AllowedIps::new();
    for (inner, name) in peers {
        let name = Owner::from(name);
        for prefix in inner.prefixes() {
            owners.insert(prefix.addr(), name.clone());
            wanted.insert(prefix, name.clone());
        }
    }
    for (prefix, gateway) in gateways {
        let owner = owners.get(&gateway).with_context(|| format!("{prefix} via {gateway}"))?;
        wanted.insert(prefix, owner.clone());
    }
    Ok(wanted)
}

/// A route with a gateway.
#[derive(Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// Where to.
    pub prefix: IpNet,
    /// By way of whom.
    pub gateway: IpAddr,
    /// Out of which device.
    pub device: &'a str,
    /// How dear.
    pub metric: u32,
}

/// A line of `ip route`; `None` for a route without a gateway, such as a connected or rejecting
/// one, and for the lines of a multipath route.
fn parse(line: &str, v6: bool) -> Result<Option<Route<'_>>> {
    let mut words = line.split_whitespace();
    let Some(destination) = words.next() else { return Ok(None) };
    let prefix = match destination {
        "default" if v6 => "::/0".parse()?,
        "default" => "0.0.0.0/0".parse()?,
        // `nexthop …` continues a multipath route; `unreachable …` and its like reject.
        word if word.starts_with(|c: char| c.is_ascii_lowercase()) && !word.contains(':') => {
            return Ok(None);
        }
        network if network.contains('/') => network.parse()?,
        host => IpNet::from(host.parse::<IpAddr>()?),
    };
    let (mut gateway, mut device, mut metric) = (None, None, 0);
    while let Some(word) = words.next() {
        match word {
            "via" => {
                let mut next = words.next().context("nothing after `via`")?;
                if next == "inet6" {
                    next = words.next().context("nothing after `inet6`")?;
                }
                gateway = Some(next.parse()?);
            }
            "dev" => device = words.next(),
            "metric" => metric = words.next().context("nothing after `metric`")?.parse()?,
            _ => {}
        }
    }
    Ok(gateway.zip(device).map(|(gateway, device)| Route { prefix, gateway, device, metric }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_with_a_gateway_are_found_among_others() {
        let route = parse("192.0.2.0/24 via 10.99.0.1 dev wg0 proto bird metric 32 ", false);
        let want = Route {
            prefix: "192.0.2.0/24".parse().unwrap(),
            gateway: "10.99.0.1".parse().unwrap(),
            device: "wg0",
            metric: 32,
        };
        assert_eq!(route.unwrap(), Some(want));
        let v6 = parse("default via inet6 fe80::1 dev wg0 onlink", false).unwrap().unwrap();
        assert_eq!((v6.prefix.prefix_len(), v6.gateway), (0, "fe80::1".parse().unwrap()));
        let host = parse("fc00::1 via fe80::2 dev wg0 metric 1024 pref medium", true);
        assert_eq!(host.unwrap().unwrap().prefix.prefix_len(), 128);
        for line in [
            "10.99.0.0/16 dev wg0 proto kernel scope link src 10.99.0.254",
            "unreachable 192.0.2.0/24 metric 7",
            "\tnexthop via 10.99.0.1 dev wg0 weight 1",
        ] {
            assert_eq!(parse(line, false).unwrap(), None, "{line}");
        }
    }
}
