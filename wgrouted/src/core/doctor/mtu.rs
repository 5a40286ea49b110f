//! How large packets may be.
//!
//! Here live the checks of devices' MTUs against the paths to their peers, of tunnels' against what
//! carries them, and the hint about TCP. What fits where is `core::links::mtu`'s business.

use super::{
    finding::{Area, Finding, Level, word},
    loops::family_of,
    seen::{Machine, Network},
};
use crate::core::links::{
    mtu,
    state::{Have, HaveShape},
};

/// Judges the MTUs of the configuration's links.
pub(super) fn check(machine: &Machine, out: &mut Vec<Finding>) {
    let network = match &machine.network {
        Ok(network) => network,
        Err(because) => {
            return out.push(Finding::not_checked(Area::Mtu, "mtu", "MTUs of links", because));
        }
    };
    let mut fine = Vec::new();
    for link in machine.wants.links.iter().filter_map(|link| network.named(&link.name)) {
        let managed =
            machine.wants.links.iter().any(|wanted| wanted.name == link.name && wanted.managed);
        let findings = [large(network, link, managed), small(link)];
        if findings.iter().all(Option::is_none) {
            fine.push(format!("{} {}", link.name, link.mtu));
        }
        out.extend(findings.into_iter().flatten());
    }
    if !fine.is_empty() {
        let found = format!("packets fit their paths: {}", fine.join(", "));
        out.push(Finding::new(Area::Mtu, "mtu", Level::Ok, found));
    }
    out.extend(tcp(machine));
}

/// A link that takes larger packets than there is room for.
fn large(network: &Network, link: &Have, managed: bool) -> Option<Finding> {
    let (fits, where_to) = match &link.shape {
        HaveShape::Wireguard(_) => {
            let ways = network.ways.iter().filter(|way| way.device == link.name);
            let paths = ways.filter_map(|way| {
                let (through, mtu) = way.path?;
                // A path through the device itself is none.
                let through =
                    network.link(through).filter(|through| through.index != link.index)?;
                Some((family_of(way.endpoint.ip()), mtu.unwrap_or(through.mtu), &through.name))
            });
            let paths: Vec<_> = paths.collect();
            let (.., narrow) =
                paths.iter().min_by_key(|(family, mtu, _)| mtu::wireguard([(*family, *mtu)]))?;
            let fits = mtu::wireguard(paths.iter().map(|(family, mtu, _)| (*family, *mtu)));
            (fits, format!("the path by {narrow}"))
        }
        HaveShape::Tunnel(tunnel) => {
            let over = network.named(&tunnel.over)?;
            (mtu::tunnel(tunnel, over.mtu), over.name.clone())
        }
        HaveShape::Other(_) => return None,
    };
    if link.mtu <= fits {
        return None;
    }
    let found = format!("{}: MTU {}, but {where_to} has room for {fits}", link.name, link.mtu);
    let advice = match managed {
        true => "wgrouted sets it where the configuration says no `mtu`; otherwise change it there",
        false => "set it where the link is configured too",
    };
    Some(
        Finding::new(Area::Mtu, "mtu", Level::Warning, found)
            .why(
                "large packets are sent in fragments, which many networks drop: connections open and \
                 then hang",
            )
            .run(format!("ip link set dev {} mtu {fits}", word(&link.name)))
            .advise(advice),
    )
}

/// A link that the kernel takes IPv6 from.
fn small(link: &Have) -> Option<Finding> {
    let carries = match &link.shape {
        HaveShape::Tunnel(tunnel) => tunnel.kind.carries_ipv6(),
        _ => true,
    };
    if !carries || link.mtu >= mtu::MIN {
        return None;
    }
    let found = format!("{}: MTU {} is too small for IPv6", link.name, link.mtu);
    Some(
        Finding::new(Area::Mtu, "mtu-ipv6", Level::Warning, found)
            .why("below 1280 octets the kernel takes IPv6 and its addresses off the link")
            .run(format!("ip link set dev {} mtu {}", word(&link.name), mtu::MIN)),
    )
}

