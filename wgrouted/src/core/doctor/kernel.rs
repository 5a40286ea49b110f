//! What the kernel can do.
//!
//! Here lives a judgement of each [`Feature`]: what is needed and missing is a failure, what nobody
//! asked for is worth knowing.

use super::{
    finding::{Area, Finding, Level},
    seen::{Feature, Machine},
    wants::Wants,
};

/// The oldest kernel that wgrouted is tested on.
const OLDEST: (u32, u32) = (6, 1);

/// Judges the kernel.
pub(super) fn check(machine: &Machine, out: &mut Vec<Finding>) {
    out.push(release(machine));
    for (feature, seen) in &machine.features {
        let (check, what) = feature.names();
        out.push(match seen {
            Err(because) => Finding::not_checked(Area::Kernel, check, what, because),
            Ok(true) => Finding::new(Area::Kernel, check, Level::Ok, what),
            Ok(false) => missing(*feature, machine),
        });
    }
}

fn release(machine: &Machine) -> Finding {
    let release = match &machine.release {
        Ok(release) => release,
        Err(because) => {
            return Finding::not_checked(Area::Kernel, "release", "Linux release", because);
        }
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    };
    let found = format!("Linux {release}");
    if version >= OLDEST {
        return Finding::new(Area::Kernel, "release", Level::Ok, found);
    }
    Finding::new(Area::Kernel, "release", Level::Warning, found)
        .why(format!("wgrouted is tested on Linux {}.{} and newer", OLDEST.0, OLDEST.1))
        .advise("boot a newer kernel, or watch the log closely")
}

fn missing(feature: Feature, machine: &Machine) -> Finding {
    let (check, what) = feature.names();
    let needed = feature.needed_by(&machine.wants, machine);
    let level = match (needed, feature) {
        (Some(_), Feature::SingleRemoval | Feature::Ipv6 | Feature::AddressProtocol) => Level::Info,
        (Some(_), _) => Level::Failure,
        (None, _) => Level::Info,
    };
    let finding = Finding::new(Area::Kernel, check, level, format!("no {what}"));
    let finding = match (level, needed) {
        (Level::Failure, Some(who)) => finding.why(format!("{who} needs it")),
        _ => finding.why(feature.without()),
    };
    let finding = match feature.module() {
        Some(module) => finding.run(format!("modprobe {module}")),
        None => finding,
    };
    finding.advise(feature.advice())
}

