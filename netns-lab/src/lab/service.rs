//! A service that answers everybody.
//!
//! Here lives what says back whatever it is told, by UDP and by TCP, from the address that was asked.
//! By which way an answer leaves is the node's business.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use socket2::SockRef;

use super::{
    echo::{TICK, force_receive_buffer},
    node::Node,
};

/// A running service.
#[derive(Debug)]
pub struct Service {
    stop: Arc<AtomicBool>,
    listeners: Vec<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// Starts to answer at these addresses and ports of a node.
    pub fn start(node: &Node, at: &[SocketAddr]) -> Result<Service> {
        let mut service =
            Service { stop: Arc::default(), listeners: Vec::new(), threads: Vec::new() };
        for at in at {
            let (udp, tcp) = node
                .enter(|| Ok((UdpSocket::bind(at)?, TcpListener::bind(at)?)))
                .with_context(|| format!("service at {at} of {node:?}"))?;
            force_receive_buffer(&SockRef::from(&udp).try_clone()?)?;
            udp.set_read_timeout(Some(TICK))?;
            service.listeners.push(tcp.try_clone()?);
            let stop = service.stop.clone();
            service.threads.push(thread::spawn(move || datagrams(&udp, &stop)));
            let stop = service.stop.clone();
            service.threads.push(thread::spawn(move || connections(&tcp, &stop)));
        }
        Ok(service)
    }
}

fn datagrams(socket: &UdpSocket, stop: &AtomicBool) {
    let mut datagram = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut datagram) {
            // An answer that cannot be sent is a lost one, which the asker counts.
            drop(socket.send_to(&datagram[..length], from));
        }
    }
}

fn connections(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    // After a shutdown accept returns an error.
    while let Ok((stream, _)) = listener.accept() {
        let stop = stop.clone();
        thread::spawn(move || converse(&stream, &stop));
    }
}

fn converse(mut stream: &TcpStream, stop: &AtomicBool) {
    let mut buffer = [0; 16 << 10];
    if stream.set_read_timeout(Some(TICK)).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) if stream.write_all(&buffer[..length]).is_err() => return,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            // Wakes who accepts; it cannot fail on a socket that listens.
            drop(SockRef::from(listener).shutdown(std::net::Shutdown::Both));
        }
        for thread in self.threads.drain(..) {
            // It cannot have panicked: it only copies bytes.
            drop(thread.join());
        }
    }
}
