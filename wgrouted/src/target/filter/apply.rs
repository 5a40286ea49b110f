//! Changes, made in the maps.
//!
//! Here lives the way from a [`FilterChange`] to elements. Invariant: changes happen in their
//! order, but that those of the two families' sources, which no packet sees together, are made in
//! batches; and one that fails costs only itself.

use std::collections::BTreeMap;

use ebpf_xdp::layout::{Counter, Plain, SLOTS, SetMember};

use super::{
    map::{Failed, Map, errno},
    policies::Policies,
    tables::{Tables, Who, key4, key6},
};
use crate::core::filter::table::{FilterChange, FilterReport, Identity, SourceKey};

/// What the daemon knows of the maps beside what is in them.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) policies: Policies,
    /// Who the peers are; `None`: the number was somebody's, and its counters are not zero.
    identities: BTreeMap<u32, Option<Identity>>,
    /// Whether numbers that are not in `identities` have counters of zero.
    fresh: bool,
}

impl Writer {
    pub(super) fn new(tables: &Tables, fresh: bool) -> std::io::Result<Writer> {
        let identities = tables.identities()?;
        let identities = identities.into_iter().map(|(id, one)| (id, Some(one))).collect();
        Ok(Writer { policies: Policies::read(tables)?, identities, fresh })
    }

    /// Makes the changes.
    pub(super) fn apply(&mut self, tables: &Tables, changes: &[FilterChange]) -> FilterReport {
        let mut failed = Vec::new();
        let mut at = 0;
        while at < changes.len() {
            let rest = &changes[at..];
            let sources = rest
                .iter()
                .take_while(|change| matches!(change, FilterChange::Source { .. }))
                .count();
            if sources > 0 {
                let run = &rest[..sources];
                let found = failed.len();
                write_sources(&tables.sources_v4, run, key4, &mut failed);
                write_sources(&tables.sources_v6, run, key6, &mut failed);
                for (position, _) in &mut failed[found..] {
                    *position += at;
                }
                at += sources;
                continue;
            }
            if let Err(errno) = self.apply_one(tables, &rest[0]) {
                failed.push((at, errno));
            }
            at += 1;
        }
        failed.sort_unstable();
        FilterReport { failed }
    }

    fn apply_one(&mut self, tables: &Tables, change: &FilterChange) -> Result<(), i32> {
        let done = match change {
            FilterChange::Source { .. } => Ok(()),
            FilterChange::Member { set, peer, present } => {
                let member = SetMember { set: *set, peer: *peer };
                if *present {
                    tables.owner_sets.set(&member, &0_u8)
                } else {
                    tables.owner_sets.delete(&member)
                }
            }
            FilterChange::Peer { id, identity, word } => {
                return self.set_peer(tables, *id, *identity, word);
            }
            // The kernel reuses an element that is replaced at once, while a program on another CPU may
            // still look at it: what says the same is left alone.
            FilterChange::Link { ifindex, word: Some(word) }
                if tables.links.says(ifindex, word) =>
            {
                Ok(())
            }
            FilterChange::Link { ifindex, word: Some(word) } => tables.links.set(ifindex, word),
            FilterChange::Link { ifindex, word: None } => tables.links.delete(ifindex),
            FilterChange::Tunnel { key, word } => {
                let key = key.to_layout();
                match word {
                    Some(word) if tables.tunnels.says(&key, word) => Ok(()),
                    Some(word) => tables.tunnels.set(&key, word),
                    None => tables.tunnels.delete(&key),
                }
            }
            FilterChange::Policy { id, policy: Some(policy) } => {
                return self.policies.set(tables, *id, policy);
            }
            FilterChange::Policy { id, policy: None } => return self.policies.remove(tables, *id),
        };
        done.map_err(|error| errno(&error))
    }

    fn set_peer(
        &mut self,
        tables: &Tables,
        id: u32,
        identity: Option<Identity>,
        word: &ebpf_xdp::layout::Peer,
    ) -> Result<(), i32> {
        if id == 0 || id >= tables.peers.entries() {
            return Err(libc::E2BIG);
        }
        let failed = |error| errno(&error);
        let known = self.identities.get(&id).copied();
        let same = known.flatten() == identity;
        if same {
            return tables.peers.set(&id, word).map_err(failed);
        }
        if identity.is_none() {
            tables.peers.set(&id, word).map_err(failed)?;
            tables.identities.set(&id, &Who::default()).map_err(failed)?;
            self.identities.insert(id, None);
            return Ok(());
        }
        // The number is nobody's until its counters are.
        if known.is_some() || !self.fresh {
            tables.identities.set(&id, &Who::default()).map_err(failed)?;
            self.identities.insert(id, None);
            forget(tables, id).map_err(failed)?;
        }
        tables.identities.set(&id, &Who::from(identity)).map_err(failed)?;
        self.identities.insert(id, identity);
        tables.peers.set(&id, word).map_err(failed)
    }
}

/// Sets what was counted of a peer to zero.
fn forget(tables: &Tables, id: u32) -> std::io::Result<()> {
    for slot in 0..SLOTS {
        tables.counters.set_each(&(id * SLOTS + slot), Counter::default())?;
    }
    tables.last_seen.set(&id, &0_u64)
}

/// Makes the changes of one family's sources, in runs of entries to set and to remove.
fn write_sources<K: Plain>(
    map: &Map,
    changes: &[FilterChange],
    key: impl Fn(&SourceKey) -> Option<K>,
    failed: &mut Vec<Failed>,
) {
    let mut mine = Vec::new();
    for (position, change) in changes.iter().enumerate() {
        if let FilterChange::Source { key: source, value } = change
            && let Some(key) = key(source)
        {
            mine.push((position, key, *value));
        }
    }
    for run in mine.chunk_by(|one, next| one.2.is_some() == next.2.is_some()) {
        let keys: Vec<K> = run.iter().map(|(_, key, _)| *key).collect();
        let values: Vec<u32> = run.iter().filter_map(|(_, _, value)| *value).collect();
        let lost =
            if values.is_empty() { map.delete_all(&keys) } else { map.set_all(&keys, &values) };
        failed.extend(lost.into_iter().map(|(at, errno)| (run[at].0, errno)));
    }
}
