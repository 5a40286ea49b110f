//! Echo requests and their answers.
//!
//! Here live sockets that send numbered requests and recognise the answers, by ICMP or by UDP,
//! and the reflector that answers the latter. iputils' ping is no match: under emulation it
//! neither keeps an interval of a millisecond nor says which packets were lost and when.

use std::{
    io::{self, ErrorKind},
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::node::Node;

/// Room for the answers of many seconds, so that it is never the lab that loses packets: a busy
/// emulated machine may not let a thread run for as long. A packet takes about a kilobyte.
const RECEIVE_BUFFER: libc::c_int = 32 << 20;
/// How often a waiting receiver looks up.
pub(super) const TICK: Duration = Duration::from_millis(20);
/// The echo service (RFC 862).
const ECHO_PORT: u16 = 7;

/// Where requests go and how they leave.
#[derive(Clone, Debug)]
pub struct Ping {
    /// Destination.
    pub to: IpAddr,
    /// Source address, if not the kernel's choice.
    pub from: Option<IpAddr>,
    /// Device or VRF to send from.
    pub device: Option<&'static str>,
    /// By which protocol.
    pub kind: Kind,
}

/// By which protocol requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ICMP, which the kernel answers from the address that was asked.
    Icmp,
    /// UDP to a [`Reflector`], which answers from an address of its own.
    Udp,
}

impl From<IpAddr> for Ping {
    fn from(to: IpAddr) -> Self {
        Ping { to, from: None, device: None, kind: Kind::Icmp }
    }
}

impl Ping {
    /// Opens a socket in the node's namespace.
    pub fn open(&self, node: &Node) -> Result<Echo> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let open = || -> Result<Socket> {
            let (domain, icmp, any): (_, _, IpAddr) = match self.to {
                IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, Ipv4Addr::UNSPECIFIED.into()),
                IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, Ipv6Addr::UNSPECIFIED.into()),
            };
            let socket = match self.kind {
                Kind::Icmp => Socket::new(domain, Type::RAW, Some(icmp))?,
                Kind::Udp => Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?,
            };
            if let Some(device) = self.device {
                socket.bind_device(Some(device.as_bytes()))?;
            }
            socket.bind(&SocketAddr::new(self.from.unwrap_or(any), 0).into())?;
            force_receive_buffer(&socket)?;
            socket.set_read_timeout(Some(TICK))?;
            Ok(socket)
        };
        let socket =
            node.enter(open).with_context(|| format!("echo socket to {} in {node:?}", self.to))?;
        let port = if self.kind == Kind::Udp { ECHO_PORT } else { 0 };
        let format = match (self.kind, self.to) {
            (Kind::Udp, _) => Format::Udp,
            (Kind::Icmp, IpAddr::V4(_)) => Format::Icmp4,
            (Kind::Icmp, IpAddr::V6(_)) => Format::Icmp6,
        };
        let key = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Echo { socket, to: SocketAddr::new(self.to, port).into(), format, key })
    }
}

/// Sets the receive buffer beyond what `net.core.rmem_max` allows.
pub(super) fn force_receive_buffer(socket: &Socket) -> io::Result<()> {
    let size = RECEIVE_BUFFER;
    // SAFETY: pointer and length describe `size`.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            size_of_val(&size) as libc::socklen_t,
        ) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A socket that sends echo requests and recognises their answers.
#[derive(Debug)]
pub struct Echo {
    socket: Socket,
    to: SockAddr,
    format: Format,
    /// Tells the requests of this socket from others'.
    key: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Icmp4,
    Icmp6,
    Udp,
}

/// Length of an ICMP header with identifier and sequence number (RFC 792, RFC 4443).
const HEADER: usize = 8;
/// Header, key, sequence number.
const PACKET: usize = HEADER + 16;

impl Echo {
    /// Sends the request with this number.
    pub fn send(&self, sequence: u64) -> io::Result<()> {
        let mut packet = [0; PACKET];
        packet[0] = if self.format == Format::Icmp4 { 8 } else { 128 };
        packet[4..6].copy_from_slice(&(self.key as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&(sequence as u16).to_be_bytes());
        packet[HEADER..HEADER + 8].copy_from_slice(&self.key.to_be_bytes());
        packet[HEADER + 8..].copy_from_slice(&sequence.to_be_bytes());
        if self.format == Format::Icmp4 {
            // For ICMPv6 the kernel does it (RFC 3542, section 3.1).
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        self.socket.send_to(&packet, &self.to).map(drop)
    }

    /// The number of an answered request; `None` if nothing of ours came within a tick.
    pub fn receive(&self) -> io::Result<Option<u64>> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 256];
        let length = match self.socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Ok(None);
            }
            // An ICMP error about an earlier request: that one is lost, which its silence says.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(None),
            Err(error) => return Err(error),
        };
        // SAFETY: recv has written the first `length` bytes.
        let packet = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
        Ok(self.parse(packet))
    }

    fn parse(&self, packet: &[u8]) -> Option<u64> {
        // A raw IPv4 socket delivers the IP header too, a raw IPv6 socket does not. What the
        // reflector returns is the request itself.
        let (skip, reply) = match self.format {
            Format::Icmp4 => (usize::from(packet.first()? & 0xf) * 4, 0),
            Format::Icmp6 => (0, 129),
            Format::Udp => (0, 128),
        };
        let packet = packet.get(skip..)?;
        let number = |at: usize| packet.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        (packet.first() == Some(&reply) && number(HEADER)? == self.key)
            .then(|| number(HEADER + 8))
            .flatten()
    }
}

/// Answers UDP echo requests in a node, from an address of the node's own.
///
/// An ICMP answer comes from the address that was asked. While that address moves from one peer
/// to another, answers of the old peer that are on their way no longer pass WireGuard's source
/// check, whatever a daemon does. Answers of a reflector come from an address that does not move,
/// so that a lost packet is one that found no peer.
#[derive(Debug)]
pub struct Reflector {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Reflector {
    /// Starts to answer from these addresses, one of each family.
    pub fn start(node: &Node, from: [IpAddr; 2]) -> Result<Reflector> {
        let mut reflector = Reflector { stop: Arc::default(), threads: Vec::new() };
        for from in from {
            let (listen, answer) = node.enter(|| {
                let any: IpAddr = match from {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let family = if from.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
                let listen = Socket::new(family, Type::DGRAM, Some(Protocol::UDP))?;
                if from.is_ipv6() {
                    // IPv4 has a socket of its own.
                    listen.set_only_v6(true)?;
                }
                force_receive_buffer(&listen)?;
                listen.set_read_timeout(Some(TICK))?;
                listen.bind(&SocketAddr::new(any, ECHO_PORT).into())?;
                Ok((UdpSocket::from(listen), UdpSocket::bind((from, 0))?))
            })?;
            let stop = reflector.stop.clone();
            reflector.threads.push(thread::spawn(move || reflect(&listen, &answer, &stop)));
        }
        Ok(reflector)
    }
}

fn reflect(listen: &UdpSocket, answer: &UdpSocket, stop: &AtomicBool) {
    let mut packet = [0; PACKET];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = listen.recv_from(&mut packet) {
            // An answer that cannot be sent is a lost packet, which the asker counts.
            drop(answer.send_to(&packet[..length], from));
        }
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot have panicked: it only copies bytes.
            drop(thread.join());
        }
    }
}

/// The Internet checksum (RFC 1071).
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_match_rfc_1071() {
        // The example of RFC 1071, section 3: the sum is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
