//! Questions to the kernel: dumps, and one lookup.
//!
//! Here lives [`Dumper`]. It keeps nothing between two questions but its socket and a count of
//! what it could not read.

use std::{collections::BTreeMap, io, mem, net::IpAddr, ops::ControlFlow};

use super::{
    Error,
    decode::{self, DecodeError, OwnedNexthop},
    request::{Client, Ended, Part, Request},
    wire::{self, Message},
};
use crate::core::{
    event::Scope,
    exits::iprule::IpRule,
    lookup::{kernel::Lookup, packet::Packet},
    prefix::{Family, Prefix},
    route::{IfIndex, Link, Nexthop, Route, RouteKind, TableId},
};

/// How often a dump that is disturbed by changes is begun anew.
const ATTEMPTS: u32 = 8;

/// Asks the kernel for what there is.
pub struct Dumper {
    client: Client,
    decode_errors: u64,
}

impl Dumper {
    /// Opens a socket for requests.
    pub fn open() -> Result<Dumper, Error> {
        Ok(Dumper { client: Client::open()?, decode_errors: 0 })
    }

    /// Messages in answers that could not be understood, and were left out.
    pub const fn decode_errors(&self) -> u64 {
        self.decode_errors
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        self.settled("dump links", links_request, decode::link)
    }

