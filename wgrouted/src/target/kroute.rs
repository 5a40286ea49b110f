//! Kernel routes of our own.
//!
//! Here lives [`KernelRoutes`], which reads, adds and removes them over rtnetlink. What stands where
//! is `core::reach::announce`'s business. Invariant: nothing is ever replaced (`NLM_F_REPLACE` takes
//! whatever stands first), and a removal names protocol, link, gateway and metric, so that only the
//! very route that is meant can go.

use std::{collections::BTreeSet, net::IpAddr, ops::ControlFlow};

use crate::{
    core::{
        prefix::{Family, Prefix},
        reach::route::OurRoute,
    },
    source::rtnetlink::{
        Error, decode,
        request::{Client, Part, Request},
        wire,
    },
};

// include/uapi/linux/rtnetlink.h
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
/// In a removal: whatever the scope.
const RT_SCOPE_NOWHERE: u8 = 255;
const RT_TABLE_COMPAT: u8 = 252;
const RTN_UNICAST: u8 = 1;

/// Reads, adds and removes kernel routes.
pub struct KernelRoutes {
    client: Client,
}

impl KernelRoutes {
    /// Opens a socket for requests.
    pub fn open() -> Result<KernelRoutes, Error> {
        Ok(KernelRoutes { client: Client::open()? })
    }

    /// All routes of these protocols, in whatever table, that are of a form that we install. The
    /// kernel filters: a full table costs it some 60 ms, and us nothing.
    pub fn dump(&mut self, protocols: &BTreeSet<u8>) -> Result<BTreeSet<OurRoute>, Error> {
        let mut all = BTreeSet::new();
        for protocol in protocols {
            for family in Family::ALL {
                // struct rtmsg
                let mut header = [0; 12];
                (header[0], header[5]) = (wire::family_byte(family), *protocol);
                let request =
                    Request::new("dump our routes", wire::RTM_GETROUTE, libc::NLM_F_DUMP, &header);
                self.client.exchange(request, &mut |part| {
                    if let Part::Message(message) = part
                        && message.kind == wire::RTM_NEWROUTE
                        && let Ok(Some(route)) = decode::route(&message)
                    {
                        // Old kernels ignore the filter.
                        let ours = OurRoute::of(&route).filter(|our| our.protocol == *protocol);
                        all.extend(ours);
                    }
                    ControlFlow::Continue(())
                })?;
            }
        }
        Ok(all)
    }

    /// Adds a route; fails with `EEXIST` if another stands in its place.
    pub fn add(&mut self, route: &OurRoute) -> Result<(), Error> {
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let scope = match route.gateway {
            Some(_) => RT_SCOPE_UNIVERSE,
            None => RT_SCOPE_LINK,
        };
        self.client.order(request("add a route", wire::RTM_NEWROUTE, flags, scope, route))
    }

    /// Removes a route. Returns whether it was there.
    pub fn remove(&mut self, route: &OurRoute) -> Result<bool, Error> {
        let flags = libc::NLM_F_ACK;
        let request = request("remove a route", wire::RTM_DELROUTE, flags, RT_SCOPE_NOWHERE, route);
        match self.client.order(request) {
            Ok(()) => Ok(true),
            // Gone with its link, or somebody was faster.
            Err(Error::Refused { source, .. })
                if matches!(source.raw_os_error(), Some(libc::ESRCH | libc::ENODEV)) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

fn request(
    what: &'static str,
    kind: u16,
    flags: libc::c_int,
    scope: u8,
    route: &OurRoute,
) -> Request {
    let OurRoute { place, protocol, oif, gateway } = route;
    let onlink = match gateway {
        Some(_) if kind == wire::RTM_NEWROUTE => wire::RTNH_F_ONLINK,
        _ => 0,
    };
    let table = u8::try_from(place.table).unwrap_or(RT_TABLE_COMPAT);
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
    let mut header = [0; 12];
    header[0] = wire::family_byte(place.prefix.family());
    header[1] = place.prefix.prefix_len();
    header[4..8].copy_from_slice(&[table, *protocol, scope, RTN_UNICAST]);
    header[8..].copy_from_slice(&u32::from(onlink).to_ne_bytes());
    let request = Request::new(what, kind, flags, &header)
        .attribute(wire::RTA_TABLE, &place.table.to_ne_bytes())
        .attribute(wire::RTA_PRIORITY, &place.metric.to_ne_bytes())
        .attribute(wire::RTA_OIF, &oif.to_ne_bytes());
    let request = request.address(wire::RTA_DST, place.prefix.addr());
    match gateway {
        None => request,
        Some(gateway) if Prefix::host(*gateway).family() == place.prefix.family() => {
            request.address(wire::RTA_GATEWAY, *gateway)
        }
        Some(gateway) => {
            // struct rtvia
            let mut via = u16::from(wire::family_byte(Prefix::host(*gateway).family()))
                .to_ne_bytes()
                .to_vec();
            match gateway {
                IpAddr::V4(gateway) => via.extend_from_slice(&gateway.octets()),
                IpAddr::V6(gateway) => via.extend_from_slice(&gateway.octets()),
            }
            request.attribute(wire::RTA_VIA, &via)
        }
    }
}
