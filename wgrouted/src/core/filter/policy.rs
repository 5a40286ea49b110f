//! Policies: what a peer may say.
//!
//! Here live the rules as the operator wrote them, as plain data, and what they become in the maps
//! ([`compile`]). How their text is read is the configuration's business.

use serde::{Deserialize, Serialize};

use crate::core::prefix::Prefix;

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Its name.
    pub name: String,
    /// What no rule matches passes.
    pub accept: bool,
    /// Replies to flows that were opened from this side, or by an allowed peer towards another,
    /// pass without a rule.
    pub stateful: bool,
    /// In the order in which they are asked.
    pub rules: Vec<RuleSpec>,
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSpec {
    /// As the operator wrote it.
    pub text: String,
    /// Its line in the file, from 1.
    pub line: u32,
    /// What matches passes; else it is dropped.
    pub accept: bool,
    /// Sources; empty: any.
    pub from: Vec<Prefix>,
    /// Destinations; empty: any.
    pub to: Vec<Prefix>,
    /// The protocol's number; `None`: any.
    pub protocol: Option<u8>,
    /// Source ports, both ends included; empty: any.
    pub src_ports: Vec<(u16, u16)>,
    /// Destination ports, both ends included, or ICMP types; empty: any.
    pub dst_ports: Vec<(u16, u16)>,
}
/// TEMPORARY
pub fn compile(_policy: &PolicyRule) -> super::table::CompiledPolicy {
    unimplemented!()
}
