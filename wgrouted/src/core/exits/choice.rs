//! Which links of an exit are used.
//!
//! Here lives [`Choice`], the memory of one exit: who is used, and since when the others could be.
//! Invariants: a link that cannot be used never is; if any can be used, one is; what is not known
//! changes nothing that works; a better link is not gone back to before it has been usable for
//! `back_after`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::rule::ExitRule;
use crate::core::time::Time;

/// What is known of a link and its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Packets can be sent, and the peer answers.
    Good,
    /// Packets can be sent; of the peer nothing is known.
    Unknown,
    /// There is no such link, it is down, or its peer is.
    Bad,
}

/// The memory of an exit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Positions in `via` that are used.
    used: BTreeSet<usize>,
    /// For each position: since when it could be used.
    usable_since: Vec<Option<Time>>,
    /// For each position: whether it must prove itself for `back_after`, since it was found unusable,
    /// or was not used when an earlier daemon's choice was taken over.
    fell: Vec<bool>,
    /// An earlier daemon's choice was taken over.
    adopted: bool,
}

impl Choice {
    /// The memory of an exit whose links in use are known from the kernel: an earlier daemon's.
    pub fn adopted(used: BTreeSet<usize>) -> Choice {
        Choice { adopted: !used.is_empty(), used, ..Choice::default() }
    }

    /// The positions that are used.
    pub fn used(&self) -> &BTreeSet<usize> {
        &self.used
    }

    /// Decides anew. Returns when to ask again though nothing happens.
    pub fn decide(&mut self, rule: &ExitRule, health: &[Health], now: Time) -> Option<Time> {
        self.usable_since.resize(health.len(), None);
        self.fell.resize(health.len(), self.adopted);
        self.used.retain(|position| *position < health.len());
        for (position, health) in health.iter().enumerate() {
            if *health == Health::Bad {
                self.usable_since[position] = None;
                self.fell[position] = true;
                self.used.remove(&position);
            } else {
                self.usable_since[position].get_or_insert(now);
            }
        }
        if rule.weighted { self.all(rule, health, now) } else { self.first(rule, health, now) }
    }

    /// When a link has proved itself; `None` if it is not usable.
    fn proved(&self, rule: &ExitRule, position: usize) -> Option<Time> {
        let since = self.usable_since[position]?;
        Some(if self.fell[position] { since + rule.back_after } else { since })
    }

    /// All that have proved themselves, and if none has, all that can be used.
    fn all(&mut self, rule: &ExitRule, health: &[Health], now: Time) -> Option<Time> {
        let mut again = None;
        for position in 0..health.len() {
            match self.proved(rule, position) {
                Some(at) if at <= now => {
                    self.used.insert(position);
                }
                Some(at) => again = sooner(again, at),
                None => {}
            }
        }
        if self.used.is_empty() {
            let known: BTreeSet<usize> = positions(health, Health::Good).collect();
            let unknown = positions(health, Health::Unknown);
            self.used = if known.is_empty() { unknown.collect() } else { known };
        }
        again
    }

    /// The one in use, until a better one has proved itself.
    fn first(&mut self, rule: &ExitRule, health: &[Health], now: Time) -> Option<Time> {
        let current = self.used.first().copied();
        let mut again = None;
        let works = current.is_some_and(|current| health[current] == Health::Good);
        let better = 0..current.unwrap_or(health.len());
        let proved = better.filter(|position| {
            match self.proved(rule, *position) {
                // What nobody has heard of does not displace what works.
                Some(_) if works && health[*position] == Health::Unknown => false,
                Some(at) if at <= now => true,
                Some(at) => {
                    again = sooner(again, at);
                    false
                }
                None => false,
            }
        });
        let proved = proved.min();
        // Without one in use, an answering peer is better than an unknown one that comes first.
        let chosen = proved
            .filter(|position| current.is_some() || health[*position] == Health::Good)
            .or(current)
            .or_else(|| positions(health, Health::Good).next())
            .or_else(|| positions(health, Health::Unknown).next());
        self.used = chosen.into_iter().collect();
        // Only the links before the chosen one may still displace it.
        chosen.filter(|chosen| *chosen > 0).and(again)
    }
}

fn positions(health: &[Health], which: Health) -> impl Iterator<Item = usize> {
    health.iter().enumerate().filter(move |(_, health)| **health == which).map(|(at, _)| at)
}

fn sooner(a: Option<Time>, b: Time) -> Option<Time> {
    Some(a.map_or(b, |a| a.min(b)))
}