/// TCP between others finds the MTU by ICMP, which many networks drop.
fn tcp(machine: &Machine) -> Option<Finding> {
    let forwards = machine.sysctls.get("net/ipv4/ip_forward").is_some_and(|on| *on != 0);
    if !forwards || machine.wants.links.is_empty() {
        return None;
    }
    let found = "TCP of others is forwarded: have its segments fitted to the links (MSS)";
    let mut finding = Finding::new(Area::Mtu, "mss", Level::Info, found)
        .why(
            "where ICMP is filtered, hosts behind this machine do not learn how large packets may be",
        )
        .run("nft add table inet wgrouted-mss")
        .run(
            "nft 'add chain inet wgrouted-mss forward { type filter hook forward priority mangle; \
             }'",
        );
    for link in &machine.wants.links {
        finding = finding.run(format!(
            "nft add rule inet wgrouted-mss forward oifname {} tcp flags syn tcp option maxseg size \
             set rt mtu",
            word(&link.name)
        ));
    }
    if machine.sysctls.get("net/ipv4/tcp_mtu_probing") == Some(&0) {
        finding = finding.run("sysctl -w net.ipv4.tcp_mtu_probing=1");
    }
    Some(finding.advise(
        "leave it if a packet filter does it already; the last command is for this host's own TCP",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        doctor::{
            tests::{all, find, machine, way, wg},
            wants::WantedLink,
        },
        links::rule::{Tunnel, TunnelKind},
    };

    fn with(links: Vec<Have>) -> Machine {
        let mut machine = machine();
        let wanted = |link: &Have| WantedLink { name: link.name.clone(), ..WantedLink::default() };
        machine.wants.links = links.iter().map(wanted).collect();
        let network = machine.network.as_mut().unwrap();
        network.links = links;
        let shape = HaveShape::Other("veth".to_owned());
        network.links.push(Have { shape, mtu: 1500, ..wg("eth0", 2) });
        machine
    }

    #[test]
    fn a_device_has_the_room_of_its_narrowest_path() {
        let device = |mtu| Have { mtu, ..wg("wg0", 5) };
        let mut machine = with(vec![device(1440)]);
        let ways = &mut machine.network.as_mut().unwrap().ways;
        *ways = vec![way("wg0", "192.0.2.1:1", Some(2)), way("wg0", "192.0.2.2:1", Some(5))];
        assert_eq!(find(&machine, "mtu").level, Level::Ok, "a loop is no path");
        machine.network.as_mut().unwrap().links[0] = device(1441);
        let finding = find(&machine, "mtu");
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(finding.remedy, ["ip link set dev wg0 mtu 1440"]);
        // Whatever the link has, the route says less.
        let network = machine.network.as_mut().unwrap();
        network.ways[0].path = Some((2, Some(1400)));
        assert_eq!(find(&machine, "mtu").remedy, ["ip link set dev wg0 mtu 1340"]);
        machine.network.as_mut().unwrap().ways.clear();
        assert_eq!(find(&machine, "mtu").level, Level::Ok, "nobody knows a path");
    }

    #[test]
    fn a_tunnel_has_the_room_of_what_carries_it() {
        let tunnel = Tunnel {
            kind: TunnelKind::Gre,
            over: "wg0".to_owned(),
            local: "10.0.0.1".parse().unwrap(),
            remote: "10.0.0.2".parse().unwrap(),
            ttl: 64,
            key: None,
        };
        let gre = |mtu| Have { mtu, shape: HaveShape::Tunnel(tunnel.clone()), ..wg("gre0", 7) };
        assert_eq!(find(&with(vec![wg("wg0", 5), gre(1396)]), "mtu").level, Level::Ok);
        let finding = find(&with(vec![wg("wg0", 5), gre(1400)]), "mtu");
        assert_eq!(finding.remedy, ["ip link set dev gre0 mtu 1396"]);
    }

    #[test]
    fn ipv6_needs_1280() {
        let device = |mtu| Have { mtu, ..wg("wg0", 5) };
        assert_eq!(all(&with(vec![device(1280)]), "mtu-ipv6"), []);
        let finding = find(&with(vec![device(1279)]), "mtu-ipv6");
        assert_eq!(finding.remedy, ["ip link set dev wg0 mtu 1280"]);
    }

    #[test]
    fn segments_are_spoken_of_where_others_are_forwarded() {
        let mut machine = with(vec![wg("wg0", 5)]);
        assert_eq!(all(&machine, "mss"), []);
        machine.sysctls.insert("net/ipv4/ip_forward".to_owned(), 1);
        let finding = find(&machine, "mss");
        assert_eq!(finding.level, Level::Info);
        assert!(finding.remedy[2].ends_with("tcp flags syn tcp option maxseg size set rt mtu"));
        machine.sysctls.insert("net/ipv4/tcp_mtu_probing".to_owned(), 0);
        assert_eq!(find(&machine, "mss").remedy.len(), 4);
    }
}
