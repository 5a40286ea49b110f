//! Counting packets where they come out.
//!
//! Here lives a packet socket on a device that counts what arrives there, by label
//! ([`super::packet`]). Where a filter is under test, the tap belongs behind it, on another node:
//! on the filtered device itself a tap sees packets before tc drops them.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    mem::MaybeUninit,
    sync::{
        Arc, Mutex, PoisonError,
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
    packet::label_of,
    wait::{PATIENCE, wait_until},
};

/// Every protocol (linux/if_ether.h).
const ALL: u16 = 0x0003;

/// Counts what arrives at a device, until it is dropped.
#[derive(Debug)]
pub struct Tap {
    stop: Arc<AtomicBool>,
    counts: Arc<Mutex<HashMap<u16, u64>>>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    /// Begins to count what arrives at a device of a node.
    pub fn open(node: &Node, device: &str) -> Result<Tap> {
        let socket = node
            .enter(|| {
                let address = LinkAddress::of(device)?.with_protocol(ALL);
                let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))
                    .context("packet socket")?;
                force_receive_buffer(&socket)?;
                socket.set_read_timeout(Some(TICK))?;
                // From here on it receives, and only from this device.
                socket.bind(&address)?;
                Ok(socket)
            })
            .with_context(|| format!("tap on {device} of {node:?}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Mutex::new(HashMap::new()));
        let thread = {
            let (stop, counts) = (stop.clone(), counts.clone());
            thread::spawn(move || count(&socket, &stop, &counts))
        };
        Ok(Tap { stop, counts, thread: Some(thread) })
    }

    /// How many packets with this label have arrived.
    pub fn count(&self, label: u16) -> u64 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&label).copied().unwrap_or_default()
    }

    /// Waits until this many with a label have arrived.
    pub fn wait(&self, label: u16, least: u64) -> Result<()> {
        let what = format!("{least} packets with label {label}");
        wait_until(what, PATIENCE, || Ok(self.count(label)), |count| *count >= least).map(drop)
    }
}

fn count(socket: &Socket, stop: &AtomicBool, counts: &Mutex<HashMap<u16, u64>>) {
    // Labels lie in the first octets.
    let mut buffer = [MaybeUninit::<u8>::uninit(); 64];
    while !stop.load(Ordering::Relaxed) {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if is_pause(&error) => continue,
            // The device is gone, and with it whatever could arrive.
            Err(_) => return,
        };
        if LinkAddress::from(&from).is_outgoing() {
            continue;
        }
        // SAFETY: recv_from has written the first `length` bytes.
        let packet = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
        if let Some(label) = label_of(packet) {
            *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(label).or_default() += 1;
        }
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked: it only counts.
            drop(thread.join());
        }
    }
}
