//! What passes a node, and by which of its devices.
//!
//! Here lives a packet socket on all devices of a node at once. It keeps no packets, but the *legs* of
//! each flow of TCP and UDP: the devices that it was seen on, in their order. It sees what the kernel
//! sends and what it receives, before any filter for receiving and behind any for sending, and goes on
//! when devices come and go.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    echo::{TICK, force_receive_buffer},
    link_address::LinkAddress,
    node::Node,
    packet::protocol::{TCP, UDP},
    volley::number_of,
};

/// Every protocol (linux/if_ether.h).
const ALL: u16 = 0x0003;
/// The address and port of each end, and the protocol.
type Key = (u8, SocketAddr, SocketAddr);

/// Watches a node until it is dropped.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<HashMap<Key, Vec<Leg>>>>,
    thread: Option<JoinHandle<()>>,
}

/// Packets of one flow, one after the other by the same device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The device.
    pub device: String,
    /// Whether the node sent them.
    pub outgoing: bool,
    /// How many.
    pub packets: u64,
    /// The number of the last one, if it is of a [`Volley`](super::Volley).
    pub last: Option<u64>,
}

impl Capture {
    /// Begins to watch.
    pub fn open(node: &Node) -> Result<Capture> {
        let socket = node
            .enter(|| {
                let protocol = Protocol::from(i32::from(ALL.to_be()));
                let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
                force_receive_buffer(&socket)?;
                socket.set_read_timeout(Some(TICK))?;
                Ok(socket)
            })
            .with_context(|| format!("capture in {node:?}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let thread = {
            let (stop, seen) = (stop.clone(), seen.clone());
            thread::spawn(move || watch(&socket, &stop, &seen))
        };
        Ok(Capture { stop, seen, thread: Some(thread) })
    }

    /// The legs of what came from a port, of one family and protocol (TCP or UDP), to one address.
    pub fn legs(&self, protocol: u8, from: SocketAddr, to: SocketAddr) -> Vec<Leg> {
        let seen = self.seen();
        // Who left the address to the kernel knows the port alone.
        let is_it = |key: &Key| {
            let any = from.ip().is_unspecified();
            key.0 == protocol
                && key.2 == to
                && key.1.port() == from.port()
                && (any || key.1.ip() == from.ip())
        };
        let found = seen.iter().filter(|(key, _)| is_it(key));
        found.flat_map(|(_, legs)| legs.clone()).collect()
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Key, Vec<Leg>>> {
        // Counts are whole whatever happened to who held them.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn watch(socket: &Socket, stop: &AtomicBool, seen: &Mutex<HashMap<Key, Vec<Leg>>>) {
    let mut names = HashMap::new();
    // The longest headers of the lab, and the number of a volley.
    let mut buffer = [MaybeUninit::<u8>::uninit(); 128];
    while !stop.load(Ordering::Relaxed) {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            // A device went down, which is told once.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => continue,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                continue;
            }
            Err(_) => return,
        };
        // SAFETY: recv_from has written the first `length` bytes.
        let packet = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
        let Some((key, last)) = flow_of(packet) else { continue };
        let address = LinkAddress::from(&from);
        let device: &String = names
            .entry(address.index())
            .or_insert_with(|| name(socket, address.index()).unwrap_or_else(|_| "?".to_owned()));
        let outgoing = address.is_outgoing();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let legs = seen.entry(key).or_default();
        match legs.last_mut() {
            Some(leg) if leg.device == *device && leg.outgoing == outgoing => {
                leg.packets += 1;
                leg.last = last.or(leg.last);
            }
            _ => legs.push(Leg { device: device.clone(), outgoing, packets: 1, last }),
        }
    }
}

/// The name of a device of the node that the socket is in (netdevice(7)).
fn name(socket: &Socket, index: i32) -> Result<String> {
    // SAFETY: a structure of integers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_ifindex = index;
    // SAFETY: the socket is open, and the request is what this call takes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFNAME, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error()).context("name of a device");
    }
    let name: Vec<u8> =
        request.ifr_name.iter().map(|c| c.cast_unsigned()).take_while(|c| *c != 0).collect();
    Ok(String::from_utf8(name)?)
}

/// Which flow a packet is of, and its number in a volley.
fn flow_of(packet: &[u8]) -> Option<(Key, Option<u64>)> {
    let (protocol, from, to, rest): (_, IpAddr, IpAddr, _) = match packet.first()? >> 4 {
        4 => {
            let address = |at: usize| -> Option<Ipv4Addr> {
                Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into())
            };
            let header = usize::from(packet[0] & 0xf) * 4;
            (*packet.get(9)?, address(12)?.into(), address(16)?.into(), packet.get(header..)?)
        }
        6 => {
            let address = |at: usize| -> Option<Ipv6Addr> {
                Some(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into())
            };
            (*packet.get(6)?, address(8)?.into(), address(24)?.into(), packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?));
    let key = (protocol, SocketAddr::new(from, port(0)?), SocketAddr::new(to, port(2)?));
    match protocol {
        UDP => Some((key, rest.get(8..).and_then(number_of))),
        TCP => Some((key, None)),
        _ => None,
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked: it only counts.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::Route;
    use super::*;

    #[test]
    fn flows_of_both_families_are_told() {
        for (from, to) in [("10.1.0.1", "192.0.2.1"), ("fd01::1", "2001:db8::1")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let route = Route { from, to, label: 1 };
            let want = |protocol| (protocol, SocketAddr::new(from, 7), SocketAddr::new(to, 9));
            assert_eq!(flow_of(&route.udp(7, 9)), Some((want(UDP), None)));
            assert_eq!(flow_of(&route.tcp(7, 9, 2)), Some((want(TCP), None)));
            assert_eq!(flow_of(&route.echo()), None);
            let numbered = [&route.udp(7, 9)[..], b"volley: \0\0\0\0\0\0\0\x05"].concat();
            let payload = numbered.len() - 16;
            let numbered = [&numbered[..payload - 8], &numbered[payload..]].concat();
            assert_eq!(flow_of(&numbered), Some((want(UDP), Some(5))));
        }
        assert_eq!(flow_of(&[]), None);
    }
}
