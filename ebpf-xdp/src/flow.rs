//! Flows: what makes two packets one conversation, and for how long.
//!
//! A flow has the same key in both directions. It passes packets of either side until it has been
//! silent for longer than [`timeout`].

use crate::addr::{V4, is_multicast};
use crate::layout::{Flow, FlowKey, FragmentKey};
use crate::parse::{Headers, LATER, protocol, tcp};

/// Packets came from the lower end.
pub const FROM_A: u32 = 1;
/// Packets came from the higher end.
pub const FROM_B: u32 = 2;
/// The lower end has nothing more to send.
pub const FIN_A: u32 = 4;
/// The higher end has nothing more to send.
pub const FIN_B: u32 = 8;
/// The connection was reset.
pub const RESET: u32 = 16;

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
/// How old a time in a table may grow before it is written again: what is written by every packet
/// is fought over by all CPUs.
pub const REFRESH: u64 = SECOND;
/// How long later fragments may follow the first one (`net.ipv4.ipfrag_time`).
pub const FRAGMENT_TIMEOUT: u64 = 30 * SECOND;

/// A TCP connection (RFC 5382 section 5).
pub const TCP_ESTABLISHED: u64 = 7440 * SECOND;
/// A TCP connection that nobody has answered.
pub const TCP_OPENING: u64 = 60 * SECOND;
/// A TCP connection that has ended.
pub const TCP_CLOSED: u64 = 10 * SECOND;
/// UDP in both directions (RFC 4787 section 4.3 wants two minutes at least).
pub const UDP_ANSWERED: u64 = 180 * SECOND;
/// UDP in one direction.
pub const UDP_OPENING: u64 = 30 * SECOND;
/// ICMP echo.
pub const ICMP: u64 = 30 * SECOND;
/// Everything else.
pub const OTHER: u64 = 600 * SECOND;

/// The port that stands for the side which answers echo requests: a request and its reply mirror
/// each other, two requests in opposite directions do not.
const ECHO: u16 = 8;

/// Writes the key of the packet's flow; gives the bit of its direction. `None`: such packets have
/// no flow.
#[inline(always)]
pub fn key(headers: &Headers, key: &mut FlowKey) -> Option<u32> {
    if headers.fragment == LATER || is_multicast(headers.family, headers.dst) {
        return None;
    }
    let (mut src_port, mut dst_port) = (headers.src_port, headers.dst_port);
    if headers.is_icmp() {
        let (request, reply) = if headers.family == V4 { (8, 0) } else { (128, 129) };
        if headers.dst_port == request {
            (src_port, dst_port) = (headers.echo_id, ECHO);
        } else if headers.dst_port == reply {
            (src_port, dst_port) = (ECHO, headers.echo_id);
        } else {
            return None;
        }
    }
    let (src, dst) = (headers.src, headers.dst);
    let forward = if src.hi != dst.hi {
        src.hi < dst.hi
    } else if src.lo != dst.lo {
        src.lo < dst.lo
    } else {
        src_port <= dst_port
    };
    key.protocol = headers.protocol;
    key.family = headers.family;
    key.zone = headers.zone;
    if forward {
        (key.a, key.b, key.a_port, key.b_port) = (src, dst, src_port, dst_port);
        Some(FROM_A)
    } else {
        (key.a, key.b, key.a_port, key.b_port) = (dst, src, dst_port, src_port);
        Some(FROM_B)
    }
}

/// How long a flow may be silent.
#[inline(always)]
pub const fn timeout(protocol: u8, state: u32) -> u64 {
    let answered = state & (FROM_A | FROM_B) == FROM_A | FROM_B;
    match protocol {
        protocol::TCP if is_closed(state) => TCP_CLOSED,
        protocol::TCP if answered => TCP_ESTABLISHED,
        protocol::TCP => TCP_OPENING,
        protocol::UDP | protocol::UDPLITE if answered => UDP_ANSWERED,
        protocol::UDP | protocol::UDPLITE => UDP_OPENING,
        protocol::ICMP | protocol::ICMPV6 => ICMP,
        _ => OTHER,
    }
}

const fn is_closed(state: u32) -> bool {
    state & RESET != 0 || state & (FIN_A | FIN_B) == FIN_A | FIN_B
}

/// Whether a flow has been silent for too long.
#[inline(always)]
pub const fn is_expired(protocol: u8, flow: &Flow, now: u64) -> bool {
    now.saturating_sub(flow.seen) > timeout(protocol, flow.state)
}

/// Whether the packet opens a new connection where an old one has ended.
#[inline(always)]
pub const fn reopens(headers: &Headers, flow: &Flow) -> bool {
    headers.protocol == protocol::TCP
        && headers.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN
        && is_closed(flow.state)
}

/// The state after one more packet.
#[inline(always)]
pub const fn state(headers: &Headers, direction: u32, state: u32) -> u32 {
    let mut state = state | direction;
    if headers.protocol == protocol::TCP {
        if headers.tcp_flags & tcp::FIN != 0 {
            // FROM_A, FROM_B to FIN_A, FIN_B.
            state |= direction << 2;
        }
        if headers.tcp_flags & tcp::RST != 0 {
            state |= RESET;
        }
    }
    state
}

/// Takes note of one more packet.
#[inline(always)]
pub fn touch(flow: &mut Flow, headers: &Headers, direction: u32, now: u64) {
    let state = state(headers, direction, flow.state);
    if state != flow.state {
        flow.state = state;
        flow.seen = now;
    } else if now.saturating_sub(flow.seen) > REFRESH {
        flow.seen = now;
    }
}

/// Writes the key of a fragmented packet.
#[inline(always)]
pub fn fragment_key(headers: &Headers, key: &mut FragmentKey) {
    key.src = headers.src;
    key.dst = headers.dst;
    key.id = headers.fragment_id;
    key.zone = headers.zone;
    key.protocol = if headers.family == V4 { headers.protocol } else { 0 };
    key.family = headers.family;
}

const _: () = assert!(FROM_A << 2 == FIN_A && FROM_B << 2 == FIN_B);
