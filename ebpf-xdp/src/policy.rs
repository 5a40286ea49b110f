//! May the peer say this?
//!
//! Known flows first, then rules in order, then the default. Later fragments have no ports: they
//! pass if the first fragment of their packet did, within [`flow::FRAGMENT_TIMEOUT`]. One that
//! overtakes its first fragment is dropped; WireGuard delivers a peer's packets in order, so what
//! is lost is what other paths had reordered before, and only under a policy.

use crate::flow;
use crate::layout::{Event, Flow, MAX_RULES, Reason};
use crate::packet::{Packet, Step};
use crate::parse::{self, Extent, FIRST, Headers, LATER};
use crate::tables::{Tables, Work};

/// What a policy said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Why.
    pub reason: Reason,
    /// Index of the rule within the policy plus one; 0: no rule.
    pub rule: u32,
}

impl Answer {
    const fn new(reason: Reason) -> Answer {
        Answer { reason, rule: 0 }
    }
}

/// What the policy `id` says about a packet that a peer sent.
#[inline(never)]
pub fn check<P: Packet, T: Tables>(packet: &P, work: &mut Work, id: u32, tables: &mut T) -> Answer {
    // A policy that is not there drops: it is the safe side of a fault.
    let policy = tables.policy(id).unwrap_or_default();
    let now = tables.now();
    if work.headers.fragment == LATER {
        flow::fragment_key(&work.headers, &mut work.fragment);
        let passed = tables.fragment(&work.fragment);
        let fresh = matches!(passed, Some(at) if now.saturating_sub(at) <= flow::FRAGMENT_TIMEOUT);
        return Answer::new(if fresh { Reason::Flow } else { Reason::Fragment });
    }
    if policy.stateful != 0
        && let Some(reason) = known(packet, work, now, tables)
    {
        return Answer::new(reason);
    }
    let count = u32::from(policy.count).min(MAX_RULES);
    let headers = &work.headers;
    let mut search = Search { tables: &*tables, headers, first: policy.first, place: 0, accept: 0 };
    packet.repeat(count, &mut search);
    if search.place != 0 {
        let reason = if search.accept == 1 { Reason::Accept } else { Reason::Rule };
        return Answer { reason, rule: search.place };
    }
    Answer::new(if policy.accept == 1 { Reason::AcceptDefault } else { Reason::Default })
}

/// The search for the first rule that matches.
struct Search<'a, T> {
    tables: &'a T,
    headers: &'a Headers,
    first: u32,
    place: u32,
    accept: u32,
}

impl<T: Tables> Step for Search<'_, T> {
    #[inline(always)]
    fn step(&mut self, index: u32) -> bool {
        match self.tables.rule(self.first.wrapping_add(index)) {
            Some(rule) if rule.matches(self.headers) => {
                self.place = index.wrapping_add(1);
                self.accept = u32::from(rule.accept);
                true
            }
            Some(_) => false,
            // Not there: what follows is not either, and the default is the safe side.
            None => true,
        }
    }
}

/// Whether the packet belongs to a flow or to an error about one.
#[inline(never)]
fn known<P: Packet, T: Tables>(
    packet: &P,
    work: &mut Work,
    now: u64,
    tables: &mut T,
) -> Option<Reason> {
    let Work { headers, quoted, flow: key, .. } = work;
    if let Some(direction) = flow::key(headers, key) {
        let flow = tables.flow(key)?;
        if flow::is_expired(headers.protocol, flow, now) {
            tables.event(Event::FlowExpired);
            return None;
        }
        if flow::reopens(headers, flow) {
            return None;
        }
        if T::WRITE {
            flow::touch(flow, headers, direction, now);
        }
        return Some(Reason::Flow);
    }
    if !parse::is_icmp_error(headers) {
        return None;
    }
    parse::ip(packet, headers.transport.wrapping_add(8), Extent::Quoted, quoted).ok()?;
    // The error must go to the one who sent the quoted packet.
    if quoted.family != headers.family || quoted.src != headers.dst {
        return None;
    }
    quoted.zone = headers.zone;
    flow::key(quoted, key)?;
    let flow = tables.flow(key)?;
    if flow::is_expired(quoted.protocol, flow, now) { None } else { Some(Reason::Related) }
}

/// Opens the flow of a packet that passed, unless it is open.
#[inline(never)]
pub fn open<T: Tables>(work: &mut Work, peer: u32, tables: &mut T) {
    let now = tables.now();
    let Work { headers, flow: key, .. } = work;
    let Some(direction) = flow::key(headers, key) else { return };
    match tables.flow(key) {
        Some(flow)
            if !flow::is_expired(headers.protocol, flow, now) && !flow::reopens(headers, flow) =>
        {
            flow::touch(flow, headers, direction, now);
        }
        _ => {
            let state = flow::state(headers, direction, 0);
            let stored = tables.put_flow(key, &Flow { seen: now, peer, state });
            tables.event(if stored { Event::FlowOpened } else { Event::FlowFailed });
        }
    }
}

/// Remembers the first fragment of a packet that passed.
#[inline(never)]
pub fn remember<T: Tables>(work: &mut Work, tables: &mut T) {
    if work.headers.fragment == FIRST {
        flow::fragment_key(&work.headers, &mut work.fragment);
        tables.put_fragment(&work.fragment, tables.now());
        tables.event(Event::FragmentOpened);
    }
}
