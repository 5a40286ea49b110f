//! A socket that is bound to a link.
//!
//! Here lives [`Socket`], with all that is asked of the kernel: raw ones for ICMP that hear echo
//! replies only, and UDP ones. It knows octets and addresses, not probes. Invariant: nothing blocks.
//!
//! The number of the link is bound, not its name: packets of a link that was made anew under the
//! same name cannot be mistaken for the old one's. UDP sockets of different links share a port
//! without further ado (`inet_rcv_saddr_equal`, `udp_lib_lport_inuse`, net/ipv4/udp.c), and nobody
//! else can take it on ours.

use std::{
    io::{self, IoSlice},
    mem,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use socket2::{Domain, MsgHdr, Protocol, SockAddr, Type};

use super::icmp;
use crate::core::{prefix::Family, route::IfIndex};

/// Answers are from neighbours: no router has to lower it, and none may eat them.
const HOPS: u32 = 255;
/// CS6, "network control" (RFC 4594 section 3.1), as routing daemons mark their packets: queues with
/// priorities let it pass when the link is full.
const TRAFFIC_CLASS: u32 = 0xc0;
/// `TC_PRIO_CONTROL` (linux/pkt_sched.h): the same to queues of this host.
const PRIORITY: u32 = 7;
/// A second of 5,000 probes, of which each takes about 800 octets of a queue (`skb->truesize`).
const QUEUE: libc::c_int = 4 * 1024 * 1024;
/// `ICMP_FILTER` (linux/icmp.h), of level `SOL_RAW`.
const ICMP_FILTER: libc::c_int = 1;
/// `ICMPV6_FILTER` (linux/icmpv6.h), of level `SOL_ICMPV6`.
const ICMPV6_FILTER: libc::c_int = 1;
const SOL_RAW: libc::c_int = 255;

/// How a socket asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Medium {
    pub(super) protocol: Echo,
    pub(super) family: Family,
}

/// Which echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Echo {
    Icmp,
    Udp,
}

/// The socket.
#[derive(Debug)]
pub(super) struct Socket {
    socket: socket2::Socket,
    ifindex: IfIndex,
}

/// What came, apart from the octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) length: usize,
    pub(super) source: SocketAddr,
    /// The address it was sent to, where an answer may come from it. Of UDP only.
    pub(super) asked: Option<IpAddr>,
    /// When the kernel had it, on the wall clock since the Unix epoch.
    pub(super) stamp: Option<Duration>,
}

/// Control messages, aligned as they must be, with room for a time and an address.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// One control message, as the kernel lays it out.
#[repr(C)]
struct ControlOf<T> {
    header: libc::cmsghdr,
    value: T,
}

