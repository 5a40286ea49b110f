//! Nexthop objects and what they resolve to.
//!
//! Here lives [`Nexthops`], a mirror of the kernel's nexthop objects. FRR installs routes that
//! name an object instead of a gateway, and with `net.ipv4.nexthop_compat_mode=0` the kernel does
//! not repeat the object's hops in the route, so they are resolved here.

use hashbrown::HashMap;
use serde::Serialize;
use smallvec::SmallVec;

use super::route::{Hop, IfIndex, Nexthop, NexthopId, NexthopKind, Path};

/// A usable hop of a path, with the nexthop object that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ResolvedHop {
    /// The hop.
    #[serde(flatten)]
    pub hop: Hop,
    /// The single nexthop object that gave it (a group's member, not the group), zero if the
    /// route named the hop itself.
    pub nexthop: NexthopId,
}

/// What the hops of a path come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolvedHops {
    /// These hops; none if the path has none.
    Hops(SmallVec<[ResolvedHop; 2]>),
    /// The nexthop object is a blackhole.
    Blackhole,
}

/// The kernel's nexthop objects.
#[derive(Debug, Default)]
pub struct Nexthops {
    objects: HashMap<NexthopId, NexthopKind>,
}

impl Nexthops {
    /// Adds or changes an object. Returns whether anything changed.
    pub fn insert(&mut self, nexthop: Nexthop) -> bool {
        self.objects.insert(nexthop.id, nexthop.kind.clone()) != Some(nexthop.kind)
    }

    /// Removes an object, also from the groups that contain it (`remove_nexthop_from_groups`,
    /// net/ipv4/nexthop.c).
    pub fn remove(&mut self, id: NexthopId) {
        self.objects.remove(&id);
        for kind in self.objects.values_mut() {
            if let NexthopKind::Group(members) = kind {
                members.retain(|(member, _)| *member != id);
            }
        }
    }

    /// The object and every group that contains it: whoever uses one of these is affected by a
    /// change of `id`.
    pub fn users(&self, id: NexthopId) -> Vec<NexthopId> {
        let groups = self.objects.iter().filter(|(_, kind)| match kind {
            NexthopKind::Group(members) => members.iter().any(|(member, _)| *member == id),
            _ => false,
        });
        std::iter::once(id).chain(groups.map(|(group, _)| *group)).collect()
    }

    /// The numbers of all objects.
    pub fn ids(&self) -> impl Iterator<Item = NexthopId> {
        self.objects.keys().copied()
    }

    /// Whether there is such an object.
    pub fn contains(&self, id: NexthopId) -> bool {
        self.objects.contains_key(&id)
    }

    /// All objects.
    pub fn iter(&self) -> impl Iterator<Item = Nexthop> {
        self.objects.iter().map(|(id, kind)| Nexthop { id: *id, kind: kind.clone() })
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Resolves the hops of a path. An object that is not known (yet) falls back to the hops that
    /// the kernel put into the route.
    pub fn resolve(&self, path: &Path) -> ResolvedHops {
        if path.nexthop != 0 {
            match self.objects.get(&path.nexthop) {
                Some(NexthopKind::Blackhole) => return ResolvedHops::Blackhole,
                Some(NexthopKind::Hop { oif, gateway }) => {
                    let hop =
                        Hop { oif: *oif, gateway: *gateway, weight: 1, realm: 0, dead: false };
                    let hop = ResolvedHop { hop, nexthop: path.nexthop };
                    return ResolvedHops::Hops(SmallVec::from_iter([hop]));
                }
                Some(NexthopKind::Group(members)) => return self.resolve_group(members),
                None => {}
            }
        }
        ResolvedHops::Hops(
            path.hops.iter().map(|hop| ResolvedHop { hop: *hop, nexthop: path.nexthop }).collect(),
        )
    }

    fn resolve_group(&self, members: &[(NexthopId, u32)]) -> ResolvedHops {
        let mut hops = SmallVec::new();
        for (member, weight) in members {
            match self.objects.get(member) {
                Some(NexthopKind::Hop { oif, gateway }) => hops.push(ResolvedHop {
                    hop: Hop {
                        oif: *oif,
                        gateway: *gateway,
                        weight: *weight,
                        realm: 0,
                        dead: false,
                    },
                    nexthop: *member,
                }),
                Some(NexthopKind::Blackhole) => return ResolvedHops::Blackhole,
                // Groups do not nest (`valid_group_nh`, net/ipv4/nexthop.c).
                Some(NexthopKind::Group(_)) | None => {}
            }
        }
        ResolvedHops::Hops(hops)
    }

    /// Whether a path leaves by this link through at least one of its hops.
    pub fn uses_link(&self, path: &Path, link: IfIndex) -> bool {
        match self.resolve(path) {
            ResolvedHops::Hops(hops) => hops.iter().any(|resolved| resolved.hop.oif == link),
            ResolvedHops::Blackhole => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::route::{RouteKind, TABLE_MAIN};

    fn via(nexthop: NexthopId) -> Path {
        Path {
            table: TABLE_MAIN,
            metric: 20,
            tos: 0,
            protocol: 186,
            kind: RouteKind::Unicast,
            source: None,
            nexthop,
            hops: Default::default(),
        }
    }

    fn single(id: NexthopId, oif: IfIndex) -> Nexthop {
        Nexthop { id, kind: NexthopKind::Hop { oif, gateway: None } }
    }

    #[test]
    fn a_group_resolves_to_its_members_and_loses_those_that_go() {
        let mut nexthops = Nexthops::default();
        nexthops.insert(single(1, 7));
        nexthops.insert(single(2, 8));
        nexthops.insert(Nexthop { id: 9, kind: NexthopKind::Group(vec![(1, 1), (2, 3)]) });
        let ResolvedHops::Hops(hops) = nexthops.resolve(&via(9)) else { panic!("blackhole") };
        let seen: Vec<_> = hops.iter().map(|r| (r.nexthop, r.hop.oif, r.hop.weight)).collect();
        assert_eq!(seen, [(1, 7, 1), (2, 8, 3)]);
        assert_eq!(nexthops.users(2), [2, 9]);
        nexthops.remove(2);
        assert!(nexthops.uses_link(&via(9), 7) && !nexthops.uses_link(&via(9), 8));
    }

    #[test]
    fn an_unknown_object_falls_back_to_the_hops_in_the_route() {
        let mut path = via(5);
        path.hops.push(Hop { oif: 3, gateway: None, weight: 1, realm: 0, dead: false });
        assert!(Nexthops::default().uses_link(&path, 3));
    }
}
