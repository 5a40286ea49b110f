//! The verdict on a packet, and what is written down about it.
//!
//! [`ingress`] and [`egress`] are all that the programs call; [`decide`] is the verdict alone.

use crate::addr::{Addr, stays_on_link};
use crate::layout::{Event, Finder, Link, Peer, Reason, Sample, Settings, domain, owner, slot};
use crate::packet::Packet;
use crate::parse::{self, ETHERNET_LENGTH, Ethernet, Extent, Headers};
use crate::policy::{self, Answer};
use crate::source;
use crate::tables::{Tables, Work};
use crate::tunnel::{self, Ends, Inside};

/// What becomes of a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why.
    pub reason: Reason,
    /// The packet passes although `reason` speaks against it.
    pub monitored: bool,
    /// The peer; 0: unknown.
    pub peer: u32,
    /// Index of the deciding rule within its policy plus one; 0: no rule.
    pub rule: u32,
}

impl Verdict {
    /// Whether the packet is dropped.
    #[inline(always)]
    pub const fn is_drop(&self) -> bool {
        self.reason.is_drop() && !self.monitored
    }

    /// The verdict in one word, for the program that only answers. The peer is left out.
    #[inline(always)]
    pub const fn encode(&self) -> u32 {
        (self.monitored as u32) << 24 | (self.reason as u32) << 16 | (self.rule & 0xffff)
    }

    /// The verdict behind [`Verdict::encode`], but for the peer.
    pub const fn decode(word: u32) -> Option<Verdict> {
        let reason = (word >> 16 & 0xff) as usize;
        if word >> 25 != 0 || reason >= Reason::ALL.len() {
            return None;
        }
        let (monitored, rule) = (word >> 24 != 0, word & 0xffff);
        Some(Verdict { reason: Reason::ALL[reason], monitored, peer: 0, rule })
    }

    #[inline(always)]
    const fn by(answer: Answer, id: u32, peer: &Peer) -> Verdict {
        let monitored = peer.flags & Peer::MONITOR != 0 && answer.reason.is_drop();
        Verdict { reason: answer.reason, monitored, peer: id, rule: answer.rule }
    }
}

/// Judges a received packet and writes down what is to be counted, sampled and remembered.
#[inline(always)]
pub fn ingress<P: Packet, T: Tables>(
    packet: &P,
    ifindex: u32,
    tables: &mut T,
    work: &mut Work,
) -> Verdict {
    let verdict = decide(packet, ifindex, tables, work);
    account(packet, ifindex, &verdict, &work.headers, tables);
    verdict
}

/// Judges a received packet. Flows and fragments are looked up, refreshed and opened.
#[inline(never)]
pub fn decide<P: Packet, T: Tables>(
    packet: &P,
    ifindex: u32,
    tables: &mut T,
    work: &mut Work,
) -> Verdict {
    work.headers = Headers::default();
    let guard = tables.settings().flags & Settings::GUARD != 0;
    let unconfigured = if guard { Reason::Unconfigured } else { Reason::Unguarded };
    let Some(link) = tables.link(ifindex) else {
        return Verdict { reason: unconfigured, monitored: false, peer: 0, rule: 0 };
    };
    // As long as no peer is known, the link says what becomes of packets.
    let mut id = 0;
    let unknown = if link.flags & Link::MONITOR != 0 { Peer::MONITOR } else { 0 };
    let mut peer = Peer { flags: unknown, ..Peer::default() };
    if let Err(reason) = find(packet, ifindex, &link, tables, &mut work.headers, &mut id, &mut peer)
    {
        return Verdict::by(Answer { reason, rule: 0 }, id, &peer);
    }
    work.headers.zone = link.zone;
    if peer.mode == 0 {
        return Verdict { reason: unconfigured, monitored: false, peer: id, rule: 0 };
    }
    if let Err(reason) = source::check(tables, id, &peer, &work.headers) {
        return Verdict::by(Answer { reason, rule: 0 }, id, &peer);
    }
    if peer.flags & Peer::TUNNELS != 0 {
        match tunnel::enter(packet, Ends::RECEIVED, id, tables, work) {
            Ok(Inside::Nothing) => {}
            Ok(Inside::Fragment(tunnel)) => {
                let id = if tunnel == 0 { id } else { tunnel };
                let reason = Reason::TunnelFragment;
                return Verdict { reason, monitored: false, peer: id, rule: 0 };
            }
            Ok(Inside::Packet(tunnel)) => {
                id = tunnel;
                peer = tables.peer(id).unwrap_or_default();
                if peer.mode == 0 {
                    return Verdict { reason: unconfigured, monitored: false, peer: id, rule: 0 };
                }
                if let Err(reason) = source::check(tables, id, &peer, &work.headers) {
                    return Verdict::by(Answer { reason, rule: 0 }, id, &peer);
                }
            }
            Err((reason, tunnel)) => {
                if tunnel != 0 {
                    id = tunnel;
                    peer = tables.peer(id).unwrap_or_default();
                }
                return Verdict::by(Answer { reason, rule: 0 }, id, &peer);
            }
        }
    }
    let answer = if peer.policy == 0 {
        Answer { reason: Reason::Source, rule: 0 }
    } else if peer.flags & Peer::CONTROL != 0
        && stays_on_link(work.headers.family, work.headers.dst)
    {
        Answer { reason: Reason::Control, rule: 0 }
    } else {
        let answer = policy::check(packet, work, u32::from(peer.policy), tables);
        if T::WRITE && matches!(answer.reason, Reason::Accept | Reason::AcceptDefault) {
            policy::open(work, id, tables);
        }
        if T::WRITE && !answer.reason.is_drop() {
            policy::remember(work, tables);
        }
        answer
    };
    Verdict::by(answer, id, &peer)
}

