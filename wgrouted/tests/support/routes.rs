//! Routes written over raw netlink, a hundred thousand in half a second.
//!
//! Written from rtnetlink(7) without the code under test.

use std::net::IpAddr;

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use wgrouted::core::{
    prefix::Family,
    route::{Hop, NexthopId, Route, RouteKind, RouteOp},
};

/// Bytes sent by one system call: well below the default send buffer.
const BATCH: usize = 48 * 1024;

/// Changes routes in the calling thread's network namespace.
pub struct RouteWriter {
    socket: Socket,
    batch: Vec<u8>,
}

impl RouteWriter {
    pub fn open() -> RouteWriter {
        let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
        socket.bind_auto().unwrap();
        RouteWriter { socket, batch: Vec::with_capacity(2 * BATCH) }
    }

    /// Queues a change. It happens at the latest with [`RouteWriter::flush`].
    pub fn write(&mut self, op: RouteOp, route: &Route) {
        let (kind, flags) = match op {
            RouteOp::Add => (libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL),
            RouteOp::Append => (libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_APPEND),
            RouteOp::Replace => (libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE),
            RouteOp::Delete => (libc::RTM_DELROUTE, 0),
        };
        message(&mut self.batch, kind, flags, |out| body(out, route));
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// Sends what is queued and panics at the first change that the kernel refused.
    pub fn flush(&mut self) {
        if !self.batch.is_empty() {
            // The kernel handles all messages before this returns.
            self.socket.send(&self.batch, 0).unwrap();
            self.batch.clear();
        }
        let mut answer = [0u8; 4096];
        if self.socket.recv(&mut &mut answer[..], libc::MSG_DONTWAIT).is_ok() {
            let error = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
            panic!("refused: {}", std::io::Error::from_raw_os_error(-error));
        }
    }
}

/// A group of nexthop objects of equal weight, larger than iproute2 can write it.
pub fn add_nexthop_group(id: NexthopId, members: impl Iterator<Item = NexthopId>) {
    let mut writer = RouteWriter::open();
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    message(&mut writer.batch, 104, flags, |out| {
        // RTM_NEWNEXTHOP
        out.extend([0; 8]);
        attribute(out, 1, &id.to_ne_bytes()); // NHA_ID
        let group: Vec<u8> =
            members.flat_map(|id| id.to_ne_bytes().into_iter().chain([0; 4])).collect();
        attribute(out, 2, &group); // NHA_GROUP
    });
    writer.flush();
}

fn message(out: &mut Vec<u8>, kind: u16, flags: i32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    out.extend([0; 8]);
    body(out);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn body(out: &mut Vec<u8>, route: &Route) {
    let path = &route.path;
    let family = match route.prefix.family() {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let kind = match path.kind {
        RouteKind::Unicast => libc::RTN_UNICAST,
        RouteKind::Blackhole => libc::RTN_BLACKHOLE,
        RouteKind::Unreachable => libc::RTN_UNREACHABLE,
        RouteKind::Prohibit => libc::RTN_PROHIBIT,
        RouteKind::Throw => libc::RTN_THROW,
        RouteKind::Other => panic!("not a kind of route to install"),
    };
    let src_len = path.source.map_or(0, |source| source.prefix_len());
    let (tos, protocol, scope) = (path.tos, path.protocol, libc::RT_SCOPE_UNIVERSE);
    out.extend([family as u8, route.prefix.prefix_len(), src_len, tos, 0, protocol, scope, kind]);
    out.extend([0; 4]);
    attribute(out, libc::RTA_DST, &octets(route.prefix.addr()));
    if let Some(source) = path.source {
        attribute(out, libc::RTA_SRC, &octets(source.addr()));
    }
    attribute(out, libc::RTA_TABLE, &path.table.to_ne_bytes());
    attribute(out, libc::RTA_PRIORITY, &path.metric.to_ne_bytes());
    if path.nexthop != 0 {
        attribute(out, 30, &path.nexthop.to_ne_bytes()); // RTA_NH_ID
    }
    match path.hops.as_slice() {
        [] => {}
        [hop] => {
            attribute(out, libc::RTA_OIF, &hop.oif.to_ne_bytes());
            hop_attributes(out, family, hop);
        }
        hops => {
            let mut all = Vec::new();
            for hop in hops {
                let mut attributes = Vec::new();
                hop_attributes(&mut attributes, family, hop);
                all.extend((8 + attributes.len() as u16).to_ne_bytes());
                all.extend([0, (hop.weight - 1) as u8]);
                all.extend(hop.oif.to_ne_bytes());
                all.extend(attributes);
            }
            attribute(out, libc::RTA_MULTIPATH, &all);
        }
    }
}

fn hop_attributes(out: &mut Vec<u8>, family: i32, hop: &Hop) {
    match hop.gateway {
        Some(gateway @ IpAddr::V6(_)) if family == libc::AF_INET => {
            let mut via = Vec::from((libc::AF_INET6 as u16).to_ne_bytes());
            via.extend(octets(gateway));
            attribute(out, 18, &via); // RTA_VIA
        }
        Some(gateway) => attribute(out, libc::RTA_GATEWAY, &octets(gateway)),
        None => {}
    }
    if hop.realm != 0 {
        attribute(out, libc::RTA_FLOW, &hop.realm.to_ne_bytes());
    }
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend((4 + value.len() as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().into(),
        IpAddr::V6(addr) => addr.octets().into(),
    }
}
