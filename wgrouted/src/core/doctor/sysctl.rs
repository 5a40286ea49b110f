//! Settings below `/proc/sys`.
//!
//! Here live their names, what they should be for what is configured, and the command that sets
//! each. Of `rp_filter` and `src_valid_mark` the larger of `all` and the link's own counts
//! (Documentation/networking/ip-sysctl.rst).

use super::{
    finding::{Area, Finding, Level, word},
    seen::{Machine, Network},
};
use crate::core::links::state::{Have, HaveShape};

/// What is looked at, whatever links there are.
const GLOBAL: [&str; 11] = [
    "net/core/rmem_max",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/src_valid_mark",
    "net/ipv4/fib_multipath_hash_policy",
    "net/ipv4/fwmark_reflect",
    "net/ipv4/ip_forward",
    "net/ipv4/tcp_fwmark_accept",
    "net/ipv4/tcp_mtu_probing",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/fib_multipath_hash_policy",
    "net/ipv6/fwmark_reflect",
];
/// What is looked at for each link.
const OF_A_LINK: [(&str, &str); 3] = [
    ("net/ipv4/conf/", "/rp_filter"),
    ("net/ipv4/conf/", "/src_valid_mark"),
    ("net/ipv6/conf/", "/disable_ipv6"),
];

/// The paths of all settings that are judged, on a machine with these links.
pub fn paths<'a>(links: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut paths: Vec<String> = GLOBAL.iter().map(|&path| path.to_owned()).collect();
    for link in links {
        paths.extend(OF_A_LINK.iter().map(|(before, after)| format!("{before}{link}{after}")));
    }
    paths
}

/// The command that sets one.
fn set(path: &str, value: impl std::fmt::Display) -> String {
    format!("sysctl -w {}", word(&format!("{}={value}", key(path))))
}

/// Its name for sysctl(8): dots separate, unless a link's name has one; then slashes do.
fn key(path: &str) -> String {
    if path.contains('.') { path.to_owned() } else { path.replace('/', ".") }
}

/// Judges the settings.
pub(super) fn check(machine: &Machine, out: &mut Vec<Finding>) {
    buffer(machine, out);
    flows(machine, out);
    forwarding(machine, out);
    let network = match &machine.network {
        Ok(network) => network,
        Err(because) => {
            let what = "reverse path filters of links";
            return out.push(Finding::not_checked(Area::Sysctl, "rp_filter", what, because));
        }
    };
    let mut fine = Vec::new();
    for link in ours(machine, network) {
        match strict(machine, link) {
            Some(finding) => out.push(finding),
            None => fine.push(link.name.as_str()),
        }
        out.extend(ipv6(machine, link));
    }
    if !fine.is_empty() {
        let found = format!("rp_filter is not strict on {}", fine.join(", "));
        out.push(Finding::new(Area::Sysctl, "rp_filter", Level::Ok, found));
    }
    out.extend(underlays(machine, network));
}

/// The links of the configuration that there are.
fn ours<'a>(machine: &'a Machine, network: &'a Network) -> impl Iterator<Item = &'a Have> {
    machine.wants.links.iter().filter_map(|link| network.named(&link.name))
}

/// The larger of `all` and the link's own.
fn effective(machine: &Machine, link: &str, name: &str) -> i64 {
    let value = |of: &str| machine.sysctls.get(&format!("net/ipv4/conf/{of}/{name}")).copied();
    value("all").into_iter().chain(value(link)).max().unwrap_or(0)
}

/// A link whose packets' sources are checked strictly.
fn strict(machine: &Machine, link: &Have) -> Option<Finding> {
    if effective(machine, &link.name, "rp_filter") != 1 {
        return None;
    }
    let name = &link.name;
    let exit = machine.wants.flows.exits.contains(name);
    let level = if exit { Level::Failure } else { Level::Warning };
    let why = match exit {
        true => {
            "the kernel drops what comes back through an exit, since the main table's best route to \
             its source leads elsewhere"
        }
        false => {
            "the kernel drops IPv4 packets whose best route back leads through another link: \
             asymmetric routes and flows that are chosen by mark lose their answers"
        }
    };
    let own = format!("net/ipv4/conf/{name}/rp_filter");
    // The larger value counts, and loose is larger than strict.
    Some(
        Finding::new(Area::Sysctl, "rp_filter", level, format!("{name}: rp_filter is strict (1)"))
            .why(why)
            .run(set(&own, 2))
            .advise(format!(
                "2 is loose, and stands above 1 in conf.all; to keep it, write `{} = 2` to \
                 /etc/sysctl.d/90-wgrouted.conf",
                key(&own)
            )),
    )
}

