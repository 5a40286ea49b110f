//! Answers for people.
//!
//! Here lives the printing of reports as text, in the words of `ip` and `wg`. Scripts use `--json`,
//! whose form is that of [`crate::core::report`].

use std::io::{self, Write};

use crate::{
    config::{NameKind, Names},
    core::{
        report::{
            Candidate, Explanation, InterfaceState, Origin, Owner, PeerRow, RouteRow, ShadowedRow,
            Status, UnresolvedRow, Verdict,
        },
        route::RouteKind,
    },
};

/// Prints rows under headings, columns aligned.
pub(crate) fn table<const N: usize>(
    out: &mut impl Write,
    headings: [&str; N],
    rows: impl Iterator<Item = [String; N]> + Clone,
) -> io::Result<()> {
    let mut widths = headings.map(str::len);
    for row in rows.clone() {
        for (width, cell) in widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut line = |cells: &[String; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        writeln!(out, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    line(&headings.map(str::to_owned))?;
    for row in rows {
        line(&row)?;
    }
    Ok(())
}

/// `show status`.
pub fn status(out: &mut impl Write, status: &Status, names: &Names) -> io::Result<()> {
    let Status { ipv4_routes, ipv6_routes, paths, counters, .. } = status;
    writeln!(out, "routes: {ipv4_routes} IPv4, {ipv6_routes} IPv6, {paths} distinct paths")?;
    writeln!(
        out,
        "events: {} routes, {} overruns, {} tables read ({} routes), {} ambiguous",
        counters.route_events,
        counters.overruns,
        counters.route_dumps,
        counters.routes_dumped,
        counters.ambiguous_events,
    )?;
    let mebibytes = status.table_bytes as f64 / f64::from(1 << 20);
    writeln!(out, "memory: {mebibytes:.1} MiB of tables")?;
    for interface in &status.interfaces {
        let state = match interface.state {
            InterfaceState::Waiting => "waiting for the device",
            InterfaceState::Reading => "reading routes and device",
            InterfaceState::Applying => "applying changes",
            InterfaceState::InSync => "in sync",
        };
        writeln!(out, "\ninterface {}: {state}", interface.name)?;
        let tables = interface.tables.iter().map(|table| names.name(NameKind::Table, *table));
        writeln!(out, "  follows: table {}", tables.collect::<Vec<_>>().join(", "))?;
        for family in &interface.dedicated {
            writeln!(out, "  {family}: the only peer owns everything; AllowedIPs are left alone")?;
        }
        writeln!(
            out,
            "  holds: {} AllowedIPs of {} peers, {} changes pending",
            interface.allowed_ips, interface.peers, interface.pending
        )?;
        writeln!(
            out,
            "  routes without a peer: {}, prefixes with shadowed routes: {}",
            interface.unresolved, interface.shadowed
        )?;
        let done = &interface.counters;
        writeln!(
            out,
            "  done: {} added, {} moved, {} removed, {} refused, {} repaired after outside edits",
            done.adds, done.moves, done.removes, done.refused, done.drift
        )?;
        writeln!(
            out,
            "  cost: {} batches, {} messages (longest {:?}), {} device dumps",
            done.batches, done.messages, done.longest_message, done.device_dumps
        )?;
    }
    Ok(())
}

/// `show routes`.
pub fn routes(out: &mut impl Write, rows: &[RouteRow]) -> io::Result<()> {
    let text = |name: &Option<std::sync::Arc<str>>| {
        name.as_ref().map_or_else(|| "-".to_owned(), |name| name.to_string())
    };
    table(
        out,
        ["INTERFACE", "PREFIX", "PEER", "STATE"],
        rows.iter().map(|row| {
            let state = match (&row.peer, &row.installed) {
                (wanted, installed) if wanted == installed => match row.origin {
                    Origin::Pinned => "pinned".to_owned(),
                    Origin::Route => "installed".to_owned(),
                    Origin::Foreign => "not managed".to_owned(),
                },
                (Some(_), None) => "to be added".to_owned(),
                (Some(_), Some(from)) => format!("to be moved from {from}"),
                (None, _) => format!("to be removed from {}", text(&row.installed)),
            };
            [row.interface.to_string(), row.prefix.to_string(), text(&row.peer), state]
        }),
    )
}

/// `plan`.
pub fn plan(out: &mut impl Write, rows: &[RouteRow]) -> io::Result<()> {
    for row in rows {
        let RouteRow { interface, prefix, .. } = row;
        match (&row.peer, &row.installed) {
            (Some(to), None) => writeln!(out, "{interface}: add {prefix} to {to}")?,
            (Some(to), Some(from)) => {
                writeln!(out, "{interface}: move {prefix} from {from} to {to}")?;
            }
            (None, Some(from)) => writeln!(out, "{interface}: remove {prefix} from {from}")?,
            (None, None) => {}
        }
    }
    match rows.len() {
        0 => writeln!(out, "nothing to change"),
        1 => writeln!(out, "1 change"),
        more => writeln!(out, "{more} changes"),
    }
}

/// `show peers`.
pub fn peers(out: &mut impl Write, rows: &[PeerRow]) -> io::Result<()> {
    table(
        out,
        ["INTERFACE", "PEER", "PUBLIC KEY", "ALLOWED IPS", "PINNED"],
        rows.iter().map(|row| {
            let mut pinned: Vec<String> = row.pinned.iter().map(ToString::to_string).collect();
            if row.learning {
                pinned.push("(learning)".to_owned());
            }
            [
                row.interface.to_string(),
                row.name.clone(),
                row.public_key.to_string(),
                if row.present { row.allowed_ips.to_string() } else { "not there".to_owned() },
                pinned.join(" "),
            ]
        }),
    )
}

/// `show unresolved`.
pub fn unresolved(out: &mut impl Write, rows: &[UnresolvedRow]) -> io::Result<()> {
    table(
        out,
        ["INTERFACE", "PREFIX", "REASON"],
        rows.iter().map(|row| [row.interface.to_string(), row.prefix.to_string(), row.why.clone()]),
    )
}

/// `show shadowed`.
pub fn shadowed(out: &mut impl Write, rows: &[ShadowedRow], names: &Names) -> io::Result<()> {
    for row in rows {
        let peer = row.peer.as_deref().unwrap_or("no peer");
        writeln!(out, "{}: {} belongs to {peer}", row.interface, row.prefix)?;
        for candidate in &row.candidates {
            writeln!(out, "  {}", candidate_line(candidate, names))?;
        }
    }
    Ok(())
}

/// Which peers an address belongs to, and why: the end of `explain`.
pub fn owners(out: &mut impl Write, explanations: &[Explanation], names: &Names) -> io::Result<()> {
    for explanation in explanations {
        let Explanation { interface, address, installed, wanted, pinned, candidates } = explanation;
        let text = |owner: &Owner| format!("{} of peer {}", owner.prefix, owner.peer);
        match wanted {
            Some(owner) => {
                let Owner { prefix, peer, public_key } = owner;
                writeln!(out, "{interface}: {address} belongs to peer {peer} ({public_key})")?;
                let why = if *pinned { "the peer's own address" } else { "follows a route" };
                writeln!(out, "  wanted:    {prefix}, {why}")?;
            }
            None => writeln!(out, "{interface}: {address} belongs to no peer")?,
        }
        match installed {
            Some(owner) if wanted.as_ref() == Some(owner) => {
                writeln!(out, "  installed: {}", owner.prefix)?;
            }
            Some(owner) => writeln!(out, "  installed: {} (not yet what is wanted)", text(owner))?,
            None => writeln!(out, "  installed: nothing: WireGuard would answer ENOKEY")?,
        }
        for candidate in candidates {
            writeln!(out, "  route:     {}", candidate_line(candidate, names))?;
        }
    }
    Ok(())
}

fn candidate_line(candidate: &Candidate, names: &Names) -> String {
    let mut line = match kind_word(candidate.kind) {
        Some(word) => format!("{word} {}", candidate.prefix),
        None => candidate.prefix.to_string(),
    };
    if let Some(gateway) = candidate.gateway {
        line += &format!(" via {gateway}");
    }
    if let Some(link) = &candidate.link {
        line += &format!(" dev {link}");
    }
    line += &format!(
        " table {} proto {} metric {}",
        names.name(NameKind::Table, candidate.table),
        names.name(NameKind::Protocol, candidate.protocol.into()),
        candidate.metric
    );
    if let Some(peer) = &candidate.peer {
        line += &format!(" -> {peer}");
    }
    let verdict = match candidate.verdict {
        Verdict::Wins => "wins",
        Verdict::Shadowed(_) | Verdict::LessSpecific => "lost",
        Verdict::Unresolved(_) => "no peer",
        Verdict::Elsewhere => "not considered",
    };
    format!("{line}: {verdict}: {}", candidate.why)
}

/// The word before a route's prefix, if there is one.
pub(crate) fn kind_word(kind: RouteKind) -> Option<&'static str> {
    match kind {
        RouteKind::Unicast => None,
        RouteKind::Blackhole => Some("blackhole"),
        RouteKind::Unreachable => Some("unreachable"),
        RouteKind::Prohibit => Some("prohibit"),
        RouteKind::Throw => Some("throw"),
        RouteKind::Other => Some("local"),
    }
}
