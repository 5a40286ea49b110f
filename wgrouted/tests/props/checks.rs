//! What holds in the simulated world: after every step, and in the end.
//!
//! Here live the assertions about [`Sim`]; nothing here changes it.

use std::collections::{BTreeMap, BTreeSet};

use wgrouted::core::{
    change::Change,
    interface::Interface,
    nexthops::ResolvedHops,
    peer::PublicKey,
    prefix::Prefix,
    resolve::Unresolved,
    route::{IfIndex, LinkKind, NexthopId, NexthopKind, Path, RouteKind, TABLE_MAIN, TableId},
};

use crate::{
    oracle::{self, Peer},
    sim::Sim,
};

impl Sim {
    // ---- what holds after every step ----

    pub fn interface(&self, name: &str) -> &Interface {
        let found = self.engine.interfaces().find(|interface| interface.rule().name == name);
        found.expect("it is configured")
    }

    /// One change a prefix, sets before removals, in the safe order; nothing that is not ours.
    pub(crate) fn check_batch(&self, ifindex: IfIndex, peers: &[PublicKey], changes: &[Change]) {
        let prefixes: BTreeSet<Prefix> = changes.iter().map(|change| change.prefix).collect();
        assert_eq!(prefixes.len(), changes.len(), "a prefix occurs twice: {changes:?}");
        assert!(changes.iter().all(|change| change.old != change.new), "idle: {changes:?}");
        for pair in
            changes.windows(2).filter(|pair| pair[0].prefix.family() == pair[1].prefix.family())
        {
            let (a, b) = (&pair[0], &pair[1]);
            match (a.new, b.new) {
                (Some(_), Some(_)) => assert!(a.prefix.prefix_len() >= b.prefix.prefix_len()),
                (None, None) => assert!(a.prefix.prefix_len() <= b.prefix.prefix_len()),
                (None, Some(_)) => panic!("a set after a removal: {changes:?}"),
                (Some(_), None) => {}
            }
        }
        let name = &self.devices.get(&ifindex).map(|device| device.name.clone());
        let Some(name) = name else { return };
        // One that is no longer configured still removes what is its own.
        let retiring = self.engine.interfaces().map(|interface| interface.rule());
        let mut rules = self.rules.iter().chain(retiring);
        let rule = rules.find(|rule| rule.name == *name).expect("configured");
        for change in changes {
            let pinned = rule
                .peers
                .iter()
                .find(|peer| peer.pinned.iter().flatten().any(|prefix| *prefix == change.prefix));
            let new = change.new.map(|idx| peers[idx.0 as usize]);
            match pinned {
                // Only its own peer may get it; it is taken from nobody but a usurper.
                Some(peer) => assert!(
                    new == Some(peer.public_key)
                        || (new.is_none()
                            && change.old.map(|idx| peers[idx.0 as usize])
                                != Some(peer.public_key)),
                    "{change:?} touches a pinned prefix"
                ),
                None => assert!(
                    rule.managed.iter().any(|range| range.covers(&change.prefix)),
                    "{change:?} lies outside the managed ranges"
                ),
            }
        }
    }

    pub(crate) fn check(&self) {
        for interface in self.engine.interfaces() {
            let Some(index) = interface.ifindex() else { continue };
            let Some(device) = self.devices.get(&index) else { continue };
            if !self.trust.get(&index).is_some_and(|trust| trust.sure) || !interface.is_ready() {
                continue;
            }
            let name = |idx| interface.peers().get(idx).public_key;
            for (prefix, slot) in interface.slots().iter().filter(|(_, s)| !s.is_in_flight()) {
                assert_eq!(
                    slot.have().map(name),
                    device.table.get(&prefix).copied(),
                    "have lies about {prefix} on {}",
                    device.name
                );
            }
            for prefix in device.table.keys() {
                assert!(interface.slots().get(prefix).is_some(), "{prefix} is not known of");
            }
        }
    }

    // ---- what holds in the end ----

