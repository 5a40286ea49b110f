//! The packet filter's place in the engine.
//!
//! Here lives what brings the filter and the interfaces together: the filter sees each change of
//! routes, peers and AllowedIPs, and says which links may be open. Nothing here decides what is legal.

use super::Engine;
use crate::core::{
    event::{InterfaceId, Notice, Output},
    filter::{Filter, View, rule::FilterRule},
    interface::{Gate, Interface, Network},
    prefix::Prefix,
    route::IfIndex,
    time::Time,
};

impl Engine {
    /// The operator wants this filter, or none.
    pub(super) fn configure_filter(&mut self, rule: Option<FilterRule>, now: Time) {
        match (rule, &mut self.filter) {
            (Some(rule), Some(filter)) if *filter.rule() == rule => {}
            (Some(rule), Some(filter)) => filter.configure(rule, now),
            (Some(rule), None) => {
                // Whatever the old one left or has not yet left is taken over.
                self.retired = None;
                self.filter = Some(Filter::new(rule));
            }
            (None, filter) => {
                if let Some(mut filter) = filter.take() {
                    filter.retire();
                    self.retired = Some(filter);
                }
            }
        }
    }

    /// A prefix's routes changed, which lead or led out of these interfaces.
    pub(super) fn update_filter(&mut self, concerned: &[InterfaceId], prefix: Prefix) {
        if let Some(filter) = &mut self.filter {
            filter.update(prefix, concerned);
        }
    }

    /// Has the filter look at what changed and do what is next, and opens and closes doors.
    pub(super) fn poll_filter(&mut self, now: Time) {
        let moved: Vec<(IfIndex, Prefix)> = self.interfaces.values_mut().flat_map(moved).collect();
        let net = Network { rib: &self.rib, nexthops: &self.nexthops };
        let view = View { net, interfaces: &self.interfaces };
        // A door that was not looked at yet may be open.
        let unknown = |i: &Interface| i.has_doors() && i.ifindex().is_some() && !i.is_ready();
        let shut = self.interfaces.values().all(|i| i.is_shut() && !unknown(i));
        if let Some(filter) = &mut self.filter {
            filter.follow(view, self.objects_loaded, now, &mut self.out);
            filter.catch_up(view, now);
            for (ifindex, prefix) in moved {
                filter.proven(view, ifindex, prefix, now);
            }
            filter.poll(shut, now, &mut self.out);
        } else if let Some(filter) = &mut self.retired {
            // The links are unfiltered on purpose: their doors stay as they are.
            filter.poll(true, now, &mut self.out);
            if filter.is_closed() {
                self.retired = None;
            }
        }
        for interface in self.interfaces.values_mut() {
            let Some(ifindex) = interface.ifindex() else { continue };
            let gate = self.filter.as_ref().map_or(Gate::Undecided, |filter| filter.gate(ifindex));
            if interface.set_gate(gate, now) {
                self.out.push(Output::Notice(Notice::Door {
                    interface: interface.rule().name.clone(),
                    open: gate == Gate::Open,
                }));
            }
        }
    }
}

fn moved(interface: &mut Interface) -> Vec<(IfIndex, Prefix)> {
    let prefixes = interface.take_moved();
    let ifindex = interface.ifindex().unwrap_or(0);
    prefixes.into_iter().map(|prefix| (ifindex, prefix)).collect()
}