/// The links that marked outer packets use: their answers come back without the mark.
fn underlays(machine: &Machine, network: &Network) -> Vec<Finding> {
    let mut told = Vec::new();
    let mut findings = Vec::new();
    for way in network.ways.iter().filter(|way| way.mark != 0 && way.endpoint.is_ipv4()) {
        let Some(link) = way.path.and_then(|(index, _)| network.link(index)) else { continue };
        let name = &link.name;
        if way.unmarked == Some(link.index)
            || effective(machine, name, "rp_filter") != 1
            || told.contains(&name)
        {
            continue;
        }
        told.push(name);
        // Who restores the mark of what comes in, as wg-quick does, has set this.
        if effective(machine, name, "src_valid_mark") != 0 {
            let found = format!(
                "{name}: rp_filter is strict, and the mark counts (src_valid_mark): {} hears its \
                 peers as long as a packet filter restores the mark",
                way.device
            );
            findings.push(Finding::new(Area::Sysctl, "rp_filter-underlay", Level::Info, found));
            continue;
        }
        let found = format!("{name}: rp_filter is strict (1), and {} is heard there", way.device);
        findings.push(
            Finding::new(Area::Sysctl, "rp_filter-underlay", Level::Failure, found)
                .why(format!(
                    "without the mark {:#x} the route to {} leads elsewhere, so what the peer sends \
                     is dropped",
                    way.mark,
                    way.endpoint.ip()
                ))
                .run(set(&format!("net/ipv4/conf/{name}/rp_filter"), 2))
                .advise(
                    "or restore the mark of what comes in, as wg-quick does, and set \
                     net.ipv4.conf.all.src_valid_mark=1",
                ),
        );
    }
    findings
}

fn ipv6(machine: &Machine, link: &Have) -> Option<Finding> {
    let path = format!("net/ipv6/conf/{}/disable_ipv6", link.name);
    // IPv4 in IPv4 carries no IPv6 anyway.
    let carries = match &link.shape {
        HaveShape::Tunnel(tunnel) => tunnel.kind.carries_ipv6(),
        _ => true,
    };
    if !carries || *machine.sysctls.get(&path)? == 0 {
        return None;
    }
    let found = format!("{}: IPv6 is disabled", link.name);
    Some(
        Finding::new(Area::Sysctl, "disable_ipv6", Level::Warning, found)
            .why("it has no link-local address, and no IPv6 route can use it")
            .run(set(&path, 0)),
    )
}

/// With CAP_NET_ADMIN in the initial user namespace no limit holds (`SO_RCVBUFFORCE`).
fn buffer(machine: &Machine, out: &mut Vec<Finding>) {
    let Some(limit) = machine.sysctls.get("net/core/rmem_max") else { return };
    let wanted = machine.wants.receive_buffer as i64;
    let level = |level, found| Finding::new(Area::Sysctl, "rmem_max", level, found);
    out.push(if machine.process.initial_user {
        level(Level::Ok, format!("the netlink receive buffer may have its {wanted} bytes"))
    } else if *limit >= wanted {
        level(Level::Ok, format!("net.core.rmem_max has room for {wanted} bytes"))
    } else {
        level(
            Level::Warning,
            format!("net.core.rmem_max is {limit}, and `receive_buffer` {wanted}"),
        )
        .why(
            "outside the initial user namespace the limit holds, and bursts of routes outrun a \
                 small buffer: everything is then read again",
        )
        .run(set("net/core/rmem_max", wanted))
    });
}

