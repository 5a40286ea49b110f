//! What is inside a peer's packet?
//!
//! Tunnels that the operator has configured are looked through, by one level: what they carry is
//! judged as sent by the tunnel's own peer in the tables. Everything else that encapsulates is a
//! packet like others. The kernel gives a tunnel's device what comes between its ends with its key,
//! so these are what is looked up; nothing that reaches the device is judged by its outer header
//! alone, but for later fragments ([`Reason::TunnelFragment`]).

use crate::addr::Addr;
use crate::layout::{Reason, Tunnel, TunnelKey};
use crate::packet::Packet;
use crate::parse::{self, Encapsulated, Extent, FIRST, Headers, LATER};
use crate::tables::{Tables, Work};

/// What a packet encapsulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// Nothing that concerns a tunnel.
    Nothing,
    /// Part of a packet of this tunnel; 0: of one between whose ends all tunnels have keys.
    Fragment(u32),
    /// The packet whose headers are now those to judge, of this tunnel.
    Packet(u32),
}

/// Which address of the outer packet is which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    sent: bool,
}

impl Ends {
    /// The source is the other end.
    pub const RECEIVED: Ends = Ends { sent: false };
    /// The source is this end.
    pub const SENT: Ends = Ends { sent: true };

    #[inline(always)]
    const fn of(self, headers: &Headers) -> (Addr, Addr) {
        if self.sent { (headers.src, headers.dst) } else { (headers.dst, headers.src) }
    }
}

/// Looks into the packet in `work.headers`, which this peer sends or is sent. An error comes with
/// the tunnel, or 0 if that is not known.
#[inline(always)]
pub fn enter<P: Packet, T: Tables>(
    packet: &P,
    ends: Ends,
    peer: u32,
    tables: &T,
    work: &mut Work,
) -> Result<Inside, (Reason, u32)> {
    if !parse::is_encapsulation(work.headers.protocol) {
        return Ok(Inside::Nothing);
    }
    let Work { headers, tunnel: key, .. } = work;
    let (local, remote) = ends.of(headers);
    let (family, protocol) = (headers.family, headers.protocol);
    *key = TunnelKey { local, remote, peer, family, protocol, ..TunnelKey::default() };
    let between = tables.tunnel(key);
    let mut found = match between {
        Some(found) => found,
        None => {
            *key = TunnelKey { peer, ..TunnelKey::default() };
            match tables.tunnel(key) {
                Some(found) => found,
                None => return Ok(Inside::Nothing),
            }
        }
    };
    if headers.fragment == LATER {
        return Ok(Inside::Fragment(found.peer));
    }
    let inside = parse::encapsulated(packet, headers).map_err(|reason| (reason, found.peer))?;
    if between.is_some() && inside.keyed {
        (key.keyed, key.key) = (1, inside.key);
        found = tables.tunnel(key).ok_or((Reason::NoTunnel, 0))?;
    }
    if found.peer == 0 {
        return Err((Reason::NoTunnel, 0));
    }
    read(packet, inside, &found, headers).map_err(|reason| (reason, found.peer))?;
    Ok(Inside::Packet(found.peer))
}

/// Reads the inner packet's headers in place of the outer one's.
#[inline(always)]
fn read<P: Packet>(
    packet: &P,
    inside: Encapsulated,
    tunnel: &Tunnel,
    headers: &mut Headers,
) -> Result<(), Reason> {
    let (end, begun) = (headers.end, headers.fragment == FIRST);
    let extent = if begun { Extent::Begun } else { Extent::Whole };
    // What is malformed in a first fragment may only not be there yet: there is no telling.
    let short = if begun { Reason::TunnelTruncated } else { Reason::Malformed };
    match parse::ip(packet, inside.at, extent, headers) {
        Ok(()) => {}
        Err(Reason::Malformed) => return Err(short),
        Err(reason) => return Err(reason),
    }
    headers.zone = tunnel.zone;
    if headers.family != inside.family {
        return Err(Reason::TunnelPayload);
    }
    let within = if begun { headers.lie_before(end) } else { headers.end <= end };
    if within { Ok(()) } else { Err(short) }
}
