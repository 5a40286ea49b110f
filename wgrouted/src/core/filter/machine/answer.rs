//! What the target answers.
//!
//! Here lives what follows from maps that were opened, changed or read, and from programs that were
//! attached. Nothing here decides what shall be, nor what comes next.

use std::time::Duration;

use super::{Busy, Filter, State};
use crate::core::{
    event::{Notice, Output},
    filter::{
        sources::Sources,
        table::{Contents, FilterChange, FilterError, FilterEvent, FilterReport, LinkState},
    },
    rule::Audit,
    time::Time,
};

/// How often it is checked that the programs are still attached.
const CHECK: Duration = Duration::from_secs(1);
/// How long a failed request waits to be tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Audits take at most one part in this many of the time (`Audit::Auto`).
const AUDIT_SHARE: u32 = 100;
/// Bounds of the automatic audit interval.
const AUDIT_INTERVAL: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1800));

impl Filter {
    /// The target answered.
    pub fn on_event(&mut self, event: FilterEvent, now: Time, out: &mut Vec<Output>) {
        match event {
            FilterEvent::Opened { token, result } => {
                if self.answers(token, |busy| matches!(busy, Busy::Open)).is_some() {
                    self.on_opened(result, now, out);
                }
            }
            FilterEvent::Applied { token, result } => {
                let is_apply = |busy: &Busy| matches!(busy, Busy::Apply(_));
                if let Some(Busy::Apply(changes)) = self.answers(token, is_apply) {
                    self.on_applied(&changes, result, now, out);
                }
            }
            FilterEvent::Attached { token, links } => {
                if self.answers(token, |busy| matches!(busy, Busy::Attach)).is_some() {
                    self.on_attached(links, now, out);
                }
            }
            FilterEvent::Dumped { token, cost, result } => {
                if self.answers(token, |busy| matches!(busy, Busy::Dump)).is_some() {
                    self.on_dumped(cost, result, now, out);
                }
            }
            FilterEvent::Removed { token, result } => {
                if self.answers(token, |busy| matches!(busy, Busy::Remove)).is_some() {
                    self.state = State::Removed;
                    self.attached.clear();
                    if let Err(error) = result {
                        out.push(Output::Notice(Notice::FilterFailed { error }));
                    }
                }
            }
            // Those are the engine's.
            FilterEvent::Configure(_) => {}
        }
    }

    fn answers(&mut self, token: u64, is_kind: impl Fn(&Busy) -> bool) -> Option<Busy> {
        self.busy.take_if(|busy| token == self.token && is_kind(busy))
    }

    fn on_opened(
        &mut self,
        result: Result<Contents, FilterError>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        match result {
            Ok(contents) => {
                let adopted = contents.sources.len();
                self.state = State::Open;
                self.in_doubt = false;
                self.filled = false;
                self.seen = None;
                self.legal.adopt(&contents.peers);
                self.sets.adopt(&contents.members);
                self.sources = Sources::default();
                self.take_in(&contents, now);
                self.next_dump = None;
                if !contents.links.is_empty() {
                    out.push(Output::Notice(Notice::FilterAdopted {
                        links: contents.links.len(),
                        sources: adopted,
                    }));
                }
            }
            Err(error) => {
                let known = self.error() == Some(&error);
                if !known {
                    out.push(Output::Notice(Notice::FilterFailed { error: error.clone() }));
                }
                self.state = State::Closed(now + RETRY, Some(error));
            }
        }
    }

    fn take_in(&mut self, contents: &Contents, now: Time) -> usize {
        self.members.found(contents.members.iter().copied());
        self.peers.found(contents.peers.iter().map(|(id, _)| *id));
        self.links.found(contents.links.iter().copied());
        self.tunnels.found(contents.tunnels.iter().copied());
        self.policies.found([]);
        self.sources.found(&contents.sources, now)
    }

    fn on_applied(
        &mut self,
        changes: &[FilterChange],
        result: Result<FilterReport, FilterError>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                self.in_doubt = true;
                self.next_dump = Some(now + RETRY);
                return out.push(Output::Notice(Notice::FilterFailed { error }));
            }
        };
        let mut failed = report.failed.iter().peekable();
        for (at, change) in changes.iter().enumerate() {
            let error = failed.next_if(|(position, _)| *position == at).map(|(_, errno)| *errno);
            match error {
                None => self.counters.changes += 1,
                Some(_) => self.counters.refused += 1,
            }
            match change {
                FilterChange::Source { key, value } => {
                    self.sources.acknowledge(*key, *value, error, now);
                    continue;
                }
                _ if error.is_some() => {
                    // There are few of those; the maps are read and all is compared.
                    self.in_doubt = true;
                    self.next_dump = Some(now + RETRY);
                }
                FilterChange::Member { set, peer, present } => {
                    self.members.acknowledge((*set, *peer), present.then_some(()));
                }
                FilterChange::Peer { id, identity, word } => {
                    self.peers.acknowledge(*id, identity.map(|identity| (identity, *word)));
                }
                FilterChange::Link { ifindex, word } => self.links.acknowledge(*ifindex, *word),
                FilterChange::Tunnel { key, word } => self.tunnels.acknowledge(*key, *word),
                FilterChange::Policy { id, policy } => {
                    self.policies.acknowledge(*id, policy.clone());
                }
            }
        }
        let (refused, example) = self.sources.refused();
        if let Some((key, errno)) = example.filter(|_| !self.told_refused) {
            self.told_refused = true;
            out.push(Output::Notice(Notice::FilterRefused {
                entries: refused,
                example: key.prefix,
                errno,
            }));
        }
        self.told_refused &= refused > 0;
    }

    fn on_attached(&mut self, links: Vec<LinkState>, now: Time, out: &mut Vec<Output>) {
        self.next_attach = self.next_attach.or(Some(now + CHECK));
        for state in links {
            let before = self.attached.insert(state.ifindex, state.clone());
            let Some(link) = self.legal.roster().link(state.ifindex) else { continue };
            let interface = link.name.clone();
            if state.reattached {
                self.counters.reattached += 1;
                let interface = interface.clone();
                out.push(Output::Notice(Notice::FilterReattached { interface }));
            }
            if before.is_none_or(|before| before.hook != state.hook) {
                out.push(Output::Notice(match state.hook {
                    Ok(hook) => Notice::FilterInForce { interface, hook },
                    Err(error) => Notice::FilterNotInForce { interface, error },
                }));
            }
        }
    }

    fn on_dumped(
        &mut self,
        cost: Duration,
        result: Result<Contents, FilterError>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        match result {
            Ok(contents) => {
                self.counters.dumps += 1;
                let in_doubt = std::mem::take(&mut self.in_doubt);
                let sources = self.take_in(&contents, now);
                if sources > 0 && !in_doubt {
                    self.counters.drift += sources as u64;
                    out.push(Output::Notice(Notice::FilterDrift { entries: sources }));
                }
                // A look that was asked for while this one was under way is still to come.
                let next = self.next_audit(cost, now);
                self.next_dump = self.next_dump.into_iter().chain(next).min();
            }
            Err(error) => {
                self.next_dump = Some(now + RETRY);
                out.push(Output::Notice(Notice::FilterFailed { error }));
            }
        }
    }

    pub(super) fn next_audit(&self, cost: Duration, now: Time) -> Option<Time> {
        match self.rule.audit {
            Audit::Auto => {
                Some(now + (cost * AUDIT_SHARE).clamp(AUDIT_INTERVAL.0, AUDIT_INTERVAL.1))
            }
            Audit::Every(interval) => Some(now + interval),
            Audit::Off => None,
        }
    }
}
