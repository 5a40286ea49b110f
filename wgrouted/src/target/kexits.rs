//! The kernel objects that exits consist of: rules, routes and nexthop objects of our own.
//!
//! Here lives [`KernelExits`], which reads, adds and removes them over rtnetlink. What there should be,
//! and in which order it comes about, is `core::exits`' business. Invariants: a removal names all that
//! the kernel can compare, so that only the very object that is meant can go; nothing is replaced but
//! our own.

use std::{collections::BTreeSet, io, ops::ControlFlow};

use crate::{
    core::{
        exits::{
            iprule::{Action, IpRule, Span},
            object::{ExitRoute, ExitRouteKind, Group, Have, Hop, Owned},
            steps::Step,
            want::Features,
        },
        prefix::{Family, Prefix},
        reach::route::PROTOCOL,
        route::{NexthopId, NexthopKind, Route, RouteKind, TableId},
    },
    source::rtnetlink::{
        Dumper, Error,
        decode::{self, DecodeError, OwnedNexthop},
        request::{Client, Part, Request},
        wire::{self, Message},
    },
};

// include/uapi/linux/rtnetlink.h
const RT_SCOPE_UNIVERSE: u8 = 0;
/// In a removal: whatever the scope.
const RT_SCOPE_NOWHERE: u8 = 255;
const RT_TABLE_COMPAT: u8 = 252;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
const RTN_THROW: u8 = 9;

/// Entries of a resilient group's table: flows are spread by these. A multiple of what people divide
/// by, and small enough to walk (`nexthop_res_table_alloc`, net/ipv4/nexthop.c).
const BUCKETS: u16 = 240;

/// Reads and writes what exits consist of.
pub struct KernelExits {
    client: Client,
    dumper: Dumper,
}

impl KernelExits {
    /// Opens sockets for requests.
    pub fn open() -> Result<KernelExits, Error> {
        Ok(KernelExits { client: Client::open()?, dumper: Dumper::open()? })
    }

    /// All that there is: rules, nexthop objects, and what these tables hold. Of the tables in `fed`
    /// only what is ours is read, since a routing daemon may have filled them.
    pub fn look(
        &mut self,
        owned: &Owned,
        tables: &BTreeSet<TableId>,
        fed: &BTreeSet<TableId>,
    ) -> Result<Have, Error> {
        let mut have = Have::default();
        for family in Family::ALL {
            have.rules.extend(self.rules(family)?);
        }
        self.nexthops(owned, &mut have)?;
        for table in tables {
            for family in Family::ALL {
                let only = fed.contains(table).then_some(PROTOCOL);
                self.routes(family, Some(*table), only, &mut have)?;
            }
        }
        Ok(have)
    }

    /// Our routes in whatever tables are ours, also those to which no rule leads any more. The kernel
    /// walks all its routes for this: for the start.
    pub fn leftovers(&mut self, owned: &Owned, have: &mut Have) -> Result<(), Error> {
        let mut all = Have::default();
        for family in Family::ALL {
            self.routes(family, None, Some(PROTOCOL), &mut all)?;
        }
        have.routes.extend(all.routes.into_iter().filter(|route| owned.holds_table(route.table)));
        Ok(())
    }

    /// What this kernel can do, found out by asking for what changes nothing.
    pub fn features(&mut self) -> Result<Features, Error> {
        // A rule that is not there, with a value that cannot be: who knows the attribute minds the
        // value, who does not ignores it, and finds no such rule.
        let mut rule = IpRule {
            family: Family::V4,
            priority: u32::MAX,
            selector: Default::default(),
            action: Action::Nop,
            protocol: PROTOCOL,
        };
        rule.selector.dscp = Some(u8::MAX);
        let dscp = match self.client.order(rule_request(wire::RTM_DELRULE, 0, &rule)) {
            Err(Error::Refused { source, .. }) => source.raw_os_error() != Some(libc::ENOENT),
            Err(error) => return Err(error),
            Ok(()) => false,
        };
        let ipv6 = self.rules(Family::V6).is_ok_and(|rules| !rules.is_empty());
        Ok(Features { dscp, resilient: self.resilient(), ipv6 })
    }

