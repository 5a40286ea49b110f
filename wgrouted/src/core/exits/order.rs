//! From the rules that the kernel has to those that it should have.
//!
//! Here lives [`rule_steps`]. Laws (`tests/props/exits.rs`): after any number of steps each packet
//! meets the rule that decided before or the one that shall decide, never a third; at the end the
//! wanted rules stand in the wanted order; what is in both stays untouched, and nobody else's rule is
//! named.
//!
//! Why the order of steps does it: rules are added first, those that come first first. Then the first
//! rule that matches a packet is an old one, and all old ones are there, so it is the old decision; or
//! it is an added one, before which all wanted ones are there, so it is the new decision. Then old
//! rules go, those that come last first: likewise.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::RangeInclusive,
};

use super::iprule::{Action, IpRule, Selector};
use crate::core::{prefix::Family, reach::route::PROTOCOL};

/// What a rule says, wherever it stands.
pub type Clause = (Selector, Action);

/// What to add, and then what to remove, each in the order in which it is to be done; `None` if there
/// is no room in the range. `have` are our rules of the family, in the kernel's order.
pub fn rule_steps(
    family: Family,
    wanted: &[Clause],
    have: &[IpRule],
    room: &RangeInclusive<u32>,
) -> Option<(Vec<IpRule>, Vec<IpRule>)> {
    let kept = kept(wanted, have, room);
    let taken: BTreeSet<u32> = have.iter().map(|rule| rule.priority).collect();
    let places = places(wanted.len(), &kept, &taken, room)?;
    let rule = |(clause, priority): (&Clause, &u32)| IpRule {
        family,
        priority: *priority,
        selector: clause.0.clone(),
        action: clause.1,
        protocol: PROTOCOL,
    };
    let rules: Vec<IpRule> = wanted.iter().zip(&places).map(rule).collect();
    let standing: BTreeSet<&IpRule> = have.iter().collect();
    let staying: BTreeSet<&IpRule> = rules.iter().collect();
    let added = rules.iter().filter(|rule| !standing.contains(rule)).cloned().collect();
    let removed = have.iter().rev().filter(|rule| !staying.contains(rule)).cloned().collect();
    Some((added, removed))
}

/// For positions in `wanted`: the priority of a rule that says the same and can stay. As many as
/// possible, in rising order.
fn kept(wanted: &[Clause], have: &[IpRule], room: &RangeInclusive<u32>) -> BTreeMap<usize, u32> {
    let mut by_clause: HashMap<(&Selector, Action), Vec<u32>> = HashMap::new();
    for rule in have.iter().filter(|rule| room.contains(&rule.priority)) {
        by_clause.entry((&rule.selector, rule.action)).or_default().push(rule.priority);
    }
    // The longest rising sequence: for each length, the position that ends it lowest.
    let mut ends: Vec<(usize, u32)> = Vec::new();
    let mut before: Vec<Option<(usize, u32)>> = vec![None; wanted.len()];
    let mut place: Vec<Option<u32>> = vec![None; wanted.len()];
    for (position, (selector, action)) in wanted.iter().enumerate() {
        // Of rules that say the same the first one counts.
        let Some(&priority) = by_clause.get(&(selector, *action)).and_then(|all| all.first())
        else {
            continue;
        };
        let length = ends.partition_point(|(_, end)| *end < priority);
        before[position] = length.checked_sub(1).map(|last| ends[last]);
        place[position] = Some(priority);
        match ends.get_mut(length) {
            Some(end) => *end = (position, priority),
            None => ends.push((position, priority)),
        }
    }
    let mut kept = BTreeMap::new();
    let mut next = ends.last().copied();
    while let Some((position, _)) = next {
        kept.extend(place[position].map(|priority| (position, priority)));
        next = before[position];
    }
    kept
}

/// A priority for each position: that of what is kept, and in between evenly spread ones that nobody
/// has. Where there is too little room, neighbours move too.
fn places(
    count: usize,
    kept: &BTreeMap<usize, u32>,
    taken: &BTreeSet<u32>,
    room: &RangeInclusive<u32>,
) -> Option<Vec<u32>> {
    let mut places: Vec<Option<u32>> = (0..count).map(|at| kept.get(&at).copied()).collect();
    let mut at = 0;
    while at < count {
        if places[at].is_some() {
            at += 1;
            continue;
        }
        // The run of positions without a place, [at, end), widened until it fits.
        let (mut from, mut end) = (at, at);
        while end < count && places[end].is_none() {
            end += 1;
        }
        let free = loop {
            let low = if from == 0 { *room.start() } else { places[from - 1]? + 1 };
            let high = match places.get(end) {
                Some(place) => (*place)?.checked_sub(1)?,
                None => *room.end(),
            };
            let free = free(low, high, taken, end - from);
            if let Some(free) = free {
                break free;
            }
            if from == 0 && end == count {
                return None;
            }
            from = from.saturating_sub(1);
            end = (end + 1).min(count);
            // What follows has its place already, or is part of the run.
            while end < count && places[end].is_none() {
                end += 1;
            }
        };
        for (place, priority) in places[from..end].iter_mut().zip(free) {
            *place = Some(priority);
        }
        at = end;
    }
    places.into_iter().collect()
}

/// So many free numbers, evenly spread over a range.
fn free(low: u32, high: u32, taken: &BTreeSet<u32>, count: usize) -> Option<Vec<u32>> {
    if low > high {
        return None;
    }
    let width = u64::from(high - low) + 1;
    let available = width - taken.range(low..=high).count() as u64;
    let count = count as u64;
    if available < count {
        return None;
    }
    let mut numbers = Vec::with_capacity(count as usize);
    let (mut next, mut left) = (u64::from(low), available);
    for position in 0..count {
        // The ideal place, unless so little is left that every free number is needed.
        let ideal = u64::from(low) + (position + 1) * width / (count + 1);
        let needed = count - position;
        while left > needed && next < ideal || taken.contains(&(next as u32)) {
            left -= u64::from(!taken.contains(&(next as u32)));
            next += 1;
        }
        numbers.push(next as u32);
        (next, left) = (next + 1, left - 1);
    }
    Some(numbers)
}
