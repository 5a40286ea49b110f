//! What is wrong with a machine, and what to do about it.
//!
//! Here live the checks of `wgrouted doctor`: from what was seen ([`seen::Machine`]) and what is
//! needed ([`wants::Wants`]) to [`finding::Finding`]s. Who looks is the edge's business. Invariant: a
//! check that could not be made says so; silence is no finding.

mod clock;
mod daemon;
pub mod finding;
mod kernel;
pub mod loops;
mod mtu;
mod ports;
mod process;
mod rules;
pub mod seen;
pub mod sysctl;
pub mod wants;

use self::{finding::Report, seen::Machine};

/// Judges a machine.
pub fn examine(machine: &Machine) -> Report {
    let mut findings = Vec::new();
    daemon::check(machine, &mut findings);
    kernel::check(machine, &mut findings);
    process::check(machine, &mut findings);
    sysctl::check(machine, &mut findings);
    loops::check(machine, &mut findings);
    rules::check(machine, &mut findings);
    ports::check(machine, &mut findings);
    mtu::check(machine, &mut findings);
    clock::check(machine, &mut findings);
    Report::of(findings)
}

#[cfg(test)]
mod tests {
    use super::{
        finding::{Finding, Level},
        seen::{ClockSeen, Network, Way},
        *,
    };
    use crate::core::links::state::{Have, HaveDevice, HaveShape};

    /// A machine on which nothing is wrong and nothing was looked at but an empty network.
    pub(super) fn machine() -> Machine {
        let network = Network {
            rules: Ok(Vec::new()),
            strays: Ok(Vec::new()),
            nexthops: Ok(Vec::new()),
            ..Network::default()
        };
        let clock = ClockSeen { now: 2_000_000_000, synchronised: Ok(true) };
        Machine { network: Ok(network), ports: Ok(Vec::new()), clock, ..Machine::default() }
    }

    /// A WireGuard device that is up.
    pub(super) fn wg(name: &str, index: u32) -> Have {
        Have {
            index,
            name: name.to_owned(),
            ours: false,
            shape: HaveShape::Wireguard(Some(HaveDevice::default())),
            up: true,
            mtu: 1420,
            addresses: Vec::new(),
        }
    }

    /// A device's way to a peer.
    pub(super) fn way(device: &str, endpoint: &str, through: Option<u32>) -> Way {
        Way {
            device: device.to_owned(),
            peer: "KEY".to_owned(),
            endpoint: endpoint.parse().unwrap(),
            mark: 0,
            path: through.map(|index| (index, None)),
            unmarked: through,
            ahead: false,
        }
    }

    /// The findings of a check.
    pub(super) fn all(machine: &Machine, check: &str) -> Vec<Finding> {
        let mut findings = examine(machine).findings;
        findings.retain(|finding| finding.check == check);
        findings
    }

    /// The first finding of a check.
    pub(super) fn find(machine: &Machine, check: &str) -> Finding {
        all(machine, check).into_iter().next().unwrap_or_else(|| panic!("no finding {check}"))
    }

    /// The checks that ended so.
    pub(super) fn found(machine: &Machine, level: Level) -> Vec<&'static str> {
        let findings = examine(machine).findings.into_iter();
        findings.filter(|finding| finding.level == level).map(|finding| finding.check).collect()
    }

    #[test]
    fn what_nobody_looked_at_is_said() {
        let machine = Machine::default();
        let silent = found(&machine, Level::NotChecked);
        for check in ["release", "rp_filter", "loop", "foreign-rules", "ports", "mtu", "clock-sync"]
        {
            assert!(silent.contains(&check), "{check} is not among {silent:?}");
        }
    }
}