    /// The mirror of the followed tables and of the nexthop objects equals the kernel's.
    pub fn check_mirror(&self, tables: &[TableId]) {
        let mut theirs = BTreeMap::new();
        for table in tables {
            for (prefix, list) in self.kernel.table(*table) {
                insert_sorted(&mut theirs, prefix, list);
            }
        }
        let mut ours = BTreeMap::new();
        let rib = self.engine.rib();
        for (prefix, list) in rib.iter() {
            let list = list.iter().map(|id| rib.path_table().get(*id).clone()).collect();
            insert_sorted(&mut ours, prefix, list);
        }
        assert_eq!(ours, theirs, "the mirror (left) is not the kernel's table (right)");
        let ids: BTreeSet<NexthopId> = self.engine.nexthops().ids().collect();
        assert_eq!(ids, self.kernel.nexthops().keys().copied().collect());
        for (id, kind) in self.kernel.nexthops() {
            let id = *id;
            let probe = Path {
                table: 0,
                metric: 0,
                tos: 0,
                protocol: 0,
                kind: RouteKind::Unicast,
                source: None,
                nexthop: id,
                hops: Default::default(),
            };
            match self.engine.nexthops().resolve(&probe) {
                ResolvedHops::Blackhole => assert_eq!(kind, &NexthopKind::Blackhole),
                ResolvedHops::Hops(hops) => {
                    let hops: Vec<_> = hops.iter().map(|hop| hop.hop).collect();
                    let real: Vec<_> = self.kernel.hops(&probe).iter().map(|(_, h)| *h).collect();
                    assert_eq!(hops, real, "object {id}");
                }
            }
        }
    }

    /// Every device holds what the oracle says, and what was pinned or foreign.
    pub fn check_devices(&self) {
        for rule in &self.rules {
            let Some(link) = self.kernel.link(&rule.name) else { continue };
            let Some(device) = self.devices.get(&link.index) else { continue };
            let peers = oracle::peers(&rule.peers, &device.peers);
            let wanted = self.wanted(&rule.name, &peers);
            let mut held = device.table.clone();
            let pinned = |prefix: &Prefix| peers.iter().any(|peer| peer.pinned.contains(prefix));
            let ours = |p: &Prefix| pinned(p) || rule.managed.iter().any(|range| range.covers(p));
            held.retain(|prefix, _| ours(prefix));
            assert_eq!(held, wanted, "{} (left) is not what it should be (right)", rule.name);
        }
    }

    pub fn wanted(&self, name: &str, peers: &[Peer]) -> BTreeMap<Prefix, PublicKey> {
        let rule = self.rules.iter().find(|rule| rule.name == name).expect("configured");
        let link = self.kernel.link(name).expect("asked for links that exist");
        let vrf = link.master.and_then(|master| {
            self.kernel.dump_links().into_iter().find(|link| link.index == master)
        });
        let vrf = vrf.and_then(|vrf| match vrf.kind {
            LinkKind::Vrf { table } => Some(table),
            _ => None,
        });
        let tables = match rule.tables.is_empty() {
            true => vec![vrf.unwrap_or(TABLE_MAIN)],
            false => rule.tables.clone(),
        };
        oracle::owners(&self.kernel, link.index, &tables, &rule.managed, peers)
    }

    /// Work done incrementally equals work done from scratch.
    pub fn check_wants(&self) {
        for interface in self.engine.interfaces().filter(|i| i.is_ready()) {
            let net = self.engine.network();
            let mut prefixes: BTreeSet<Prefix> = interface.slots().iter().map(|(p, _)| p).collect();
            prefixes.extend(self.engine.rib().iter().map(|(prefix, _)| prefix));
            for prefix in prefixes {
                let (owner, outcome) = interface.judge(net, &prefix);
                let want = interface.slots().get(&prefix).and_then(|slot| slot.want());
                assert_eq!(want, owner, "{prefix} on {}", interface.rule().name);
                assert!(owner.is_none_or(|idx| interface.peers().get(idx).present));
                let reason = interface.unresolved().get(&prefix).copied();
                let pinned = interface.peers().pinned_at(&prefix);
                if interface.is_managed(&prefix) {
                    let named = |r: &Unresolved| pinned.is_some() && *r == Unresolved::NoGateway;
                    let expected = outcome.unresolved.filter(|reason| !named(reason));
                    assert_eq!(reason, expected, "why {prefix} is unresolved");
                }
                let lost = outcome.shadowed > 0
                    || pinned.is_some() && outcome.owner.is_some() && outcome.owner != owner;
                let listed = interface.shadowed().get(&prefix).is_some();
                assert_eq!(listed, lost, "whether {prefix} is shadowed");
                if let Some(idx) = pinned.filter(|idx| interface.peers().get(*idx).present) {
                    assert_eq!(want, Some(idx), "{prefix} is pinned");
                }
            }
        }
    }
}

type Key = (TableId, u32);

/// Groups by key and takes away the hops that an object stands for: they change without a word.
fn insert_sorted(into: &mut BTreeMap<(Prefix, Key), Vec<Path>>, prefix: Prefix, list: Vec<Path>) {
    for mut path in list {
        if path.nexthop != 0 {
            path.hops.clear();
        }
        into.entry((prefix, (path.table, path.metric))).or_default().push(path);
    }
}