fn flows(machine: &Machine, out: &mut Vec<Finding>) {
    let flows = &machine.wants.flows;
    let value = |path: &str| machine.sysctls.get(path).copied();
    if flows.weighted {
        for path in ["net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy"] {
            let Some(policy) = value(path) else { continue };
            let name = path.replace('/', ".");
            let finding = |level| {
                Finding::new(Area::Sysctl, "hash_policy", level, format!("{name} is {policy}"))
            };
            out.push(match policy {
                0 => finding(Level::Warning)
                    .why(
                        "all flows between two addresses take the same link of a weighted exit, \
                         whatever their ports",
                    )
                    .run(set(path, 1)),
                _ => finding(Level::Ok),
            });
        }
    }
    if flows.marks {
        for (path, what) in [
            ("net/ipv4/fwmark_reflect", "replies that the kernel itself gives"),
            ("net/ipv6/fwmark_reflect", "replies that the kernel itself gives"),
            ("net/ipv4/tcp_fwmark_accept", "TCP connections that local services accept"),
        ] {
            let Some(0) = value(path) else { continue };
            let found = format!("{} is 0: {what} do not carry the mark", path.replace('/', "."));
            out.push(
                Finding::new(Area::Sysctl, "mark-of-replies", Level::Info, found)
                    .why("with 1 they take the same exit as what they answer")
                    .run(set(path, 1)),
            );
        }
    }
}

