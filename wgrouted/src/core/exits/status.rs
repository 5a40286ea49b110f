//! What is published about exits and flows.

use serde::{Deserialize, Serialize};

use super::{choice::Health, iprule::IpRule};
use crate::core::{prefix::Family, route::TableId};

/// All exits and flows at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExitsStatus {
    /// Nothing is left to do: the kernel holds what is wanted, as far as it can be had.
    pub in_force: bool,
    /// The exits, in file order.
    pub exits: Vec<ExitStatus>,
    /// The flows, in file order.
    pub flows: Vec<FlowStatus>,
    /// What is not as configured, and why.
    pub faults: Vec<String>,
    /// What the kernel holds for all of it.
    pub objects: Objects,
    /// How often somebody else had removed something of ours, which was put back.
    pub repaired: u64,
}

impl ExitsStatus {
    /// What one of our rules is for, in words.
    pub fn name_of(&self, rule: &IpRule) -> Option<String> {
        let of_it = |known: &FlowRuleStatus| {
            (known.family, known.priority) == (rule.family, rule.priority)
                && known.rule == format!("{} {}", rule.selector, rule.action)
        };
        let flow = self.flows.iter().find(|flow| flow.rules.iter().any(of_it))?;
        Some(format!("flow {}, exit {}", flow.name, flow.exit))
    }
}

/// How many objects the kernel holds for us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    /// Rules, of both families.
    pub rules: usize,
    /// Routes.
    pub routes: usize,
    /// Nexthop objects of links.
    pub nexthops: usize,
    /// Groups of them.
    pub groups: usize,
}

/// One exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Its name.
    pub name: String,
    /// Its table; none if no number is free.
    pub table: Option<TableId>,
    /// What its flows meet.
    pub state: ExitState,
    /// A routing daemon fills the table.
    pub feed: bool,
    /// Its links, most preferred first.
    pub links: Vec<ExitLinkStatus>,
    /// How often the links in use changed.
    pub changes: u64,
    /// How long they have been these.
    pub age_seconds: f64,
}

/// What the flows of an exit meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitState {
    /// They leave by a link.
    Up,
    /// No link is usable: the next flow that selects them counts.
    Next,
    /// No link is usable: ordinary routing.
    Main,
    /// No link is usable: they are rejected.
    Blocked,
    /// Somebody else's routes decide.
    Fed,
}

/// One link of an exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitLinkStatus {
    /// The link.
    pub link: String,
    /// The peer at its other end, if it has a name.
    pub peer: Option<String>,
    /// What is known of it.
    pub health: Health,
    /// Whether flows leave by it.
    pub used: bool,
    /// Its share.
    pub weight: u16,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowStatus {
    /// Its name.
    pub name: String,
    /// Where it goes: an exit, `main` or `block`.
    pub exit: String,
    /// Its rules in the kernel.
    pub rules: Vec<FlowRuleStatus>,
}

/// One rule of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRuleStatus {
    /// For packets of this family.
    pub family: Family,
    /// Its priority.
    pub priority: u32,
    /// As `ip rule` shows it.
    pub rule: String,
}
