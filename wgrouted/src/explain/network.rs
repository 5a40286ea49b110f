//! The kernel's network, as far as one packet needs it.
//!
//! Here live the reading of rules, links and nexthop objects, and of the tables that a walk comes to.
//! The kernel answers no question about one table (`ip route get` names none), and the daemon's
//! mirror holds the followed tables only, so a table is dumped, filtered by family and table; what
//! does not hold the address is dropped at once. A full table takes about a second of that.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    core::{
        exits::iprule::IpRule,
        lookup::{
            kernel::Lookup,
            packet::Packet,
            picture::{Kernel, Picture},
            walk::{Walk, walk},
        },
        nexthops::Nexthops,
        route::{IfIndex, Link},
    },
    source::rtnetlink::{Dumper, Error},
};

/// What was read, and the socket that reads more.
pub struct Network {
    dumper: Dumper,
    /// The rules of the packet's family.
    pub rules: Vec<IpRule>,
    /// All links.
    pub links: Vec<Link>,
    groups: BTreeMap<IfIndex, u32>,
    nexthops: Nexthops,
    kernel: Kernel,
}

impl Network {
    /// Reads what packets to an address need.
    pub fn read(address: IpAddr) -> Result<Network, Error> {
        let mut dumper = Dumper::open()?;
        let mut nexthops = Nexthops::default();
        for object in dumper.nexthops()? {
            nexthops.insert(object);
        }
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Ok(Network {
            rules: dumper.iprules(Packet::to(address).family())?,
            links: dumper.links()?,
            groups: dumper.link_groups()?,
            nexthops,
            kernel: Kernel::of_release(&release),
            dumper,
        })
    }

    fn picture(&self) -> Picture<'_> {
        Picture {
            rules: &self.rules,
            links: &self.links,
            groups: &self.groups,
            nexthops: &self.nexthops,
            kernel: self.kernel,
        }
    }

    /// Follows a packet.
    pub fn walk(&mut self, packet: Packet) -> Result<Walk, Error> {
        let Network { dumper, rules, links, groups, nexthops, kernel } = self;
        let picture = Picture { rules, links, groups, nexthops, kernel: *kernel };
        walk(&picture, packet, |table| dumper.routes_to(table, packet.dst))
    }

    /// What the kernel says.
    pub fn ask(&mut self, packet: &Packet) -> Result<Lookup, Error> {
        self.dumper.route_get(packet)
    }

    /// What no walk can know, rule by rule.
    pub fn doubts(&self, walk: &Walk) -> Vec<String> {
        let picture = self.picture();
        let open = walk.steps.iter().filter(|step| step.is_open(&picture));
        let open = open.map(|step| {
            format!(
                "whether rule {} suppresses its route depends on the kernel's hash and cache",
                step.rule.priority
            )
        });
        let unknown = walk.steps.iter().filter(|step| !step.rule.selector.unknown.is_empty());
        let unknown = unknown.map(|step| {
            format!(
                "rule {} wants something that wgrouted does not know, and is taken not to match",
                step.rule.priority
            )
        });
        open.chain(unknown).collect()
    }

    /// The name of a link.
    pub fn name(&self, index: IfIndex) -> String {
        let link = self.picture().link(index);
        link.map_or_else(|| format!("link {index}"), |link| link.name.clone())
    }

    /// The VRF that a link belongs to.
    pub fn vrf_of(&self, index: IfIndex) -> Option<&Link> {
        self.picture().vrf_of(index)
    }

    /// The names of all links.
    pub fn names(&self) -> BTreeMap<IfIndex, String> {
        self.links.iter().map(|link| (link.index, link.name.clone())).collect()
    }
}
