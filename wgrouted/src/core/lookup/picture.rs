//! What is known of the network when a packet is followed through it.

use std::collections::BTreeMap;

use crate::core::{
    exits::iprule::IpRule,
    nexthops::Nexthops,
    route::{IfIndex, Link, LinkKind, TableId},
};

/// What is known, but for the routes, which are asked for table by table.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// The policy rules of the packet's family, in the order in which the kernel tries them.
    pub rules: &'a [IpRule],
    /// All links.
    pub links: &'a [Link],
    /// The group of each link (`IFLA_GROUP`). Who is not in it is in none that counts.
    pub groups: &'a BTreeMap<IfIndex, u32>,
    /// The nexthop objects.
    pub nexthops: &'a Nexthops,
    /// What differs between kernels.
    pub kernel: Kernel,
}

/// What differs between kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// `iif` and `oif` of a rule may name a VRF and then mean whatever belongs to it
    /// (`l3mdev_fib_rule_iif_match`, Linux 6.15). Before, a packet that a VRF's socket sends has no
    /// `oif` when rules are tried.
    pub rules_know_vrfs: bool,
}

impl Kernel {
    /// By its release, as `uname -r` has it. One that cannot be read counts as new.
    pub fn of_release(release: &str) -> Kernel {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let version = match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
            _ => return Kernel { rules_know_vrfs: true },
        };
        Kernel { rules_know_vrfs: version >= (6, 15) }
    }
}

impl<'a> Picture<'a> {
    /// The link with this number.
    pub fn link(&self, index: IfIndex) -> Option<&'a Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The link with this name.
    pub fn named(&self, name: &str) -> Option<&'a Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The VRF that a link belongs to, or is (`l3mdev_master_ifindex_rcu`).
    pub fn vrf_of(&self, index: IfIndex) -> Option<&'a Link> {
        let link = self.link(index)?;
        if is_vrf(link) {
            return Some(link);
        }
        link.master.and_then(|master| self.link(master)).filter(|master| is_vrf(master))
    }
}

/// Whether a link is a VRF.
pub const fn is_vrf(link: &Link) -> bool {
    vrf_table(link).is_some()
}

/// The table of a VRF.
pub const fn vrf_table(link: &Link) -> Option<TableId> {
    match link.kind {
        LinkKind::Vrf { table } => Some(table),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_says_what_its_kernel_does() {
        for (release, vrfs) in
            [("6.1.0-37-amd64", false), ("6.14.9", false), ("6.15-rc1", true), ("7.3.4", true)]
        {
            assert_eq!(Kernel::of_release(release).rules_know_vrfs, vrfs, "{release}");
        }
    }
}
