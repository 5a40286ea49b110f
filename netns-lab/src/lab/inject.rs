//! Sending packets past a node's own network stack.
//!
//! Here live the packet socket on a device, which takes whole IP packets with whatever source they
//! claim, and streams of packets that go on until they are stopped. WireGuard's sending side looks
//! at the destination alone, so what is injected into a WireGuard device reaches its peer.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::{link_address::LinkAddress, node::Node};

/// Protocol numbers of Ethernet frames (linux/if_ether.h).
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Something that sends packets out of a device.
#[derive(Debug)]
pub struct Injector {
    socket: Socket,
    device: LinkAddress,
}

impl Injector {
    /// Opens it on a device of a node.
    pub fn open(node: &Node, device: &str) -> Result<Injector> {
        node.enter(|| {
            let device = LinkAddress::of(device)?;
            // Protocol 0: it receives nothing.
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))
                .context("packet socket")?;
            Ok(Injector { socket, device })
        })
        .with_context(|| format!("inject into {device} of {node:?}"))
    }

    /// Sends an IP packet. WireGuard lets out nothing else.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let version = packet.first().map_or(0, |first| first >> 4);
        let protocol = if version == 4 { IPV4 } else { IPV6 };
        self.socket.send_to(packet, &self.device.with_protocol(protocol)).map(drop)
    }

    /// Sends the packets of a list again and again, one every `interval`, until it is stopped.
    pub fn stream(self, packets: Vec<Vec<u8>>, interval: Duration) -> Stream {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let thread = {
            let (stop, sent) = (stop.clone(), sent.clone());
            thread::spawn(move || send_all(&self, &packets, interval, &stop, &sent))
        };
        Stream { stop, sent, thread }
    }
}

fn send_all(
    injector: &Injector,
    packets: &[Vec<u8>],
    interval: Duration,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> io::Result<()> {
    let mut next = Instant::now();
    for packet in packets.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        injector.send(packet)?;
        sent.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        next = (next + interval).max(now);
        thread::sleep(next - now);
    }
    Ok(())
}

/// Packets that are sent until it is stopped.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<()>>,
}

impl Stream {
    /// How many were sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops it; gives how many were sent.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sender does not panic").context("injected stream")?;
        Ok(self.sent.load(Ordering::Relaxed))
    }
}
