//! What the operator reads.
//!
//! Here lives the translation of notices into log lines. Fixed fields: `interface`, `peer`,
//! `prefix`. Levels: error = the operator must act; warn = we repaired or wait; info = a peer or
//! an interface changed its state; debug = each request.

use tracing::{debug, error, info, trace, warn};

use crate::core::{
    event::{Notice, Output, Request},
    filter::table::FilterRequest,
};

/// Refused changes told one by one per round; a full table of them would drown everything else.
const REFUSED_SHOWN: usize = 5;

/// Logs the notices of a round and hands its requests on.
pub(super) fn round(outputs: impl Iterator<Item = Output>, mut submit: impl FnMut(Request)) {
    let mut refused = 0;
    for output in outputs {
        match output {
            Output::Request(request) => {
                trace_request(&request);
                submit(request);
            }
            Output::Notice(Notice::Refused { .. }) if refused >= REFUSED_SHOWN => refused += 1,
            Output::Notice(notice) => {
                refused += usize::from(matches!(notice, Notice::Refused { .. }));
                tell(notice);
            }
        }
    }
    if refused > REFUSED_SHOWN {
        warn!(more = refused - REFUSED_SHOWN, "more changes were refused");
    }
}

fn trace_request(request: &Request) {
    match request {
        Request::Sync { epoch, objects, scopes } => {
            debug!(epoch, objects, ?scopes, "reading the network");
        }
        Request::Dump { ifindex, token, .. } => debug!(ifindex, token, "reading the device"),
        Request::Apply { ifindex, token, changes, .. } => {
            debug!(ifindex, token, changes = changes.len(), "changing AllowedIPs");
        }
        Request::Remember { name, pins, .. } => {
            debug!(interface = name, peers = pins.len(), "remembering pinned prefixes");
        }
        Request::Filter(request) => trace_filter(request),
    }
}

fn trace_filter(request: &FilterRequest) {
    match request {
        FilterRequest::Open { .. } => debug!("opening the filter's maps"),
        FilterRequest::Apply { changes, token } => {
            debug!(token, changes = changes.len(), "changing the filter's maps");
        }
        // Once a second.
        FilterRequest::Attach { links, token } => {
            trace!(token, links = links.len(), "looking after the filter's programs");
        }
        FilterRequest::Dump { token } => debug!(token, "reading the filter's maps"),
        FilterRequest::Remove { .. } => debug!("removing the filter"),
    }
}

fn tell(notice: Notice) {
    match notice {
        Notice::FilterAdopted { links, sources } => {
            info!(links, sources, "filter adopted as an earlier daemon left it in force");
        }
        Notice::FilterFailed { error } => error!(%error, "the filter failed; trying again"),
        Notice::FilterInForce { interface, hook } => {
            info!(interface, ?hook, "the filter is in force");
        }
        Notice::FilterNotInForce { interface, error } => {
            error!(interface, %error, "the filter is not in force");
        }
        Notice::FilterReattached { interface } => {
            warn!(interface, "somebody else detached the filter; it was attached again");
        }
        Notice::FilterRefused { entries, example, errno } => {
            let error = std::io::Error::from_raw_os_error(errno);
            warn!(entries, prefix = %example, %error, "the filter's maps refused sources; trying \
                again later (if they are full: raise `ipv4_sources` or `ipv6_sources`)");
        }
        Notice::FilterDrift { entries } => {
            warn!(entries, "somebody else changed the filter's maps; repairing them");
        }
        Notice::FilterRoom { peers } => {
            error!(
                peers,
                "the filter has no room for all peers, and drops what the others send: \
                raise `peers` in [filter]"
            );
        }
        Notice::Door { interface, open: true } => {
            info!(interface, "the filter is in force; opening the peer's AllowedIPs");
        }
        Notice::Door { interface, open: false } => {
            error!(interface, "the filter is not in force; closing the peer's AllowedIPs");
        }
        Notice::Waiting { interface } => {
            warn!(interface, "the interface does not exist; waiting for it");
        }
        Notice::NotWireguard { interface } => {
            warn!(interface, "the interface is not a WireGuard device; waiting for one");
        }
        Notice::Adopted { interface, peers, allowed_ips, pinned } => {
            info!(interface, peers, allowed_ips, pinned, "interface adopted as it is");
        }
        Notice::InSync { interface, allowed_ips } => {
            info!(interface, allowed_ips, "AllowedIPs equal the routes");
        }
        Notice::PeerAppeared { interface, peer } => info!(interface, peer, "peer appeared"),
        Notice::PeerVanished { interface, peer } => info!(interface, peer, "peer vanished"),
        Notice::Drift { interface, prefixes, example } => {
            warn!(interface, prefixes, prefix = %example, "somebody else changed AllowedIPs; \
                repairing them (this shouldn't happen: change routes, or `pinned`)");
        }
        Notice::Refused { interface, prefix, peer, errno } => {
            let error = std::io::Error::from_raw_os_error(errno);
            let action = if peer.is_some() { "set" } else { "removal" };
            warn!(interface, %prefix, action, %error, "WireGuard refused a change; trying again \
                later");
        }
        Notice::DeviceFailed { interface, error } => {
            warn!(interface, %error, "the device could not be read or changed; trying again");
        }
        Notice::SyncFailed { error } => {
            warn!(error, "routes could not be read; trying again");
        }
        Notice::Overrun => {
            warn!(
                "route notifications were lost; reading everything again (a larger \
                `receive_buffer` makes this rarer)"
            );
        }
    }
}