/// Reads the packet that is to be judged, and finds who sent it.
#[inline(always)]
fn find<P: Packet, T: Tables>(
    packet: &P,
    ifindex: u32,
    link: &Link,
    tables: &T,
    headers: &mut Headers,
    id: &mut u32,
    peer: &mut Peer,
) -> Result<(), Reason> {
    let dedicated = link.finder == Finder::Dedicated as u8;
    if dedicated {
        *id = link.peer;
        *peer = tables.peer(link.peer).unwrap_or_default();
    }
    let mut at = 0;
    if link.flags & Link::ETHERNET != 0 {
        match parse::ethernet(packet) {
            Ethernet::Ip => at = ETHERNET_LENGTH,
            Ethernet::Arp => return Err(Reason::Arp),
            Ethernet::Other => return Err(Reason::NotIp),
        }
    }
    parse::ip(packet, at, Extent::Whole, headers)?;
    if dedicated {
        return Ok(());
    }
    let number = proven(tables, ifindex, headers.family, headers.src);
    if number == owner::NOBODY {
        return Err(Reason::UnknownPeer);
    }
    *id = number;
    *peer = tables.peer(number).unwrap_or_default();
    Ok(())
}

/// The peer to which WireGuard gives an address.
#[inline(always)]
fn proven<T: Tables>(tables: &T, ifindex: u32, family: u8, addr: Addr) -> u32 {
    let found = tables.owner(family, domain::proven(ifindex), addr);
    found.unwrap_or(owner::NOBODY) & owner::NUMBER
}

/// Counts the packet, notes that its peer lives, and samples it if it is dropped or would be.
#[inline(never)]
fn account<P: Packet, T: Tables>(
    packet: &P,
    ifindex: u32,
    verdict: &Verdict,
    headers: &Headers,
    tables: &mut T,
) {
    let length = packet.length();
    tables.count(verdict.peer, slot(verdict.reason, verdict.monitored), length);
    let now = tables.now();
    if !verdict.is_drop() && verdict.peer != 0 {
        tables.seen(verdict.peer, now);
    }
    if !verdict.reason.is_drop() {
        return;
    }
    let limit = tables.settings().samples_per_second;
    if limit == 0 {
        return;
    }
    if !tables.may_sample(limit, now) {
        tables.event(Event::SampleLimited);
        return;
    }
    tables.sample(&Sample {
        time: now,
        src: headers.src,
        dst: headers.dst,
        ifindex,
        peer: verdict.peer,
        rule: verdict.rule,
        length,
        src_port: headers.src_port,
        dst_port: headers.dst_port,
        protocol: headers.protocol,
        family: headers.family,
        reason: verdict.reason as u8,
        monitored: u8::from(verdict.monitored),
    });
}

/// Looks at a packet that this side sends, and opens its flow so that the replies pass.
#[inline(always)]
pub fn egress<P: Packet, T: Tables>(packet: &P, ifindex: u32, tables: &mut T, work: &mut Work) {
    let Some(link) = tables.link(ifindex) else { return };
    if link.flags & Link::LEARN == 0 {
        return;
    }
    let mut at = 0;
    if link.flags & Link::ETHERNET != 0 {
        if parse::ethernet(packet) != Ethernet::Ip {
            return;
        }
        at = ETHERNET_LENGTH;
    }
    let headers = &mut work.headers;
    if parse::ip(packet, at, Extent::Whole, headers).is_err() {
        return;
    }
    headers.zone = link.zone;
    if link.flags & Link::TUNNELS != 0 {
        let id = if link.finder == Finder::Dedicated as u8 {
            link.peer
        } else {
            proven(tables, ifindex, headers.family, headers.dst)
        };
        match tunnel::enter(packet, Ends::SENT, id, tables, work) {
            Ok(Inside::Nothing | Inside::Packet(_)) => {}
            Ok(Inside::Fragment(_)) | Err(_) => return,
        }
    }
    policy::open(work, 0, tables);
}
