//! The tunnels inside an interface.
//!
//! Here lives what the engine finds out about their devices, for the packet filter; AllowedIPs do
//! not depend on it. Invariant: there is one [`TunnelDevice`] for each tunnel of the rule, in its
//! order, or none yet.

use super::Interface;
use crate::core::{
    filter::rule::TunnelRule,
    nexthops::Nexthops,
    route::{IfIndex, Path, TableId},
};

/// The device of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelDevice {
    /// Its number, while it exists.
    pub ifindex: Option<IfIndex>,
    /// The VRF that it belongs to.
    pub vrf: Option<TableId>,
    /// The tables that count for it, most preferred first.
    pub tables: Vec<TableId>,
}

impl Interface {
    /// The tunnels, as configured and as they are.
    pub fn tunnels(&self) -> impl Iterator<Item = (&TunnelRule, &TunnelDevice)> {
        self.rule.tunnels.iter().zip(&self.tunnels)
    }

    /// What their devices are now. Returns whether that is news.
    pub fn set_tunnels(&mut self, devices: Vec<TunnelDevice>) -> bool {
        let changed = self.tunnels != devices;
        self.tunnels = devices;
        self.revision += u64::from(changed);
        changed
    }

    /// The tables that count for the interface or for a tunnel inside it.
    pub fn followed(&self) -> impl Iterator<Item = TableId> {
        let inside = self.tunnels.iter().flat_map(|tunnel| &tunnel.tables);
        self.tables.iter().chain(inside).copied()
    }

    /// Whether a path leads out of the interface or of a tunnel inside it.
    pub fn is_used_by(&self, nexthops: &Nexthops, path: &Path) -> bool {
        let inside = self.tunnels.iter().filter_map(|tunnel| tunnel.ifindex);
        self.ifindex.into_iter().chain(inside).any(|link| nexthops.uses_link(path, link))
    }
}