impl Socket {
    /// Opens one. `port` is UDP's.
    pub(super) fn open(medium: Medium, ifindex: IfIndex, port: u16) -> io::Result<Socket> {
        let Medium { protocol, family } = medium;
        let domain = match family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let (kind, number) = match (protocol, family) {
            (Echo::Icmp, Family::V4) => (Type::RAW, Protocol::ICMPV4),
            (Echo::Icmp, Family::V6) => (Type::RAW, Protocol::ICMPV6),
            (Echo::Udp, _) => (Type::DGRAM, Protocol::UDP),
        };
        let socket = socket2::Socket::new(domain, kind.nonblocking().cloexec(), Some(number))?;
        let socket = Socket { socket, ifindex };
        // The filter and the link first: a raw socket hears from the moment it exists.
        if protocol == Echo::Icmp {
            socket.hear_replies_only(family)?;
        }
        socket.set(libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, ifindex as libc::c_int)?;
        socket.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1 as libc::c_int)?;
        socket.make_room(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)?;
        socket.make_room(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)?;
        let inner = &socket.socket;
        match family {
            Family::V4 => {
                inner.set_ttl_v4(HOPS)?;
                inner.set_multicast_ttl_v4(HOPS)?;
                inner.set_multicast_loop_v4(false)?;
                inner.set_tos_v4(TRAFFIC_CLASS)?;
            }
            Family::V6 => {
                inner.set_unicast_hops_v6(HOPS)?;
                inner.set_multicast_hops_v6(HOPS)?;
                inner.set_multicast_loop_v6(false)?;
                inner.set_tclass_v6(TRAFFIC_CLASS)?;
            }
        }
        // After IP_TOS, which sets a priority of its own (`__ip_sock_set_tos`, net/ipv4/ip_sockglue.c).
        inner.set_priority(PRIORITY)?;
        if protocol == Echo::Udp {
            let any: IpAddr = match family {
                Family::V4 => {
                    socket.set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1 as libc::c_int)?;
                    [0; 4].into()
                }
                Family::V6 => {
                    inner.set_only_v6(true)?;
                    socket.set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1 as libc::c_int)?;
                    [0; 16].into()
                }
            };
            inner.bind(&SocketAddr::new(any, port).into())?;
        }
        Ok(socket)
    }

    /// The link that it is bound to.
    pub(super) fn ifindex(&self) -> IfIndex {
        self.ifindex
    }

    /// Sends to an address on the link. `port` is UDP's, and 0 of ICMP.
    pub(super) fn send(&self, octets: &[u8], to: IpAddr, port: u16) -> io::Result<()> {
        let to = match to {
            IpAddr::V4(_) => SocketAddr::new(to, port),
            IpAddr::V6(to) => SocketAddrV6::new(to, port, 0, self.scope(to)).into(),
        };
        self.socket.send_to(octets, &to.into()).map(drop)
    }

    /// Answers whoever sent something, from the address that was asked.
    pub(super) fn answer(&self, octets: &[u8], asked: &Received) -> io::Result<()> {
        let to = SockAddr::from(asked.source);
        let octets = [IoSlice::new(octets)];
        let message = || MsgHdr::new().with_addr(&to).with_buffers(&octets);
        let send = |control: &[u8]| self.socket.sendmsg(&message().with_control(control), 0);
        let sent = match asked.asked {
            Some(IpAddr::V4(address)) => send(
                control_of(
                    (libc::IPPROTO_IP, libc::IP_PKTINFO),
                    libc::in_pktinfo {
                        ipi_ifindex: self.ifindex as libc::c_int,
                        ipi_spec_dst: libc::in_addr { s_addr: u32::from(address).to_be() },
                        ipi_addr: libc::in_addr { s_addr: 0 },
                    },
                )
                .octets(),
            ),
            Some(IpAddr::V6(address)) => send(
                control_of(
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
                    libc::in6_pktinfo {
                        ipi6_addr: libc::in6_addr { s6_addr: address.octets() },
                        ipi6_ifindex: self.ifindex,
                    },
                )
                .octets(),
            ),
            None => self.socket.sendmsg(&message(), 0),
        };
        sent.map(drop)
    }

    /// Takes what came, if something did. What does not fit is cut off.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut control = Control([0; 128]);
        let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: a message header without pointers is all zeros.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut slice;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control.0.len() as _;
        // SAFETY: the kernel writes an address and its length to where `try_init` says.
        let (length, source) = unsafe {
            SockAddr::try_init(|address, length| {
                header.msg_name = address.cast();
                header.msg_namelen = *length;
                // SAFETY: all pointers of the header lead to memory of the lengths beside them.
                let got = libc::recvmsg(self.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT);
                *length = header.msg_namelen;
                usize::try_from(got).map_err(|_| io::Error::last_os_error())
            })?
        };
        let Some(source) = source.as_socket() else {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        };
        let mut received = Received { length, source, asked: None, stamp: None };
        // SAFETY: the header is the one that the kernel filled in, and `control` still stands.
        unsafe { received.read_control(&header) };
        Ok(received)
    }

    fn hear_replies_only(&self, family: Family) -> io::Result<()> {
        // A bit that is set blocks the type (`icmp_filter`, net/ipv4/raw.c; `icmpv6_filter`,
        // net/ipv6/raw.c).
        match family {
            Family::V4 => self.set(SOL_RAW, ICMP_FILTER, !(1_u32 << icmp::ECHO_REPLY)),
            Family::V6 => {
                let mut blocked = [u32::MAX; 8];
                let reply = usize::from(icmp::ECHO_REPLY_V6);
                blocked[reply / 32] &= !(1 << (reply % 32));
                self.set(libc::IPPROTO_ICMPV6, ICMPV6_FILTER, blocked)
            }
        }
    }

    /// Asks for a long queue; without the privilege for a shorter one.
    fn make_room(&self, force: libc::c_int, ask: libc::c_int) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, force, QUEUE).or_else(|_| self.set(libc::SOL_SOCKET, ask, QUEUE))
    }

    fn scope(&self, address: Ipv6Addr) -> u32 {
        // An address of a link means nothing without the link (RFC 4007 section 6).
        let on_link = address.is_unicast_link_local() || address.is_multicast();
        if on_link { self.ifindex } else { 0 }
    }

    /// Sets an option that `socket2` does not know. `T` is the type that the kernel reads.
    fn set<T: Copy>(&self, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
        // SAFETY: the kernel reads as many octets as the value has.
        let result = unsafe {
            libc::setsockopt(
                self.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Received {
    /// # Safety
    ///
    /// `recvmsg` filled in the header, and its control messages are still there.
    unsafe fn read_control(&mut self, header: &libc::msghdr) {
        // SAFETY: as the caller says. The kernel writes whole messages of the types that it names.
        unsafe {
            let mut next = libc::CMSG_FIRSTHDR(header);
            while let Some(message) = next.as_ref() {
                let data = libc::CMSG_DATA(next);
                match (message.cmsg_level, message.cmsg_type) {
                    (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                        let time = data.cast::<libc::timespec>().read_unaligned();
                        let seconds = Duration::from_secs(time.tv_sec as u64);
                        self.stamp = Some(seconds + Duration::from_nanos(time.tv_nsec as u64));
                    }
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        // Of a packet to everybody this is an address of ours.
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        let own = u32::from_be(info.ipi_spec_dst.s_addr);
                        self.asked = Some(IpAddr::V4(own.into()));
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        let asked = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                        self.asked = (!asked.is_multicast()).then_some(asked.into());
                    }
                    _ => {}
                }
                next = libc::CMSG_NXTHDR(header, next);
            }
        }
    }
}

impl<T> ControlOf<T> {
    fn octets(&self) -> &[u8] {
        // SAFETY: it is that long. What is padding the kernel does not look at.
        unsafe { std::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }
}

fn control_of<T>((level, kind): (libc::c_int, libc::c_int), value: T) -> ControlOf<T> {
    // SAFETY: a header is numbers.
    let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
    header.cmsg_level = level;
    header.cmsg_type = kind;
    // SAFETY: it only computes.
    header.cmsg_len = unsafe { libc::CMSG_LEN(size_of::<T>() as u32) } as _;
    ControlOf { header, value }
}
