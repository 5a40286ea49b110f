//! What a configuration needs of a machine.

use std::{collections::BTreeMap, path::Path};

use crate::{
    config::Config,
    core::{
        doctor::wants::{Flows, WantedLink, Wants},
        links::rule::ShapeRule,
        reach::rule::ProbeKind,
    },
};

/// Reads it from a configuration.
pub(super) fn of(config: &Config, runtime_dir: &Path) -> Wants {
    let managed: BTreeMap<&str, Option<u16>> = config
        .links
        .iter()
        .map(|link| match &link.shape {
            ShapeRule::Wireguard(device) => (link.name.as_str(), device.listen_port),
            ShapeRule::Tunnel(_) => (link.name.as_str(), None),
        })
        .collect();
    let interfaces = config.interfaces.iter().map(|rule| rule.name.as_str());
    let tunnels = config.links.iter().map(|link| link.name.as_str());
    let tunnels = tunnels.filter(|name| config.interfaces.iter().all(|rule| rule.name != **name));
    let link = |name: &str| WantedLink {
        name: name.to_owned(),
        managed: managed.contains_key(name),
        listen_port: managed.get(name).copied().flatten(),
    };
    let reach = || config.interfaces.iter().filter_map(|rule| rule.reach.as_ref());
    let filter = config.filter_rule().map(|_| config.filter.directory.display().to_string());
    Wants {
        links: interfaces.chain(tunnels).map(link).collect(),
        filter,
        icmp_probes: reach().any(|reach| reach.probe == ProbeKind::Icmp),
        // On every link that is watched, probes are answered.
        udp_probes: reach().next().map(|_| config.reach.port),
        listen: config.api.listen.clone(),
        receive_buffer: config.daemon.receive_buffer,
        runtime_dir: runtime_dir.display().to_string(),
        flows: Flows::of(&config.flows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Names;

    fn parse(text: &str) -> Wants {
        let config = Config::from_bytes(text.as_bytes(), Path::new("x"), &Names::built_in());
        of(&config.unwrap(), Path::new("/run/x"))
    }

    #[test]
    fn nothing_but_an_interface_needs_little() {
        let wants = parse("[[interface]]\nname = \"wg0\"\n");
        assert_eq!(wants.links, [WantedLink { name: "wg0".to_owned(), ..WantedLink::default() }]);
        assert!(!wants.icmp_probes && wants.udp_probes.is_none() && wants.filter.is_none());
        assert_eq!(wants.runtime_dir, "/run/x");
    }

    #[test]
    fn what_is_configured_is_needed() {
        let wants = parse(
            "[api]\nlisten = \"127.0.0.1:9586\"\n\
             [reach]\nport = 7000\n\
             [[interface]]\nname = \"wg0\"\nmanage = true\nlink = \"shared\"\n\
             private_key_file = \"/k\"\nlisten_port = 51820\naddresses = [\"10.0.0.1/24\"]\n\
             reach = { probe = \"icmp\" }\nfilter = { source = \"strict\" }\n\
             [[tunnel]]\nname = \"gre0\"\nkind = \"gre\"\nover = \"wg0\"\nremote = \"10.0.0.2\"\n\
             addresses = [\"10.1.0.1/24\"]\n",
        );
        let names: Vec<_> =
            wants.links.iter().map(|link| (link.name.as_str(), link.managed)).collect();
        assert_eq!(names, [("wg0", true), ("gre0", true)]);
        assert_eq!(wants.links[0].listen_port, Some(51820));
        assert_eq!((wants.icmp_probes, wants.udp_probes), (true, Some(7000)));
        assert!(!wants.flows.any());
        assert_eq!(wants.listen.len(), 1);
        assert!(wants.filter.is_some());
    }
}
