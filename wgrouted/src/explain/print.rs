//! The answer in plain words, hop by hop.

use std::io::{self, Write};

use super::{
    onward::{Onward, PeerView, Replies, WireguardView},
    view::{Answer, PacketView, Said},
};
use crate::{
    config::{NameKind, Names, filter::protocol_name},
    core::{
        exits::iprule::{Mark, Selector},
        lookup::{
            kernel::Lookup,
            select::Mismatch,
            table::{Best, Found},
            walk::{Decision, Outcome, Step, Suppressed},
        },
        nexthops::ResolvedHop,
        route::{IfIndex, Route, RouteKind},
    },
    filter::answer::Fate,
    show::{self, kind_word},
};

/// Rules that were skipped are told up to this number; a machine may have thousands.
const SKIPPED: usize = 20;

/// What becomes of the packet.
pub fn print(out: &mut impl Write, answer: &Answer, names: &Names) -> io::Result<()> {
    let page = Page { answer, names };
    writeln!(out, "{}", packet(&answer.packet))?;
    let steps = answer.walk.steps.iter().zip(&answer.rule_names);
    let (skipped, tried): (Vec<_>, Vec<_>) =
        steps.partition(|(step, _)| matches!(step.outcome, Outcome::Skipped(_)));
    for (step, name) in tried {
        writeln!(out, "  {}", page.step(step, name.as_deref()))?;
    }
    page.candidates(out)?;
    match &answer.walk.decision {
        Decision::NoRoute => writeln!(out, "  no route")?,
        Decision::OnLink { oif } => {
            writeln!(out, "  no route: taken for a neighbour on {}", page.link(*oif))?;
        }
        Decision::Route { .. } | Decision::Rejected { .. } => {}
    }
    page.skipped(out, &skipped)?;
    writeln!(out, "  {}", page.kernel())?;
    if let Some(onward) = &answer.onward {
        page.onward(out, onward)?;
    }
    for note in &answer.notes {
        writeln!(out, "  note: {note}")?;
    }
    show::owners(out, &answer.interfaces, names)
}

struct Page<'a> {
    answer: &'a Answer,
    names: &'a Names,
}

type NamedStep<'a> = (&'a Step, &'a Option<String>);