    /// All nexthop objects. Kernels before 5.3 have none.
    pub fn nexthops(&mut self) -> Result<Vec<Nexthop>, Error> {
        let dump = self.settled(
            "dump nexthops",
            || {
                // struct nhmsg
                Request::new("dump nexthops", wire::RTM_GETNEXTHOP, libc::NLM_F_DUMP, &[0; 8])
            },
            decode::nexthop,
        );
        match dump {
            Err(Error::Refused { source, .. })
                if source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                Ok(Vec::new())
            }
            dump => dump,
        }
    }

    /// All nexthop objects, with their owners.
    pub(crate) fn owned_nexthops(&mut self) -> Result<Vec<OwnedNexthop>, Error> {
        self.settled(
            "dump nexthops",
            || {
                // struct nhmsg
                Request::new("dump nexthops", wire::RTM_GETNEXTHOP, libc::NLM_F_DUMP, &[0; 8])
            },
            decode::owned_nexthop,
        )
    }

    /// The policy rules of a family, in the order in which the kernel tries them.
    pub fn iprules(&mut self, family: Family) -> Result<Vec<IpRule>, Error> {
        // struct fib_rule_hdr
        let mut header = [0; 12];
        header[0] = wire::family_byte(family);
        let all = self.settled(
            "dump rules",
            || Request::new("dump rules", wire::RTM_GETRULE, libc::NLM_F_DUMP, &header),
            decode::iprule,
        )?;
        Ok(all.into_iter().filter(|rule| rule.family == family).collect())
    }

    /// The routes in scope, handed over in chunks of some hundred; `Break` from the sink ends the
    /// dump, and is what this then returns. An absent table or link holds no routes.
    ///
    /// A route whose hops are all in its nexthop object (`nexthop_compat_mode=0`) is in every
    /// answer to a scope with a link, as far as the kernel says that it belongs there.
    pub fn routes(
        &mut self,
        scope: Scope,
        sink: &mut dyn FnMut(Vec<Route>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        // struct rtmsg
        let mut header = [0; 12];
        header[0] = wire::family_byte(scope.family);
        let mut request =
            Request::new("dump routes", wire::RTM_GETROUTE, libc::NLM_F_DUMP, &header);
        if let Some(table) = scope.table {
            request = request.attribute(wire::RTA_TABLE, &table.to_ne_bytes());
        }
        if let Some(oif) = scope.oif {
            request = request.attribute(wire::RTA_OIF, &oif.to_ne_bytes());
        }
        let decode = |message: &Message<'_>| match message.kind {
            wire::RTM_NEWROUTE => Ok(decode::route(message)?.filter(|r| in_scope(&scope, r))),
            _ => Ok(None),
        };
        // DUMP_INTR is never set for routes: the monitor's notifications fill the gap.
        match self.dump(request, decode, sink) {
            Ok(ended) => Ok(ended.flow),
            Err(Error::Refused { source, .. })
                if (scope.table.is_some() && source.raw_os_error() == Some(libc::ENOENT))
                    || (scope.oif.is_some() && source.raw_os_error() == Some(libc::ENODEV)) =>
            {
                Ok(ControlFlow::Continue(()))
            }
            Err(error) => Err(error),
        }
    }

    /// The routes of a table whose prefixes hold an address, in the kernel's order. The kernel has no
    /// question for less than the table, which is read to its end and not kept.
    pub fn routes_to(&mut self, table: TableId, address: IpAddr) -> Result<Vec<Route>, Error> {
        let family = Prefix::host(address).family();
        let mut all = Vec::new();
        let scope = Scope { family, table: Some(table), oif: None };
        let _ = self.routes(scope, &mut |chunk| {
            all.extend(chunk.into_iter().filter(|route| route.prefix.contains(address)));
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }

    /// The group of each link.
    pub fn link_groups(&mut self) -> Result<BTreeMap<IfIndex, u32>, Error> {
        let all = self.settled("dump links", links_request, decode::link_group)?;
        Ok(all.into_iter().collect())
    }

    /// What the kernel does with a packet (`ip route get`). Naming a VRF as `oif` asks for a lookup
    /// in that VRF.
    pub fn route_get(&mut self, packet: &Packet) -> Result<Lookup, Error> {
        let taken = match self.get(packet, 0, decode::answer) {
            Ok(taken) => taken,
            // An explained error is about the question.
            Err(Error::Refused { explanation: None, source, request }) => {
                return answer(&source).ok_or(Error::Refused {
                    explanation: None,
                    source,
                    request,
                });
            }
            Err(error) => return Err(error),
        };
        let Some((taken, source)) = taken else { return Ok(Lookup::NoRoute) };
        let hop = taken.path.hops.first().copied();
        match self.get(packet, wire::RTM_F_FIB_MATCH, decode::route_or_clone) {
            Ok(Some(route)) => Ok(Lookup::Route { route, hop, source }),
            Ok(None) => Ok(Lookup::NoRoute),
            // The packet goes, but by no route (`inet_rtm_getroute`, net/ipv4/route.c).
            Err(Error::Refused { explanation: None, source: error, request }) => match hop {
                Some(hop) if error.raw_os_error() == Some(libc::EHOSTUNREACH) => {
                    Ok(Lookup::OnLink { hop, source })
                }
                _ => Err(Error::Refused { explanation: None, source: error, request }),
            },
            Err(error) => Err(error),
        }
    }

    fn get<T>(
        &mut self,
        packet: &Packet,
        flags: u32,
        decode: impl Fn(&Message<'_>) -> Result<Option<T>, DecodeError>,
    ) -> Result<Option<T>, Error> {
        let mut found = None;
        self.dump(question(packet, flags), decode, &mut |answers| {
            found = answers.into_iter().next();
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// A dump whose `NLM_F_DUMP_INTR` is heeded: begun anew until nothing changed meanwhile.
    fn settled<T>(
        &mut self,
        what: &'static str,
        request: impl Fn() -> Request,
        decode: impl Fn(&Message<'_>) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..ATTEMPTS {
            let mut all = Vec::new();
            let ended = self.dump(request(), &decode, &mut |chunk| {
                all.extend(chunk);
                ControlFlow::Continue(())
            })?;
            if !ended.interrupted {
                return Ok(all);
            }
        }
        Err(Error::Unsettled { request: what, attempts: ATTEMPTS })
    }

    fn dump<T>(
        &mut self,
        request: Request,
        decode: impl Fn(&Message<'_>) -> Result<Option<T>, DecodeError>,
        sink: &mut dyn FnMut(Vec<T>) -> ControlFlow<()>,
    ) -> Result<Ended, Error> {
        let mut chunk = Vec::new();
        let errors = &mut self.decode_errors;
        self.client.exchange(request, &mut |part| match part {
            Part::Message(message) => {
                match decode(&message) {
                    Ok(item) => chunk.extend(item),
                    Err(error) => {
                        if *errors == 0 {
                            tracing::warn!(
                                %error,
                                "left out a part of a dump; further ones are only counted"
                            );
                        }
                        *errors += 1;
                    }
                }
                ControlFlow::Continue(())
            }
            Part::Datagram if chunk.is_empty() => ControlFlow::Continue(()),
            Part::Datagram => {
                let next = Vec::with_capacity(chunk.len());
                sink(mem::replace(&mut chunk, next))
            }
        })
    }
}

/// Counters are half of each answer and of no use.
fn links_request() -> Request {
    // struct ifinfomsg
    Request::new("dump links", wire::RTM_GETLINK, libc::NLM_F_DUMP, &[0; 16])
        .attribute(libc::IFLA_EXT_MASK, &libc::RTEXT_FILTER_SKIP_STATS.to_ne_bytes())
}

/// The request to route a packet. Not all protocols can be asked about
/// (`rtm_getroute_parse_ip_proto`, net/ipv4/netlink.c): see [`can_ask`].
fn question(packet: &Packet, flags: u32) -> Request {
    // struct rtmsg
    let mut header = [0; 12];
    header[0] = wire::family_byte(packet.family());
    header[1] = packet.family().bits();
    header[2] = packet.src.map_or(0, |_| packet.family().bits());
    header[3] = packet.tos;
    // IPv4 names the main table unless told to name the right one; IPv6 always does, and refuses
    // the flag.
    let flags = match packet.family() {
        Family::V4 => flags | wire::RTM_F_LOOKUP_TABLE,
        Family::V6 => flags,
    };
    header[8..].copy_from_slice(&flags.to_ne_bytes());
    let mut request = Request::new("look up a route", wire::RTM_GETROUTE, 0, &header);
    for (kind, address) in [(wire::RTA_DST, Some(packet.dst)), (wire::RTA_SRC, packet.src)] {
        if let Some(address) = address {
            request = request.address(kind, address);
        }
    }
    let mark = Some(packet.mark).filter(|mark| *mark != 0);
    let numbers = [
        (wire::RTA_IIF, packet.iif),
        (wire::RTA_OIF, packet.oif),
        (wire::RTA_MARK, mark),
        // Forwarded ones too: IPv6 would take them for nobody's, other than when they come.
        (wire::RTA_UID, Some(packet.uid)),
    ];
    for (kind, number) in numbers {
        if let Some(number) = number {
            request = request.attribute(kind, &number.to_ne_bytes());
        }
    }
    if let Some(protocol) = packet.protocol.filter(|protocol| can_ask(*protocol)) {
        request = request.attribute(wire::RTA_IP_PROTO, &[protocol]);
    }
    for (kind, port) in [(wire::RTA_SPORT, packet.sport), (wire::RTA_DPORT, packet.dport)] {
        if let Some(port) = port {
            request = request.attribute(kind, &port.to_be_bytes());
        }
    }
    request
}

/// Whether the kernel answers about packets of this protocol; of others it is asked without.
pub fn can_ask(protocol: u8) -> bool {
    [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6]
        .contains(&protocol.into())
}

/// The kernel's own filter is trusted only where the answer does not show what it filtered by:
/// it ignores filters without strict checking, and the family where IPv6 is not loaded
/// (`rtnl_dump_all`).
fn in_scope(scope: &Scope, route: &Route) -> bool {
    let path = &route.path;
    let hop_matches = |oif| {
        path.hops.iter().any(|hop| hop.oif == oif) || (path.hops.is_empty() && path.nexthop != 0)
    };
    route.prefix.family() == scope.family
        && scope.table.is_none_or(|table| table == path.table)
        && scope.oif.is_none_or(hop_matches)
}

/// The error numbers that are answers to a lookup (`fib_props`, net/ipv4/fib_semantics.c;
/// `ip6_rt_type_to_error`, net/ipv6/route.c). A `throw` that no later table makes good is EAGAIN.
fn answer(error: &io::Error) -> Option<Lookup> {
    Some(match error.raw_os_error()? {
        libc::ENETUNREACH | libc::EAGAIN => Lookup::NoRoute,
        libc::EINVAL => Lookup::Rejected(RouteKind::Blackhole),
        libc::EHOSTUNREACH => Lookup::Rejected(RouteKind::Unreachable),
        libc::EACCES => Lookup::Rejected(RouteKind::Prohibit),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::route::{Hop, Hops, Path};

    fn route(table: u32, nexthop: u32, oifs: &[u32]) -> Route {
        let hop = |&oif| Hop { oif, gateway: None, weight: 1, realm: 0, dead: false };
        let path = Path {
            table,
            metric: 0,
            tos: 0,
            protocol: 4,
            kind: RouteKind::Unicast,
            source: None,
            nexthop,
            hops: oifs.iter().map(hop).collect::<Hops>(),
        };
        Route { prefix: Prefix::DEFAULT_V4, path }
    }

    #[test]
    fn the_filter_is_checked_again() {
        let scope = Scope { family: Family::V4, table: Some(254), oif: Some(7) };
        assert!(in_scope(&scope, &route(254, 0, &[7])));
        assert!(in_scope(&scope, &route(254, 0, &[3, 7])), "any hop of several");
        assert!(in_scope(&scope, &route(254, 12, &[])), "hops only in the nexthop object");
        assert!(!in_scope(&scope, &route(254, 0, &[])), "no hop at all");
        assert!(!in_scope(&scope, &route(254, 12, &[3])));
        assert!(!in_scope(&scope, &route(100, 0, &[7])));
        let other = Scope { family: Family::V6, ..scope };
        assert!(!in_scope(&other, &route(254, 0, &[7])));
    }
}
