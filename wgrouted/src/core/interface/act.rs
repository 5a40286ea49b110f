//! Changing the device.
//!
//! Here lives the way from what is queued to what is installed: batches, their answers, and what is
//! tried again. Nothing here decides what shall be.

use std::{sync::Arc, time::Duration};

use super::{Busy, Interface, Retry, enqueue};
use crate::core::{
    change::Change,
    device::{DeviceError, Report},
    event::{Notice, Output, Request},
    prefix::Prefix,
    slot::Slot,
    time::Time,
};

/// Changes that one request may carry. The target splits them into messages; this bounds how long
/// an operator's question or a new route waits.
const BATCH: usize = 4096;

/// How long a failed dump waits to be tried again.
const DUMP_RETRY: Duration = Duration::from_secs(1);

/// Bounds of how long a refused change waits to be tried again; doubled each time.
const REFUSED_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl Interface {
    /// A batch was applied, or failed as a whole.
    pub fn on_applied(
        &mut self,
        token: u64,
        result: Result<Report, DeviceError>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let Some(Busy::Apply(changes)) = self.busy.take_if(|_| token == self.token) else { return };
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                for change in changes.iter() {
                    if let Some(retry) = self.retries.get_mut(&change.prefix) {
                        retry.at = now + retry.wait;
                    }
                }
                self.land(&changes, now);
                self.in_doubt = Some(changes);
                return self.on_failure(error, now, out);
            }
        };
        self.counters.batches += 1;
        self.counters.messages += u64::from(report.messages);
        self.counters.longest_message = self.counters.longest_message.max(report.longest_message);
        let mut failed = report.failed.iter().peekable();
        for (at, change) in changes.iter().enumerate() {
            if let Some((_, errno)) = failed.next_if(|(position, _)| *position == at) {
                self.refuse(change, *errno, now, out);
                continue;
            }
            if !self.retries.is_empty() {
                self.retries.remove(&change.prefix);
            }
            let count = match (change.old, change.new) {
                (None, Some(_)) => &mut self.counters.adds,
                (Some(_), Some(_)) => &mut self.counters.moves,
                _ => &mut self.counters.removes,
            };
            *count += 1;
            self.installed += usize::from(change.new.is_some());
            self.installed -= usize::from(change.old.is_some());
            if let Some(slot) = self.slots.get_mut(&change.prefix) {
                slot.set_have(change.new);
            }
            self.note_moved(change.prefix);
        }
        self.land(&changes, now);
    }

    /// The changes are no longer on their way; what still differs is queued again. What is ours no
    /// more, since the configuration changed meanwhile, stays as it has become.
    fn land(&mut self, changes: &[Change], now: Time) {
        let due = now + self.rule.delete_hold;
        let mut queue = std::mem::take(&mut self.queue);
        let mut slots = std::mem::take(&mut self.slots);
        let managed = self.managed();
        for change in changes {
            let prefix = change.prefix;
            let is_ours = managed.contains(&prefix) || self.peers.pinned_at(&prefix).is_some();
            slots.alter(&prefix, |slot| {
                let mut slot = slot?;
                slot.set_in_flight(false);
                if !is_ours {
                    slot.set_want(slot.have());
                }
                if !self.retries.contains_key(&prefix) {
                    enqueue(&mut queue, &mut slot, prefix, due);
                }
                (!slot.is_void()).then_some(slot)
            });
        }
        (self.queue, self.slots) = (queue, slots);
    }

    fn refuse(&mut self, change: &Change, errno: i32, now: Time, out: &mut Vec<Output>) {
        self.counters.refused += 1;
        let wait = self
            .retries
            .get(&change.prefix)
            .map_or(REFUSED_RETRY.0, |retry| (retry.wait * 2).min(REFUSED_RETRY.1));
        self.retries.insert(change.prefix, Retry { at: now + wait, wait });
        out.push(Output::Notice(Notice::Refused {
            interface: self.rule.name.clone(),
            prefix: change.prefix,
            peer: change.new,
            errno,
        }));
    }

    /// What the device holds is in doubt: look at it again, after a while.
    pub(super) fn on_failure(&mut self, error: DeviceError, now: Time, out: &mut Vec<Output>) {
        self.next_dump = Some(now + DUMP_RETRY);
        if !error.gone {
            out.push(Output::Notice(Notice::DeviceFailed {
                interface: self.rule.name.clone(),
                error,
            }));
        }
    }

    /// Emits the next request, if it is time for one.
    pub fn poll(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some(ifindex) = self.ifindex else { return };
        if self.busy.is_some() {
            return;
        }
        if self.next_dump.is_some_and(|at| at <= now) {
            self.next_dump = None;
            self.busy = Some(Busy::Dump);
            self.token += 1;
            let (interface, token) = (self.id, self.token);
            out.push(Output::Request(Request::Dump { interface, token, ifindex }));
            return;
        }
        if !self.may_apply() {
            return;
        }
        self.requeue_refused(now);
        if now >= self.next_round && self.queue.is_ripe(now) {
            let changes = self.next_batch(now);
            if !changes.is_empty() {
                let changes = Arc::new(changes);
                self.token += 1;
                self.busy = Some(Busy::Apply(Arc::clone(&changes)));
                out.push(Output::Request(Request::Apply {
                    interface: self.id,
                    token: self.token,
                    ifindex,
                    message_size: self.rule.message_size,
                    peers: self.peers.keys(),
                    changes,
                }));
                return;
            }
        }
        if !self.announced && self.is_in_sync() {
            self.announced = true;
            out.push(Output::Notice(Notice::InSync {
                interface: self.rule.name.clone(),
                allowed_ips: self.installed,
            }));
        }
    }

    /// Nothing is changed before all is known, and after a failure not before the next look.
    fn may_apply(&self) -> bool {
        self.known && self.routes_ready && self.in_doubt.is_none()
    }

    /// Sets, longest prefix first; once no set waits, removals, shortest first.
    fn next_batch(&mut self, now: Time) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.pending().min(BATCH));
        while changes.len() < BATCH {
            let Some(prefix) = self.queue.pop_set() else { break };
            if let Some(slot) = self.slots.get_mut(&prefix) {
                slot.set_queued(false);
                take_change(prefix, slot, slot.want().is_some(), &mut changes);
            }
        }
        while changes.len() < BATCH {
            let Some(prefix) = self.queue.pop_unset(now) else { break };
            if let Some(slot) = self.slots.get_mut(&prefix) {
                take_change(prefix, slot, slot.want().is_none(), &mut changes);
            }
        }
        // A round that left nothing behind: the next one may wait a little for company.
        if self.queue.sets() == 0 {
            self.next_round = now + self.rule.coalesce;
        }
        changes
    }

    fn requeue_refused(&mut self, now: Time) {
        if self.retries.values().all(|retry| retry.at > now) {
            return;
        }
        let due: Vec<Prefix> = self
            .retries
            .iter()
            .filter(|(_, retry)| retry.at <= now)
            .map(|(prefix, _)| *prefix)
            .collect();
        for prefix in due {
            // Not asked for again before it is refused again; kept so that the wait can grow.
            if let Some(retry) = self.retries.get_mut(&prefix) {
                retry.at = now + REFUSED_RETRY.1 * 2;
            }
            let queue = &mut self.queue;
            self.slots.alter(&prefix, |slot| {
                let mut slot = slot?;
                slot.set_queued(false);
                enqueue(queue, &mut slot, prefix, now);
                Some(slot)
            });
            if self.slots.get(&prefix).is_none_or(|slot| slot.want() == slot.have()) {
                self.retries.remove(&prefix);
            }
        }
    }

    /// When [`Interface::poll`] has something to do next, if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        if self.ifindex.is_none() || self.busy.is_some() {
            return None;
        }
        let work = self.queue.deadline().map(|at| at.max(self.next_round));
        let retry = self.retries.values().map(|retry| retry.at).min();
        let apply = work.into_iter().chain(retry).filter(|_| self.may_apply());
        self.next_dump.into_iter().chain(apply).min()
    }
}

/// Sends a prefix on its way, if its change is still of the kind that it was queued for.
fn take_change(prefix: Prefix, slot: &mut Slot, same_kind: bool, changes: &mut Vec<Change>) {
    if same_kind && !slot.is_in_flight() && slot.want() != slot.have() {
        slot.set_in_flight(true);
        changes.push(Change { prefix, old: slot.have(), new: slot.want() });
    }
}