impl Page<'_> {
    fn link(&self, index: IfIndex) -> String {
        self.answer.links.get(&index).cloned().unwrap_or_else(|| format!("link {index}"))
    }

    fn table(&self, table: u32) -> String {
        self.names.name(NameKind::Table, table)
    }

    fn step(&self, step: &Step, name: Option<&str>) -> String {
        let Step { rule, outcome } = step;
        let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
        let head = format!("rule {}{name}: {}", rule.priority, selector(&rule.selector));
        match outcome {
            Outcome::Skipped(Mismatch::Protocol { wants, has }) => {
                let has = has.map_or_else(|| "not given".to_owned(), protocol_word);
                let wants = protocol_word(*wants);
                format!("rule {}{name} ({wants}: the packet is {has})", rule.priority)
            }
            Outcome::Skipped(why) => format!("rule {}{name} ({why})", rule.priority),
            Outcome::Jumped => format!("{head}: {}", rule.action),
            Outcome::NoTarget => format!("{head}: {}, which does not exist", rule.action),
            Outcome::Passed => format!("{head}: nothing, on to the next rule"),
            Outcome::Rejected(kind) => {
                format!("{head}: {}", kind_word(*kind).unwrap_or("rejected"))
            }
            Outcome::Looked { table, found, suppressed } => {
                let not = match suppressed {
                    Some(Suppressed::Prefixlength(length)) => {
                        format!(", which does not count: no longer than /{length}")
                    }
                    Some(Suppressed::Group(group)) => {
                        format!(", which does not count: it leaves by a link of group {group}")
                    }
                    None => String::new(),
                };
                format!("{head}: table {}: {}{not}", self.table(*table), self.found(found))
            }
        }
    }

    fn found(&self, found: &Found) -> String {
        match found {
            Found::Nothing => "no route".to_owned(),
            Found::Throw(route) => format!("throw {}, on to the next rule", prefix(route)),
            Found::Reject { kind, route } => {
                format!("{} {}", kind_word(*kind).unwrap_or("rejected"), prefix(route))
            }
            Found::Route(best) => self.route(best),
        }
    }

    fn route(&self, Best { route, hops }: &Best) -> String {
        let mut text = match kind_word(route.path.kind) {
            Some(word) => format!("{word} {}", prefix(route)),
            None => prefix(route),
        };
        if route.path.tos != 0 {
            text += &format!(" tos {:#x}", route.path.tos);
        }
        if route.path.metric != 0 {
            text += &format!(" metric {}", route.path.metric);
        }
        if route.path.nexthop != 0 {
            let what = if hops.len() > 1 { "nexthop group" } else { "nexthop" };
            text += &format!(" by {what} {}", route.path.nexthop);
            if let Some(name) = &self.answer.nexthop_name {
                text += &format!(" ({name})");
            }
        }
        match hops.as_slice() {
            [one] => text + &self.via(one.hop.gateway, one.hop.oif),
            hops => format!("{text}, one of {} hops", hops.len()),
        }
    }

    fn via(&self, gateway: Option<std::net::IpAddr>, oif: IfIndex) -> String {
        let gateway = gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        format!("{gateway} dev {}", self.link(oif))
    }

    /// The hops among which the kernel's hash chooses.
    fn candidates(&self, out: &mut impl Write) -> io::Result<()> {
        let Decision::Route { best, .. } = &self.answer.walk.decision else { return Ok(()) };
        if best.hops.len() < 2 {
            return Ok(());
        }
        for ResolvedHop { hop, .. } in &best.hops {
            writeln!(out, "    hop{} weight {}", self.via(hop.gateway, hop.oif), hop.weight)?;
        }
        Ok(())
    }

    fn skipped(&self, out: &mut impl Write, skipped: &[NamedStep<'_>]) -> io::Result<()> {
        for (step, name) in skipped.iter().take(SKIPPED) {
            writeln!(out, "  skipped: {}", self.step(step, name.as_deref()))?;
        }
        match skipped.len().saturating_sub(SKIPPED) {
            0 => Ok(()),
            more => writeln!(out, "  skipped: {more} more, which --json lists"),
        }
    }

    fn kernel(&self) -> String {
        match &self.answer.kernel {
            Said::Answer { agrees: true, lookup } => {
                format!("the kernel agrees: {}", self.lookup(lookup))
            }
            Said::Answer { agrees: false, lookup } => {
                let mut text = format!("the kernel answers differently: {}", self.lookup(lookup));
                if self.answer.packet.iif.is_some() && !lookup.is_way() {
                    text += " (forwarding may be off, or the source refused: rp_filter)";
                }
                text
            }
            Said::NotAsked => "the kernel was not asked".to_owned(),
            Said::Failed { error } => format!("the kernel did not answer: {error}"),
        }
    }

    fn lookup(&self, lookup: &Lookup) -> String {
        let (hop, source) = match lookup {
            Lookup::NoRoute => return "no route, network unreachable".to_owned(),
            Lookup::Rejected(kind) => return kind_word(*kind).unwrap_or("rejected").to_owned(),
            Lookup::Route { route, .. } if route.path.kind != RouteKind::Unicast => {
                return format!("for this host itself, table {}", self.table(route.path.table));
            }
            Lookup::Route { hop, source, .. } => (*hop, *source),
            Lookup::OnLink { hop, source } => (Some(*hop), *source),
        };
        let way = hop.map(|hop| self.via(hop.gateway, hop.oif)).unwrap_or_default();
        let source = source.map(|source| format!(" src {source}")).unwrap_or_default();
        format!("{}{source}", way.trim_start())
    }

    fn onward(&self, out: &mut impl Write, onward: &Onward) -> io::Result<()> {
        let Onward { link, tunnel, wireguard, .. } = onward;
        write!(out, "  → link {link}")?;
        if let Some(tunnel) = tunnel {
            let (kind, over) = (tunnel.kind, &tunnel.over);
            write!(out, ", {kind} from {} to {}", tunnel.local, tunnel.remote)?;
            if !over.is_empty() {
                write!(out, " over {over}")?;
            }
        }
        let Some(WireguardView { device, address, peer, replies }) = wireguard else {
            let by = onward.gateway.map(|gateway| format!(", to {gateway}")).unwrap_or_default();
            return writeln!(out, "{by}: no peer of WireGuard's");
        };
        let Some(PeerView { name, allowed_ip, endpoint, outer, .. }) = peer else {
            return writeln!(
                out,
                ", but no peer of {device} has {address} in its AllowedIPs: the packet is dropped \
                 (ENOKEY)"
            );
        };
        write!(out, ", to peer {name}")?;
        match endpoint {
            Some(endpoint) => write!(out, " at {endpoint}")?,
            None => write!(out, ", whose endpoint nobody knows: the packet is dropped")?,
        }
        writeln!(out, " (AllowedIPs {allowed_ip})")?;
        if let Some((link, gateway)) = outer {
            let by = gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
            writeln!(out, "  → WireGuard's packets to it leave{by} by {link}")?;
        }
        match replies {
            Some(replies) => {
                writeln!(out, "  replies: {}", self.replies(replies, name, allowed_ip))
            }
            None => Ok(()),
        }
    }

    fn replies(
        &self,
        replies: &Replies,
        name: &str,
        allowed_ip: &crate::core::prefix::Prefix,
    ) -> String {
        let Replies { source, filter } = replies;
        let Some(filter) = filter else {
            return format!("WireGuard lets {source} in from {name} (AllowedIPs {allowed_ip})");
        };
        let said = filter.program.as_ref().unwrap_or(&filter.library);
        let does = match said.fate {
            Fate::Pass => "lets",
            Fate::Monitor => "would not let, but only watches,",
            Fate::Drop => "does not let",
        };
        let by_policy = matches!(said.reason.as_ref(), "drop-rule" | "drop-default");
        let but = if by_policy {
            "; its source is right, and what belongs to a flow that this host began passes a \
             stateful policy"
        } else {
            ""
        };
        format!("the filter {does} {source} in from {name}: {} ({}){but}", said.why, said.reason)
    }
}