    /// A group with a member that cannot be is refused by all, but for its type first by those that do
    /// not know it, and for its member by the others (`rtm_to_nh_config`, `nh_check_attr_group`,
    /// net/ipv4/nexthop.c). The error number is the same, so the kernel's words must do.
    fn resilient(&mut self) -> bool {
        let group = Group { resilient: true, members: [(u32::MAX, 1)].into() };
        let request = group_request(u32::MAX, &group, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        match self.client.order(request) {
            Err(Error::Refused { explanation, .. }) => {
                explanation.is_some_and(|text| text.contains("Invalid nexthop id"))
            }
            _ => false,
        }
    }

    /// Carries out a step.
    pub fn take(&mut self, step: &Step) -> Result<(), Error> {
        const NEW: libc::c_int = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let replace = |replace: bool| if replace { libc::NLM_F_REPLACE } else { NEW };
        let (request, fine): (_, &[i32]) = match step {
            Step::AddHop(id, hop) => (hop_request(*id, hop, NEW), &[]),
            Step::SetGroup { id, group, fresh } => {
                let flags = if *fresh { NEW } else { libc::NLM_F_REPLACE };
                (group_request(*id, group, flags), &[])
            }
            Step::AddRoute { route, replace: over } => {
                (route_request(wire::RTM_NEWROUTE, replace(*over), route), &[])
            }
            // What is gone already is as it should be.
            Step::RemoveRoute(route) => {
                (route_request(wire::RTM_DELROUTE, 0, route), &[libc::ESRCH, libc::ENODEV])
            }
            Step::AddRule(rule) => (rule_request(wire::RTM_NEWRULE, NEW, rule), &[]),
            Step::RemoveRule(rule) => (rule_request(wire::RTM_DELRULE, 0, rule), &[libc::ENOENT]),
            Step::RemoveNexthop(id) => {
                // struct nhmsg
                let request = Request::new(
                    "remove a nexthop",
                    wire::RTM_DELNEXTHOP,
                    libc::NLM_F_ACK,
                    &[0; 8],
                )
                .attribute(wire::NHA_ID, &id.to_ne_bytes());
                (request, &[libc::ENOENT])
            }
        };
        match self.client.order(request) {
            Err(Error::Refused { source, .. })
                if source.raw_os_error().is_some_and(|errno| fine.contains(&errno)) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// A family's rules; none where the kernel was told to do without it.
    fn rules(&mut self, family: Family) -> Result<Vec<IpRule>, Error> {
        match self.dumper.iprules(family) {
            Err(Error::Refused { source, .. }) if is_absent(&source) => Ok(Vec::new()),
            rules => rules,
        }
    }

    fn nexthops(&mut self, owned: &Owned, have: &mut Have) -> Result<(), Error> {
        let all = match self.dumper.owned_nexthops() {
            // Kernels before 5.3 have none.
            Err(Error::Refused { source, .. })
                if source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                return Ok(());
            }
            all => all?,
        };
        for OwnedNexthop { id, protocol, family, resilient, kind } in all {
            let ours = protocol == PROTOCOL && owned.holds_nexthop(id);
            match (ours, family, kind) {
                (true, Some(family), Some(NexthopKind::Hop { oif, gateway: None })) => {
                    have.hops.insert(id, Hop { family, oif });
                }
                (true, _, Some(NexthopKind::Group(members))) => {
                    let weight = |weight: u32| u16::try_from(weight).unwrap_or(u16::MAX);
                    let members = members.into_iter().map(|(id, share)| (id, weight(share)));
                    have.groups.insert(id, Group { resilient, members: members.collect() });
                }
                _ => {
                    have.foreign_nexthops.insert(id);
                }
            }
        }
        Ok(())
    }

    fn routes(
        &mut self,
        family: Family,
        table: Option<TableId>,
        protocol: Option<u8>,
        have: &mut Have,
    ) -> Result<(), Error> {
        // struct rtmsg
        let mut header = [0; 12];
        (header[0], header[5]) = (wire::family_byte(family), protocol.unwrap_or(0));
        let mut request =
            Request::new("dump routes", wire::RTM_GETROUTE, libc::NLM_F_DUMP, &header);
        if let Some(table) = table {
            request = request.attribute(wire::RTA_TABLE, &table.to_ne_bytes());
        }
        let mut malformed = None;
        let dumped = self.client.exchange(request, &mut |part| {
            if let Part::Message(message) = part
                && message.kind == wire::RTM_NEWROUTE
            {
                match ours_or_not(&message) {
                    // Old kernels ignore filters.
                    Ok(Some((route, _)))
                        if table.is_some_and(|table| table != route.path.table) => {}
                    Ok(Some((_, Some(ours)))) => {
                        have.routes.insert(ours);
                    }
                    Ok(Some((route, None))) if route.path.protocol != PROTOCOL => {
                        have.foreign_tables.insert(route.path.table, route.path.protocol);
                    }
                    Ok(_) => {}
                    Err(error) => malformed = Some(error),
                }
            }
            ControlFlow::Continue(())
        });
        match dumped {
            // There is no such table.
            Err(Error::Refused { source, .. })
                if table.is_some() && source.raw_os_error() == Some(libc::ENOENT) => {}
            Err(Error::Refused { source, .. }) if is_absent(&source) => {}
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        match malformed {
            Some(source) => Err(Error::Malformed { request: "dump routes", source }),
            None => Ok(()),
        }
    }
}

/// Whether the kernel says that it lacks the whole family.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT))
}

/// A route, and what it is to exits if it is one of theirs.
fn ours_or_not(message: &Message<'_>) -> Result<Option<(Route, Option<ExitRoute>)>, DecodeError> {
    let Some(route) = decode::route(message)? else { return Ok(None) };
    let path = &route.path;
    let kind = match path.kind {
        RouteKind::Unicast if path.nexthop != 0 => Some(ExitRouteKind::Via {
            group: path.nexthop,
            source: decode::preferred_source(message)?,
        }),
        RouteKind::Unreachable => Some(ExitRouteKind::Block),
        RouteKind::Throw => Some(ExitRouteKind::Throw),
        _ => None,
    };
    let ours = kind.map(|kind| ExitRoute { table: path.table, prefix: route.prefix, kind });
    let ours = ours.filter(|ours| path.protocol == PROTOCOL && path.metric == ours.metric());
    Ok(Some((route, ours)))
}

fn rule_request(kind: u16, flags: libc::c_int, rule: &IpRule) -> Request {
    let what = match kind {
        wire::RTM_NEWRULE => "add a rule",
        _ => "remove a rule",
    };
    let IpRule { family, priority, selector, action, protocol } = rule;
    let length = |prefix: &Option<Prefix>| prefix.map_or(0, |prefix| prefix.prefix_len());
    let act = match action {
        Action::Table { .. } => wire::FR_ACT_TO_TBL,
        Action::Goto(_) => wire::FR_ACT_GOTO,
        Action::Nop => wire::FR_ACT_NOP,
        Action::Blackhole => wire::FR_ACT_BLACKHOLE,
        Action::Unreachable => wire::FR_ACT_UNREACHABLE,
        Action::Prohibit => wire::FR_ACT_PROHIBIT,
        Action::Other(number) => *number,
    };
    // struct fib_rule_hdr
    let mut header = [0; 12];
    header[0] = wire::family_byte(*family);
    header[1..4].copy_from_slice(&[length(&selector.to), length(&selector.from), selector.tos]);
    header[7] = act;
    let inverted = if selector.inverted { wire::FIB_RULE_INVERT } else { 0 };
    header[8..].copy_from_slice(&inverted.to_ne_bytes());
    let mut request = Request::new(what, kind, libc::NLM_F_ACK | flags, &header)
        .attribute(wire::FRA_PRIORITY, &priority.to_ne_bytes())
        .attribute(wire::FRA_PROTOCOL, &[*protocol]);
    for (kind, prefix) in [(wire::FRA_DST, selector.to), (wire::FRA_SRC, selector.from)] {
        if let Some(prefix) = prefix {
            request = request.address(kind, prefix.addr());
        }
    }
    for (kind, name) in [(wire::FRA_IIFNAME, &selector.iif), (wire::FRA_OIFNAME, &selector.oif)] {
        if let Some(name) = name {
            request = request.attribute(kind, &[name.as_bytes(), &[0]].concat());
        }
    }
    if let Some(mark) = selector.mark {
        request = request
            .attribute(wire::FRA_FWMARK, &mark.value.to_ne_bytes())
            .attribute(wire::FRA_FWMASK, &mark.mask.to_ne_bytes());
    }
    if let Some(Span { first, last }) = selector.uid {
        let range = [first.to_ne_bytes(), last.to_ne_bytes()].concat();
        request = request.attribute(wire::FRA_UID_RANGE, &range);
    }
    if let Some(dscp) = selector.dscp {
        request = request.attribute(wire::FRA_DSCP, &[dscp]);
    }
    if selector.protocol != 0 {
        request = request.attribute(wire::FRA_IP_PROTO, &[selector.protocol]);
    }
    for (kind, ports) in
        [(wire::FRA_SPORT_RANGE, selector.sport), (wire::FRA_DPORT_RANGE, selector.dport)]
    {
        if let Some(Span { first, last }) = ports {
            request = request.attribute(kind, &[first.to_ne_bytes(), last.to_ne_bytes()].concat());
        }
    }
    match action {
        Action::Table { table, .. } => request.attribute(wire::FRA_TABLE, &table.to_ne_bytes()),
        Action::Goto(target) => request.attribute(wire::FRA_GOTO, &target.to_ne_bytes()),
        _ => request,
    }
}

fn route_request(kind: u16, flags: libc::c_int, route: &ExitRoute) -> Request {
    let (what, scope) = match kind {
        wire::RTM_NEWROUTE => ("add a route", RT_SCOPE_UNIVERSE),
        _ => ("remove a route", RT_SCOPE_NOWHERE),
    };
    let act = match route.kind {
        ExitRouteKind::Via { .. } => RTN_UNICAST,
        ExitRouteKind::Block => RTN_UNREACHABLE,
        ExitRouteKind::Throw => RTN_THROW,
    };
    let table = u8::try_from(route.table).unwrap_or(RT_TABLE_COMPAT);
    // struct rtmsg
    let mut header = [0; 12];
    header[0] = wire::family_byte(route.prefix.family());
    header[1] = route.prefix.prefix_len();
    header[4..8].copy_from_slice(&[table, PROTOCOL, scope, act]);
    let mut request = Request::new(what, kind, libc::NLM_F_ACK | flags, &header)
        .attribute(wire::RTA_TABLE, &route.table.to_ne_bytes())
        .attribute(wire::RTA_PRIORITY, &route.metric().to_ne_bytes());
    if !route.prefix.is_default() {
        request = request.address(wire::RTA_DST, route.prefix.addr());
    }
    if let ExitRouteKind::Via { group, source } = route.kind {
        request = request.attribute(wire::RTA_NH_ID, &group.to_ne_bytes());
        if let Some(source) = source {
            request = request.address(wire::RTA_PREFSRC, source);
        }
    }
    request
}

fn hop_request(id: NexthopId, hop: &Hop, flags: libc::c_int) -> Request {
    // struct nhmsg: family, scope, protocol, reserved, flags
    let header = [wire::family_byte(hop.family), 0, PROTOCOL, 0, 0, 0, 0, 0];
    Request::new("add a nexthop", wire::RTM_NEWNEXTHOP, libc::NLM_F_ACK | flags, &header)
        .attribute(wire::NHA_ID, &id.to_ne_bytes())
        .attribute(wire::NHA_OIF, &hop.oif.to_ne_bytes())
}

fn group_request(id: NexthopId, group: &Group, flags: libc::c_int) -> Request {
    // Of no family.
    let header = [0, 0, PROTOCOL, 0, 0, 0, 0, 0];
    // struct nexthop_grp: id, weight - 1, the same's high byte, reserved.
    let entry = |(id, weight): (&NexthopId, &u16)| {
        let [low, _] = (weight - 1).to_le_bytes();
        let [a, b, c, d] = id.to_ne_bytes();
        [a, b, c, d, low, 0, 0, 0]
    };
    let members: Vec<u8> = group.members.iter().flat_map(entry).collect();
    let request = Request::new(
        "set a group of nexthops",
        wire::RTM_NEWNEXTHOP,
        libc::NLM_F_ACK | flags,
        &header,
    )
    .attribute(wire::NHA_ID, &id.to_ne_bytes())
    .attribute(wire::NHA_GROUP, &members);
    if !group.resilient {
        return request;
    }
    // A nest of one attribute, padded.
    let mut buckets = Vec::from(6u16.to_ne_bytes());
    buckets.extend_from_slice(&wire::NHA_RES_GROUP_BUCKETS.to_ne_bytes());
    buckets.extend_from_slice(&BUCKETS.to_ne_bytes());
    buckets.extend_from_slice(&[0; 2]);
    request
        .attribute(wire::NHA_GROUP_TYPE, &wire::NEXTHOP_GRP_TYPE_RES.to_ne_bytes())
        .attribute(wire::NHA_RES_GROUP | libc::NLA_F_NESTED as u16, &buckets)
}
