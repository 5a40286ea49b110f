//! Policies in the maps.
//!
//! Here lives how one replaces another: its rules are written into a free part of the array, then
//! the policy's word is turned to them, then the old part is free. Invariant: rules that a word
//! points to, or pointed to while a program still runs, are never written.

use std::{collections::BTreeMap, io};

use ebpf_xdp::layout::{MAX_RULES, Peer, Policy};

use super::{
    map::errno,
    regions::{Region, Regions},
    sys,
    tables::Tables,
};
use crate::core::filter::table::CompiledPolicy;

/// The policies that there are.
#[derive(Debug)]
pub(super) struct Policies {
    regions: Regions,
    /// Where the rules lie, by number.
    placed: BTreeMap<u16, Region>,
    /// What words no longer point to, but a running program may still read.
    retired: Vec<Region>,
    /// Policies of an earlier daemon that nobody has written anew.
    inherited: BTreeMap<u16, Region>,
}

impl Policies {
    /// Reads which parts of the rules are taken.
    pub(super) fn read(tables: &Tables) -> io::Result<Policies> {
        let mut policies = Policies {
            regions: Regions::new(tables.rules.entries()),
            placed: BTreeMap::new(),
            retired: Vec::new(),
            inherited: BTreeMap::new(),
        };
        tables.policies.scan(|id: u32, word: Policy| {
            let region = Region { first: word.first, count: u32::from(word.count) };
            if let Ok(id) = u16::try_from(id)
                && region.count > 0
                && policies.regions.reserve(region)
            {
                policies.inherited.insert(id, region);
            }
        })?;
        Ok(policies)
    }

    /// Puts a policy in the place of what had its number.
    pub(super) fn set(
        &mut self,
        tables: &Tables,
        id: u16,
        policy: &CompiledPolicy,
    ) -> Result<(), i32> {
        let count = u32::try_from(policy.rules.len()).unwrap_or(u32::MAX);
        if id == 0 || u32::from(id) >= tables.policies.entries() || count > MAX_RULES {
            return Err(libc::E2BIG);
        }
        let region = self.take(tables, count).ok_or(libc::ENOSPC)?;
        let places: Vec<u32> = (region.first..region.first + count).collect();
        let failed = tables.rules.set_all(&places, &policy.rules);
        let word = Policy {
            first: region.first,
            count: count as u16,
            accept: u8::from(policy.accept),
            stateful: u8::from(policy.stateful),
        };
        let written = match failed.first() {
            Some((_, errno)) => Err(*errno),
            None => tables.policies.set(&u32::from(id), &word).map_err(|error| errno(&error)),
        };
        if let Err(errno) = written {
            self.regions.give(region);
            return Err(errno);
        }
        self.retire(id);
        self.placed.insert(id, region);
        Ok(())
    }

    /// Removes a policy. Without its word everything is dropped, but nobody refers to it any more.
    pub(super) fn remove(&mut self, tables: &Tables, id: u16) -> Result<(), i32> {
        if u32::from(id) >= tables.policies.entries() {
            return Ok(());
        }
        let removed = tables.policies.set(&u32::from(id), &Policy::default());
        removed.map_err(|error| errno(&error))?;
        self.retire(id);
        Ok(())
    }

    fn retire(&mut self, id: u16) {
        self.retired.extend(self.placed.remove(&id));
        self.retired.extend(self.inherited.remove(&id));
    }

    fn take(&mut self, tables: &Tables, count: u32) -> Option<Region> {
        if let Some(region) = self.regions.take(count) {
            return Some(region);
        }
        self.reclaim();
        if let Some(region) = self.regions.take(count) {
            return Some(region);
        }
        self.drop_inherited(tables);
        self.reclaim();
        self.regions.take(count)
    }

    fn reclaim(&mut self) {
        if !self.retired.is_empty() {
            sys::wait_for_running_programs();
            for region in self.retired.drain(..) {
                self.regions.give(region);
            }
        }
    }

    /// Removes policies of an earlier daemon that no peer is subject to.
    fn drop_inherited(&mut self, tables: &Tables) {
        let mut named = BTreeMap::new();
        let scanned = tables.peers.scan(|id: u32, peer: Peer| {
            named.insert(peer.policy, id);
        });
        if scanned.is_err() {
            return;
        }
        let unused: Vec<u16> =
            self.inherited.keys().copied().filter(|id| !named.contains_key(id)).collect();
        for id in unused {
            // It stays, and stays taken, if the kernel does not do it.
            let _ = self.remove(tables, id);
        }
    }
}
