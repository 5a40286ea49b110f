//! What a configuration needs of a machine.
//!
//! Here lives [`Wants`], which the edge makes of a configuration, or of the devices that there are.
//! Nothing here was looked up.

use std::{collections::BTreeSet, net::SocketAddr, ops::RangeInclusive};

use crate::core::exits::rule::FlowsRule;

/// What a configuration needs of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The interfaces that are followed or made, devices before tunnels.
    pub links: Vec<WantedLink>,
    /// Where the filter's pins are, if packets are filtered.
    pub filter: Option<String>,
    /// Peers are probed by ICMP.
    pub icmp_probes: bool,
    /// The port of UDP probes, if there are any.
    pub udp_probes: Option<u16>,
    /// Where the API listens.
    pub listen: Vec<SocketAddr>,
    /// Netlink receive buffer in bytes.
    pub receive_buffer: usize,
    /// Where the control socket is.
    pub runtime_dir: String,
    /// What exits and flows need.
    pub flows: Flows,
}

/// A link of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedLink {
    /// Its name.
    pub name: String,
    /// It is made as configured.
    pub managed: bool,
    /// Its UDP port, if configured.
    pub listen_port: Option<u16>,
}

/// What exits and flows need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    /// The numbers that are ours.
    pub ranges: Ranges,
    /// The links of exits; no exits, no flows.
    pub exits: BTreeSet<String>,
    /// An exit spreads flows over several links.
    pub weighted: bool,
    /// Flows are chosen by mark.
    pub marks: bool,
    /// Flows are chosen by user.
    pub users: bool,
    /// Flows are chosen by DSCP.
    pub dscp: bool,
    /// Flows are chosen by VRF.
    pub vrf: bool,
    /// Flows of others than this host are routed to exits.
    pub forwards: bool,
}

impl Flows {
    /// What a configuration's exits and flows need.
    pub fn of(rule: &FlowsRule) -> Self {
        let FlowsRule { rules, tables, nexthops, exits, flows, .. } = rule;
        let ranges =
            Ranges { rules: rules.clone(), tables: tables.clone(), nexthops: nexthops.clone() };
        Flows {
            ranges,
            exits: exits.iter().flat_map(|exit| &exit.via).map(|via| via.link.clone()).collect(),
            weighted: exits.iter().any(|exit| exit.weighted),
            marks: flows.iter().any(|flow| flow.mark.is_some()),
            users: flows.iter().any(|flow| !flow.uid.is_empty()),
            dscp: flows.iter().any(|flow| flow.dscp.is_some()),
            vrf: flows.iter().any(|flow| flow.vrf.is_some()),
            // Of a user's packets, and of those from `lo`, this host is the source.
            forwards: flows
                .iter()
                .any(|flow| flow.uid.is_empty() && flow.iif.as_deref() != Some("lo")),
        }
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.exits.is_empty()
    }
}

/// Numbers that are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Priorities of rules.
    pub rules: RangeInclusive<u32>,
    /// Routing tables.
    pub tables: RangeInclusive<u32>,
    /// Nexthop objects.
    pub nexthops: RangeInclusive<u32>,
}

impl Default for Ranges {
    fn default() -> Self {
        Ranges {
            rules: 10_000..=29_999,
            tables: 119_000..=128_999,
            nexthops: 1_190_000..=1_229_999,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::exits::{
        iprule::{Mark, Span},
        rule::{ExitRule, FlowRule, Target, Via, WhenDown},
    };

    fn flow() -> FlowRule {
        FlowRule {
            name: String::new(),
            from: Vec::new(),
            to: Vec::new(),
            iif: None,
            mark: None,
            uid: Vec::new(),
            tos: 0,
            dscp: None,
            protocol: 0,
            sport: Vec::new(),
            dport: Vec::new(),
            vrf: None,
            realm: None,
            target: Target::Main,
        }
    }

    #[test]
    fn flows_need_what_they_select_by() {
        let via = Via {
            link: "gre-b".to_owned(),
            interface: "wg0".to_owned(),
            peer: None,
            weight: 1,
            ipv6: true,
        };
        let exit = ExitRule {
            name: "b".to_owned(),
            via: vec![via],
            weighted: true,
            when_down: WhenDown::Next,
            back_after: std::time::Duration::ZERO,
            table: None,
            feed: false,
            source: Vec::new(),
        };
        let Ranges { rules, tables, nexthops } = Ranges::default();
        let (exits, guards) = (vec![exit], Vec::new());
        let mut rule = FlowsRule { rules, tables, nexthops, exits, flows: Vec::new(), guards };
        let none = Flows {
            exits: BTreeSet::from(["gre-b".to_owned()]),
            weighted: true,
            ..Flows::default()
        };
        assert_eq!(Flows::of(&rule), none);
        let here = FlowRule { iif: Some("lo".to_owned()), ..flow() };
        let user = FlowRule { uid: vec![Span { first: 0, last: 0 }], ..flow() };
        rule.flows = vec![here, user];
        assert_eq!(Flows::of(&rule), Flows { users: true, ..none.clone() });
        let marked = FlowRule { mark: Some(Mark { value: 1, mask: 1 }), ..flow() };
        let classed = FlowRule { dscp: Some(46), ..flow() };
        rule.flows = vec![marked, classed, FlowRule { vrf: Some("red".to_owned()), ..flow() }];
        let all = Flows { marks: true, dscp: true, vrf: true, forwards: true, ..none };
        assert_eq!(Flows::of(&rule), all);
    }
}
