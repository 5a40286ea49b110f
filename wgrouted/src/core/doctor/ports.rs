//! Ports that are taken.
//!
//! Here live the checks of WireGuard's UDP ports, of the port for probes and of the API's. Invariant:
//! what a running daemon itself has is not taken.

use std::net::IpAddr;

use super::{
    finding::{Area, Finding, Level, word},
    seen::{Machine, Network, PortSeen},
};
use crate::core::links::state::{Have, HaveShape};

/// Judges the ports.
pub(super) fn check(machine: &Machine, out: &mut Vec<Finding>) {
    let before = out.len();
    twins(machine, out);
    if let Ok(network) = &machine.network {
        devices(machine, network, out);
    }
    let ports = match &machine.ports {
        Ok(ports) => ports,
        Err(because) => {
            return out.push(Finding::not_checked(Area::Ports, "ports", "ports", because));
        }
    };
    if !machine.daemon.is_running() {
        services(machine, ports, out);
    }
    if out.len() == before {
        out.push(Finding::new(Area::Ports, "ports", Level::Ok, "no port is taken by others"));
    }
}

/// Interfaces that are configured with the same port.
fn twins(machine: &Machine, out: &mut Vec<Finding>) {
    let links = &machine.wants.links;
    for (at, link) in links.iter().enumerate() {
        let twin = links[..at]
            .iter()
            .find(|twin| link.listen_port.is_some() && twin.listen_port == link.listen_port);
        if let (Some(twin), Some(port)) = (twin, link.listen_port) {
            let found =
                format!("{} and {} have the same `listen_port`, {port}", twin.name, link.name);
            out.push(
                Finding::new(Area::Ports, "listen-port", Level::Failure, found)
                    .why("a UDP port belongs to one device: the second one does not come up")
                    .advise("give each its own `listen_port`, and its peers' `endpoint` with it"),
            );
        }
    }
}

/// Devices whose port somebody else has.
fn devices(machine: &Machine, network: &Network, out: &mut Vec<Finding>) {
    let port_of = |link: &Have| match &link.shape {
        HaveShape::Wireguard(Some(device)) => Some(device.listen_port).filter(|port| *port != 0),
        _ => None,
    };
    for wanted in &machine.wants.links {
        let have = network.named(&wanted.name);
        let has = have.and_then(port_of);
        let Some(port) = wanted.listen_port.or(has) else { continue };
        // A device that is up has its port.
        if has == Some(port) && have.is_some_and(|link| link.up) {
            continue;
        }
        let finding = |who: &str| {
            let found = format!("{}: UDP port {port} is taken by {who}", wanted.name);
            Finding::new(Area::Ports, "listen-port", Level::Failure, found)
                .why("the device does not come up, and its peers do not find it")
        };
        let configured = machine.wants.links.iter();
        let twin = |link: &Have| {
            configured
                .clone()
                .any(|other| other.name == link.name && other.listen_port == Some(port))
        };
        let other = network
            .links
            .iter()
            .find(|link| link.name != wanted.name && link.up && port_of(link) == Some(port));
        match (other, &machine.ports) {
            // Already told.
            (Some(other), _) if twin(other) => {}
            (Some(other), _) => out.push(
                finding(&format!("the device {}", other.name))
                    .run(format!("wg set {} listen-port 0", word(&other.name)))
                    .advise("that gives it another port; or configure another `listen_port` here"),
            ),
            (None, Ok(ports)) => {
                let taken = ports.iter().find(|seen| !seen.tcp && seen.address.port() == port);
                out.extend(taken.map(|seen| {
                    freed(finding(&who(seen)), seen, "or configure another `listen_port`")
                }));
            }
            (None, Err(_)) => {}
        }
    }
}

/// What the daemon would listen on.
fn services(machine: &Machine, ports: &[PortSeen], out: &mut Vec<Finding>) {
    if let Some(port) = machine.wants.udp_probes {
        let taken = ports.iter().find(|seen| !seen.tcp && seen.address.port() == port);
        out.extend(taken.map(|seen| {
            let found = format!("UDP port {port}, for probes, is taken by {}", who(seen));
            let finding = Finding::new(Area::Ports, "probe-port", Level::Failure, found)
                .why("peers are not probed, and their probes are not answered");
            freed(finding, seen, "or choose another `port` in [reach], at both ends")
        }));
    }
    for listen in &machine.wants.listen {
        let clash = |seen: &&PortSeen| {
            seen.tcp
                && seen.address.port() == listen.port()
                && overlap(seen.address.ip(), listen.ip())
        };
        out.extend(ports.iter().find(clash).map(|seen| {
            let found = format!("{listen}, where the API listens, is taken by {}", who(seen));
            let finding = Finding::new(Area::Ports, "api-port", Level::Failure, found)
                .why("the daemon does not start");
            freed(finding, seen, "or choose another address for `listen` in [api]")
        }));
    }
}

/// Whether two sockets with the same port and these addresses are in each other's way.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let (one, other) = (one.to_canonical(), other.to_canonical());
    let everything = |address: IpAddr, other: IpAddr| match address {
        IpAddr::V4(v4) => v4.is_unspecified() && other.is_ipv4(),
        // Takes IPv4 too, as a rule (`bindv6only`).
        IpAddr::V6(v6) => v6.is_unspecified(),
    };
    one == other || everything(one, other) || everything(other, one)
}