impl Feature {
    /// The check's name, and what it is.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Feature::Wireguard => ("wireguard", "WireGuard"),
            Feature::SingleRemoval => ("single-removal", "removal of single AllowedIPs"),
            Feature::Ipv6 => ("ipv6", "IPv6"),
            Feature::AddressProtocol => ("address-protocol", "protocol of addresses"),
            Feature::Nexthops => ("nexthop-objects", "nexthop objects"),
            Feature::ResilientGroups => ("resilient-groups", "resilient nexthop groups"),
            Feature::UserRules => ("rules-by-user", "rules by user (uidrange)"),
            Feature::PortRules => ("rules-by-port", "rules by protocol and port"),
            Feature::DscpRules => ("rules-by-dscp", "rules by DSCP"),
            Feature::VrfRules => ("rules-for-vrfs", "the rule for VRFs (l3mdev)"),
            Feature::Bpf => ("bpf", "bpf() system call"),
            Feature::LpmTries => ("lpm-tries", "BPF tries for prefixes"),
            Feature::Tcx => ("tcx", "BPF programs at tc by link (tcx)"),
            Feature::Clsact => ("clsact", "BPF programs at tc as classifiers (clsact)"),
            Feature::Xdp => ("xdp", "BPF programs at XDP"),
        }
    }

    /// Who cannot do without it.
    fn needed_by(self, wants: &Wants, machine: &Machine) -> Option<&'static str> {
        let flows = &wants.flows;
        let (needed, who) = match self {
            Feature::Wireguard => (true, "everything"),
            Feature::SingleRemoval | Feature::Ipv6 | Feature::AddressProtocol => (true, "comfort"),
            Feature::Nexthops => (flows.any(), "an exit"),
            Feature::ResilientGroups => (flows.weighted, "a weighted exit"),
            Feature::UserRules => (flows.users, "a flow with `uid`"),
            Feature::PortRules => (flows.any(), "what keeps WireGuard's own packets out of flows"),
            Feature::DscpRules => (flows.dscp, "a flow with `dscp`"),
            Feature::VrfRules => (flows.vrf, "a flow with `vrf`"),
            Feature::Bpf | Feature::LpmTries => (wants.filter.is_some(), "the packet filter"),
            // Either will do.
            Feature::Tcx | Feature::Clsact => {
                let other = [Feature::Tcx, Feature::Clsact].into_iter().find(|f| *f != self);
                let has = other.and_then(|other| machine.features.get(&other));
                (wants.filter.is_some() && has == Some(&Ok(false)), "the packet filter")
            }
            Feature::Xdp => (false, ""),
        };
        needed.then_some(who)
    }

    /// What is different without it.
    const fn without(self) -> &'static str {
        match self {
            Feature::SingleRemoval => {
                "AllowedIPs are removed through a graveyard peer, which `wg show` lists; it never \
                 hears or says anything"
            }
            Feature::Ipv6 => "only IPv4 is followed",
            Feature::AddressProtocol => {
                "addresses that wgrouted added cannot be told from others: they stay when they \
                 leave the configuration"
            }
            _ => "nothing that is configured needs it",
        }
    }

    /// A module that may bring it.
    const fn module(self) -> Option<&'static str> {
        match self {
            Feature::Wireguard => Some("wireguard"),
            _ => None,
        }
    }

    /// Where it comes from.
    const fn advice(self) -> &'static str {
        match self {
            Feature::Wireguard => "or boot a kernel built with CONFIG_WIREGUARD",
            Feature::SingleRemoval => "Linux 6.16 and newer have it",
            Feature::Ipv6 => "boot without ipv6.disable=1",
            Feature::AddressProtocol => "Linux 5.18 and newer have it",
            Feature::Nexthops => "Linux 5.3 and newer have it",
            Feature::ResilientGroups => "Linux 5.13 and newer have it",
            Feature::UserRules => "Linux 4.10 and newer have it",
            Feature::PortRules => "Linux 4.17 and newer have it",
            Feature::DscpRules => "Linux 6.13 and newer have it; before, use `tos`",
            Feature::VrfRules => "boot a kernel built with CONFIG_NET_L3_MASTER_DEV",
            Feature::Bpf | Feature::LpmTries => "boot a kernel built with CONFIG_BPF_SYSCALL",
            Feature::Tcx => "Linux 6.6 and newer have it; before, clsact is used",
            Feature::Clsact => "boot a kernel with CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS",
            Feature::Xdp => "boot a kernel built with CONFIG_NET",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::doctor::tests::{find, found, machine};

    #[test]
    fn releases_are_compared_by_number() {
        for (release, level) in [
            ("6.1.0-42-amd64", Level::Ok),
            ("7.3.4", Level::Ok),
            ("10.0", Level::Ok),
            ("5.15.0", Level::Warning),
            ("odd", Level::Warning),
        ] {
            let machine = Machine { release: Ok(release.to_owned()), ..machine() };
            assert_eq!(find(&machine, "release").level, level, "{release}");
        }
    }

    #[test]
    fn what_is_missing_matters_if_it_is_needed() {
        let mut machine = machine();
        let all = [
            Feature::Nexthops,
            Feature::ResilientGroups,
            Feature::UserRules,
            Feature::PortRules,
            Feature::DscpRules,
            Feature::VrfRules,
            Feature::Bpf,
            Feature::LpmTries,
            Feature::Clsact,
        ];
        for feature in all.into_iter().chain([Feature::Tcx]) {
            machine.features.insert(feature, Ok(false));
        }
        assert_eq!(found(&machine, Level::Failure), Vec::<&str>::new());
        let flows = &mut machine.wants.flows;
        flows.exits.insert("wg0".to_owned());
        (flows.weighted, flows.users, flows.dscp, flows.vrf) = (true, true, true, true);
        machine.wants.filter = Some("/sys/fs/bpf/wgrouted".to_owned());
        for feature in all {
            assert_eq!(find(&machine, feature.names().0).level, Level::Failure, "{feature:?}");
        }
        machine.features.insert(Feature::Clsact, Ok(true));
        assert_eq!(find(&machine, "tcx").level, Level::Info, "clsact will do");
    }

    #[test]
    fn wireguard_is_always_needed_and_comfort_never() {
        let mut machine = machine();
        machine.features.insert(Feature::Wireguard, Ok(false));
        machine.features.insert(Feature::SingleRemoval, Ok(false));
        let finding = find(&machine, "wireguard");
        assert_eq!(
            (finding.level, &finding.remedy[..]),
            (Level::Failure, &["modprobe wireguard".to_owned()][..])
        );
        assert_eq!(find(&machine, "single-removal").level, Level::Info);
        machine.features.insert(Feature::SingleRemoval, Err("you are nobody".to_owned()));
        assert_eq!(find(&machine, "single-removal").level, Level::NotChecked);
        machine.features.insert(Feature::SingleRemoval, Ok(true));
        assert_eq!(find(&machine, "single-removal").level, Level::Ok);
    }
}