fn forwarding(machine: &Machine, out: &mut Vec<Finding>) {
    for (family, path) in
        [("IPv4", "net/ipv4/ip_forward"), ("IPv6", "net/ipv6/conf/all/forwarding")]
    {
        let Some(on) = machine.sysctls.get(path).copied() else { continue };
        let finding = |level, found| {
            Finding::new(Area::Sysctl, "forwarding", level, format!("{family} {found}"))
        };
        out.push(match (on != 0, machine.wants.flows.forwards) {
            (true, _) => finding(Level::Ok, "is forwarded"),
            (false, false) => finding(Level::Info, "is not forwarded: this host is an end")
                .why("peers and hosts behind this machine do not reach each other")
                .run(set(path, 1)),
            (false, true) => finding(Level::Warning, "is not forwarded")
                .why("flows that come from elsewhere are configured, and end here")
                .run(set(path, 1)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::doctor::tests::{all, find, found, machine, way, wg};

    fn with(values: &[(&str, i64)]) -> Machine {
        let mut machine = machine();
        machine.network = Ok(Network { links: vec![wg("wg0", 5)], ..Network::default() });
        machine.wants.links =
            vec![super::super::wants::WantedLink { name: "wg0".to_owned(), ..Default::default() }];
        machine.sysctls = values.iter().map(|(path, value)| ((*path).to_owned(), *value)).collect();
        machine
    }

    const ALL: &str = "net/ipv4/conf/all/rp_filter";
    const OWN: &str = "net/ipv4/conf/wg0/rp_filter";

    #[test]
    fn the_larger_reverse_path_filter_counts() {
        for (all, own, level) in [
            (0, 0, Level::Ok),
            (2, 0, Level::Ok),
            (1, 2, Level::Ok),
            (2, 1, Level::Ok),
            (1, 0, Level::Warning),
            (0, 1, Level::Warning),
            (1, 1, Level::Warning),
        ] {
            let mut machine = with(&[(ALL, all), (OWN, own)]);
            assert_eq!(find(&machine, "rp_filter").level, level, "{all} {own}");
            if level == Level::Warning {
                let remedy = find(&machine, "rp_filter").remedy;
                assert_eq!(remedy, ["sysctl -w net.ipv4.conf.wg0.rp_filter=2"]);
                machine.wants.flows.exits.insert("wg0".to_owned());
                assert_eq!(find(&machine, "rp_filter").level, Level::Failure);
                machine.sysctls.insert(OWN.to_owned(), 2);
                assert_eq!(find(&machine, "rp_filter").level, Level::Ok, "the remedy helps");
            }
        }
    }

    #[test]
    fn names_with_dots_need_slashes() {
        assert_eq!(
            set("net/ipv4/conf/wg.1/rp_filter", 2),
            "sysctl -w net/ipv4/conf/wg.1/rp_filter=2"
        );
    }

    #[test]
    fn marked_packets_whose_answers_are_checked_without_the_mark() {
        let mut machine = with(&[(ALL, 0), ("net/ipv4/conf/eth0/rp_filter", 1)]);
        let mut marked = way("wg0", "192.0.2.1:51820", Some(2));
        (marked.mark, marked.unmarked) = (0xca6c, Some(5));
        let network = machine.network.as_mut().unwrap();
        network.links.push(Have { shape: HaveShape::Other("veth".to_owned()), ..wg("eth0", 2) });
        network.ways = vec![marked.clone()];
        let finding = find(&machine, "rp_filter-underlay");
        assert_eq!(finding.level, Level::Failure);
        assert_eq!(finding.remedy, ["sysctl -w net.ipv4.conf.eth0.rp_filter=2"]);

        machine.sysctls.insert("net/ipv4/conf/all/src_valid_mark".to_owned(), 1);
        assert_eq!(find(&machine, "rp_filter-underlay").level, Level::Info);
        machine.sysctls.insert("net/ipv4/conf/eth0/rp_filter".to_owned(), 2);
        assert_eq!(all(&machine, "rp_filter-underlay"), []);
        machine.sysctls.insert("net/ipv4/conf/eth0/rp_filter".to_owned(), 1);
        machine.network.as_mut().unwrap().ways[0].unmarked = Some(2);
        assert_eq!(all(&machine, "rp_filter-underlay"), []);
    }

    #[test]
    fn links_without_ipv6() {
        let path = "net/ipv6/conf/wg0/disable_ipv6";
        assert_eq!(all(&with(&[(path, 0)]), "disable_ipv6"), []);
        let finding = find(&with(&[(path, 1)]), "disable_ipv6");
        assert_eq!(finding.remedy, ["sysctl -w net.ipv6.conf.wg0.disable_ipv6=0"]);
    }

    #[test]
    fn the_receive_buffer_is_limited_outside_the_initial_user_namespace() {
        let mut machine = with(&[("net/core/rmem_max", 212_992)]);
        machine.wants.receive_buffer = 64 << 20;
        machine.process.initial_user = true;
        assert_eq!(find(&machine, "rmem_max").level, Level::Ok);
        machine.process.initial_user = false;
        let finding = find(&machine, "rmem_max");
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(finding.remedy, ["sysctl -w net.core.rmem_max=67108864"]);
        machine.sysctls.insert("net/core/rmem_max".to_owned(), 64 << 20);
        assert_eq!(find(&machine, "rmem_max").level, Level::Ok);
    }

    #[test]
    fn weighted_exits_want_ports_in_the_hash() {
        let path = "net/ipv4/fib_multipath_hash_policy";
        let mut machine = with(&[(path, 0)]);
        assert_eq!(all(&machine, "hash_policy"), [], "nobody asked");
        machine.wants.flows.weighted = true;
        let finding = find(&machine, "hash_policy");
        assert_eq!(finding.remedy, ["sysctl -w net.ipv4.fib_multipath_hash_policy=1"]);
        machine.sysctls.insert(path.to_owned(), 3);
        assert_eq!(find(&machine, "hash_policy").level, Level::Ok);
    }

    #[test]
    fn marks_of_replies_and_forwarding() {
        let mut machine = with(&[("net/ipv4/fwmark_reflect", 0), ("net/ipv4/ip_forward", 0)]);
        assert_eq!(all(&machine, "mark-of-replies"), []);
        assert_eq!(find(&machine, "forwarding").level, Level::Info);
        (machine.wants.flows.marks, machine.wants.flows.forwards) = (true, true);
        assert_eq!(
            find(&machine, "mark-of-replies").remedy,
            ["sysctl -w net.ipv4.fwmark_reflect=1"]
        );
        assert_eq!(find(&machine, "forwarding").remedy, ["sysctl -w net.ipv4.ip_forward=1"]);
        assert_eq!(find(&machine, "forwarding").level, Level::Warning);
        machine.sysctls.insert("net/ipv4/ip_forward".to_owned(), 1);
        machine.sysctls.insert("net/ipv4/fwmark_reflect".to_owned(), 1);
        assert_eq!(all(&machine, "mark-of-replies"), []);
        assert_eq!(find(&machine, "forwarding").level, Level::Ok);
        assert_eq!(found(&machine, Level::Failure), Vec::<&str>::new());
    }

    #[test]
    fn every_judged_path_is_read() {
        let paths = paths(["wg0"]);
        for path in [ALL, OWN, "net/ipv6/conf/wg0/disable_ipv6", "net/core/rmem_max"] {
            assert!(paths.iter().any(|read| read == path), "{path}");
        }
    }
}