fn who(seen: &PortSeen) -> String {
    match &seen.owner {
        Some(owner) => owner.to_string(),
        None => format!("a socket at {}", seen.address),
    }
}

/// How the socket's owner lets go of it.
fn freed(finding: Finding, seen: &PortSeen, or: &str) -> Finding {
    match &seen.owner {
        Some(owner) => match &owner.unit {
            Some(unit) => finding.run(format!("systemctl stop {}", word(unit))).advise(or),
            None => finding.run(format!("kill {}", owner.process)).advise(or),
        },
        None => {
            let (flag, port) = (if seen.tcp { 't' } else { 'u' }, seen.address.port());
            finding.advise(format!(
                "see who has it with `ss -l{flag}np sport = :{port}` as root; {or}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        doctor::{
            seen::PortOwner,
            tests::{all, find, machine, wg},
            wants::WantedLink,
        },
        links::state::HaveDevice,
    };

    fn device(name: &str, index: u32, listen_port: u16, up: bool) -> Have {
        let device = HaveDevice { listen_port, ..HaveDevice::default() };
        Have { up, shape: HaveShape::Wireguard(Some(device)), ..wg(name, index) }
    }

    fn with(port: Option<u16>, links: Vec<Have>, ports: Vec<PortSeen>) -> Machine {
        let mut machine = machine();
        let listen_port = port;
        machine.wants.links =
            vec![WantedLink { name: "wg0".to_owned(), managed: true, listen_port }];
        machine.network.as_mut().unwrap().links = links;
        machine.ports = Ok(ports);
        machine
    }

    fn socket(tcp: bool, address: &str, process: Option<u32>) -> PortSeen {
        let owner = process.map(|process| PortOwner { process, name: "nc".to_owned(), unit: None });
        PortSeen { tcp, address: address.parse().unwrap(), owner }
    }

    #[test]
    fn a_port_that_a_process_has() {
        let taken = || vec![socket(false, "0.0.0.0:51820", Some(42))];
        let finding = find(&with(Some(51820), vec![], taken()), "listen-port");
        assert_eq!(
            (finding.level, &finding.remedy[..]),
            (Level::Failure, &["kill 42".to_owned()][..])
        );
        assert_eq!(all(&with(Some(51821), vec![], taken()), "listen-port"), []);
        assert_eq!(find(&with(Some(51821), vec![], taken()), "ports").level, Level::Ok);
        let own = with(Some(51820), vec![device("wg0", 5, 51820, true)], taken());
        assert_eq!(all(&own, "listen-port"), [], "it is the device's own socket");
        let down = with(None, vec![device("wg0", 5, 51820, false)], taken());
        assert_eq!(find(&down, "listen-port").level, Level::Failure);
        let mut service = taken();
        service[0].owner.as_mut().unwrap().unit = Some("nc.service".to_owned());
        let finding = find(&with(Some(51820), vec![], service), "listen-port");
        assert_eq!(finding.remedy, ["systemctl stop nc.service"]);
        let nobody = vec![socket(false, "[::]:51820", None)];
        let finding = find(&with(Some(51820), vec![], nobody), "listen-port");
        assert!(finding.advice.contains("ss -lunp sport = :51820"), "{}", finding.advice);
    }

    #[test]
    fn a_port_that_another_device_has() {
        let taken = with(Some(51820), vec![device("wg9", 9, 51820, true)], vec![]);
        assert_eq!(find(&taken, "listen-port").remedy, ["wg set wg9 listen-port 0"]);
        let mut twins = with(Some(51820), vec![device("wg9", 9, 51820, true)], vec![]);
        let twin = WantedLink { name: "wg9".to_owned(), ..twins.wants.links[0].clone() };
        twins.wants.links.push(twin);
        let findings = all(&twins, "listen-port");
        assert_eq!(findings.len(), 1);
        assert!(findings[0].found.contains("wg0 and wg9"), "{findings:?}");
    }

    #[test]
    fn what_a_daemon_would_listen_on() {
        let ports =
            || vec![socket(false, "0.0.0.0:6697", Some(1)), socket(true, "[::]:9586", Some(2))];
        let mut machine = with(None, vec![], ports());
        assert_eq!(find(&machine, "ports").level, Level::Ok, "nobody asked");
        machine.wants.udp_probes = Some(6697);
        machine.wants.listen = vec!["127.0.0.1:9586".parse().unwrap()];
        assert_eq!(find(&machine, "probe-port").remedy, ["kill 1"]);
        assert_eq!(find(&machine, "api-port").remedy, ["kill 2"]);
        machine.daemon.answers = Some(Ok(()));
        assert_eq!(find(&machine, "ports").level, Level::Ok, "they are the daemon's own");
    }

    #[test]
    fn addresses_are_in_each_others_way() {
        for (one, other, way) in [
            ("127.0.0.1", "0.0.0.0", true),
            ("127.0.0.1", "::", true),
            ("::1", "::", true),
            ("::1", "0.0.0.0", false),
            ("127.0.0.1", "127.0.0.2", false),
            ("::ffff:127.0.0.1", "127.0.0.1", true),
        ] {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((overlap(one, other), overlap(other, one)), (way, way), "{one} {other}");
        }
    }
}