fn packet(packet: &PacketView) -> String {
    let PacketView { to, from, iif, oif, mark, uid, tos, protocol, sport, dport } = packet;
    let from = from.map(|from| from.to_string());
    let mut text = match (iif, from) {
        (Some(iif), from) => {
            format!("{to} from {}, coming by {iif}", from.as_deref().unwrap_or("nowhere"))
        }
        (None, Some(from)) => format!("{to} from this host's {from}, uid {uid}"),
        (None, None) => format!("{to} from this host, uid {uid}"),
    };
    if let Some(oif) = oif {
        text += &format!(", bound to {oif}");
    }
    if *mark != 0 {
        text += &format!(", mark {mark:#x}");
    }
    if *tos != 0 {
        text += &format!(", tos {tos:#x}");
    }
    match protocol {
        Some(protocol) => text += &format!(", {}", protocol_word(*protocol)),
        None => return text,
    }
    for (word, port) in [("from", sport), ("to", dport)] {
        if let Some(port) = port {
            text += &format!(" {word} port {port}");
        }
    }
    text
}

fn protocol_word(number: u8) -> String {
    protocol_name(number).map_or_else(|| format!("protocol {number}"), str::to_owned)
}

fn prefix(route: &Route) -> String {
    let to =
        if route.prefix.is_default() { "default".to_owned() } else { route.prefix.to_string() };
    match route.path.source {
        Some(source) => format!("{to} from {source}"),
        None => to,
    }
}

/// Which packets a rule is for.
fn selector(wants: &Selector) -> String {
    let mut words = Vec::new();
    let Selector { from, to, iif, oif, mark, uid, tos, dscp, protocol, sport, dport, .. } = wants;
    words.extend(from.map(|from| format!("from {from}")));
    words.extend(to.map(|to| format!("to {to}")));
    words.extend(iif.as_ref().map(|iif| match iif.as_str() {
        "lo" => "this host's own".to_owned(),
        iif => format!("coming by {iif}"),
    }));
    words.extend(oif.as_ref().map(|oif| format!("bound to {oif}")));
    words.extend(mark.map(|Mark { value, mask }| match mask {
        u32::MAX => format!("mark {value:#x}"),
        mask => format!("mark {value:#x}/{mask:#x}"),
    }));
    words.extend(uid.map(|uid| format!("uid {uid}")));
    words.extend(Some(*tos).filter(|tos| *tos != 0).map(|tos| format!("tos {tos:#x}")));
    words.extend(dscp.map(|dscp| format!("dscp {dscp}")));
    words.extend(Some(*protocol).filter(|number| *number != 0).map(protocol_word));
    words.extend(sport.map(|ports| format!("from port {ports}")));
    words.extend(dport.map(|ports| format!("to port {ports}")));
    if wants.l3mdev {
        words.push("of a VRF".to_owned());
    }
    let but = if wants.inverted { "all but " } else { "" };
    match words.is_empty() {
        true => "all packets".to_owned(),
        false => format!("{but}{}", words.join(", ")),
    }
}
