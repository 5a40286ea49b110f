//! Long transfers by TCP.
//!
//! Here lives a client that sends blocks to a [`Service`](super::Service) and reads each one back before
//! it sends the next, so that both directions must work for it to go on. Invariant: what came back is
//! compared with what was sent.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use socket2::Type;

use super::{
    echo::TICK,
    node::Node,
    origin::Origin,
    wait::{PATIENCE, wait_for},
};

/// Octets of a block: several segments.
const BLOCK: usize = 4096;
/// Between two blocks, so that a transfer is long without taking the whole machine.
const PAUSE: Duration = Duration::from_millis(20);

/// A transfer that goes on until it is stopped.
#[derive(Debug)]
pub struct Transfer {
    local: SocketAddr,
    stop: Arc<AtomicBool>,
    blocks: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<Duration>>,
}

/// A transfer that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Transferred {
    /// Octets that went forth and came back.
    pub octets: u64,
    /// The longest time that a block took.
    pub longest: Duration,
}

impl Transfer {
    /// Connects, within this time, and begins.
    pub fn start(
        node: &Node,
        origin: &Origin,
        to: SocketAddr,
        patience: Duration,
    ) -> Result<Transfer> {
        let socket = origin.open(node, to.ip(), Type::STREAM)?;
        socket.connect_timeout(&to.into(), patience).with_context(|| format!("connect to {to}"))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        let local = stream.local_addr()?;
        let (stop, blocks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stop, blocks) = (stop.clone(), blocks.clone());
            thread::spawn(move || transfer(&stream, &stop, &blocks))
        };
        Ok(Transfer { local, stop, blocks, thread })
    }

    /// Its own end: the address is the kernel's choice unless the origin named one.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Blocks that came back so far.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Waits until so many more blocks came back.
    pub fn run(&self, blocks: u64) -> Result<()> {
        let goal = self.blocks() + blocks;
        wait_for(format!("{blocks} more blocks of {:?}", self.local), PATIENCE, || {
            if self.thread.is_finished() {
                bail!("the transfer of {} has ended", self.local);
            }
            Ok(self.blocks() >= goal)
        })
    }

    /// Ends it; an error if the connection broke or gave back something else.
    pub fn stop(self) -> Result<Transferred> {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.thread.join().expect("a transfer does not panic");
        let longest = longest.with_context(|| format!("transfer of {}", self.local))?;
        let octets = self.blocks.load(Ordering::Relaxed) * BLOCK as u64;
        Ok(Transferred { octets, longest })
    }
}

fn transfer(mut stream: &TcpStream, stop: &AtomicBool, blocks: &AtomicU64) -> io::Result<Duration> {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let number = blocks.load(Ordering::Relaxed).to_be_bytes();
        let block: Vec<u8> = number.into_iter().cycle().take(BLOCK).collect();
        stream.write_all(&block)?;
        let (mut back, mut length) = ([0; BLOCK], 0);
        while length < BLOCK {
            match stream.read(&mut back[length..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(more) => length += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(longest.max(began.elapsed()));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if back[..] != block[..] {
            return Err(io::Error::other("something else came back"));
        }
        longest = longest.max(began.elapsed());
        blocks.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(longest)
}
