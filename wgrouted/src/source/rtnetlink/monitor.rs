//! The kernel's notifications, as they come.
//!
//! Here lives [`Monitor`]. It decides nothing and keeps no picture of the routes; it turns
//! datagrams into events in the order of their arrival. Invariant: whenever a notification may
//! have been lost, exactly one [`NetEvent::Lost`] follows the last event received before the
//! loss was over.
//!
//! [`Knocker`] lets another thread find out how far the monitor has come: its knock takes its place
//! in the socket's queue behind everything that the kernel had announced before.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::Arc,
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{Error, decode};
use crate::core::event::NetEvent;

/// Datagrams read by one system call.
const BATCH: usize = 32;
/// The largest notification: a nexthop group of 4,000 members fits.
const BUFFER: usize = 32 * 1024;
/// System calls, and so datagrams (2,048), until [`Monitor::recv`] returns what it has.
const ROUNDS: usize = 64;
/// No notification takes less of the receive buffer: `struct sk_buff` alone is larger.
const MIN_TRUESIZE: usize = 192;

/// Bytes of a knock: `struct nlmsghdr` and a number.
const KNOCK: usize = 16 + 8;

/// What is listened to, beside `RTNLGRP_NEXTHOP`, which Linux before 5.3 does not know.
const GROUPS: [u32; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];

/// Listens to links, addresses, routes and nexthop objects.
pub struct Monitor {
    socket: Socket,
    stopper: Stopper,
    buffers: Box<[[u8; BUFFER]]>,
    receive_buffer: usize,
    counters: Counters,
    /// The port of the only other sender that is heard, and what it sent.
    knocker: Option<u32>,
    knocks: Vec<u64>,
    /// After an overrun: how many datagrams can at most still be in the queue that was full.
    draining: Option<usize>,
}

/// What a monitor has seen since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages received.
    pub messages: u64,
    /// Messages that could not be understood, and were left out.
    pub decode_errors: u64,
    /// How often notifications were lost (`ENOBUFS`, or one that was too large).
    pub overruns: u64,
}

/// Why [`Monitor::recv`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something was received; it may have been of no interest.
    Received,
    /// The [`Stopper`] was used.
    Stopped,
}

/// Makes a monitor's `recv` return, from any thread, now or at its next call.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<OwnedFd>);

impl Stopper {
    fn new() -> io::Result<Stopper> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is open and nobody else's.
        Ok(Stopper(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Stops the monitor for good.
    pub fn stop(&self) {
        let one = 1u64;
        // SAFETY: `one` is readable for 8 bytes. A write can fail only if the counter is at its
        // maximum, and then the monitor is stopped already.
        unsafe { libc::write(self.0.as_raw_fd(), ptr::from_ref(&one).cast(), 8) };
    }
}

/// Knocks at a monitor, from any thread.
#[derive(Debug)]
pub struct Knocker {
    socket: Socket,
    monitor: SocketAddr,
}

impl Knocker {
    /// Puts a number into the monitor's queue. Blocks while notifications are being lost. Needs
    /// `CAP_NET_ADMIN` (`netlink_allowed`, net/netlink/af_netlink.c).
    pub fn knock(&self, number: u64) -> Result<(), Error> {
        // struct nlmsghdr, and the number for a payload.
        let mut message = [0; KNOCK];
        message[..4].copy_from_slice(&(KNOCK as u32).to_ne_bytes());
        message[4..6].copy_from_slice(&(libc::NLMSG_NOOP as u16).to_ne_bytes());
        message[16..].copy_from_slice(&number.to_ne_bytes());
        let sent = self.socket.send_to(&message, &self.monitor, 0);
        sent.map(drop).map_err(Error::socket("knock at the monitor's"))
    }
}

impl Monitor {
    /// Starts to listen. `receive_buffer` is in bytes; an IPv4 route notification takes about
    /// 420 of them.
    pub fn open(receive_buffer: usize) -> Result<Monitor, Error> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(Error::socket("open"))?;
        let receive_buffer = set_receive_buffer(&socket, receive_buffer)
            .map_err(Error::socket("set the receive buffer of"))?;
        socket.bind_auto().map_err(Error::socket("bind"))?;
        for group in GROUPS {
            socket.add_membership(group).map_err(Error::socket("subscribe"))?;
        }
        match socket.add_membership(libc::RTNLGRP_NEXTHOP) {
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => {
                return Err(Error::socket("subscribe")(error));
            }
            _ => {}
        }
        Ok(Monitor {
            socket,
            stopper: Stopper::new().map_err(Error::socket("create an event descriptor for"))?,
            buffers: vec![[0; BUFFER]; BATCH].into(),
            receive_buffer,
            counters: Counters::default(),
            knocker: None,
            knocks: Vec::new(),
            draining: None,
        })
    }

    /// The receive buffer that the kernel granted, in the bytes of [`Monitor::open`]: less than
    /// asked for without `CAP_NET_ADMIN` in the initial user namespace, where
    /// `net.core.rmem_max` limits it.
    pub const fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    /// What was seen so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// A handle that ends the listening.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Makes the one knocker of this monitor; an earlier one is no longer heard.
    pub fn knocker(&mut self) -> Result<Knocker, Error> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(Error::socket("open"))?;
        self.knocker = Some(socket.bind_auto().map_err(Error::socket("bind"))?.port_number());
        let mut monitor = SocketAddr::new(0, 0);
        self.socket.get_address(&mut monitor).map_err(Error::socket("find the address of"))?;
        Ok(Knocker { socket, monitor: SocketAddr::new(monitor.port_number(), 0) })
    }

    /// The knocks heard since the last call. Everything that the kernel announced before them has
    /// been appended to the `out` of [`Monitor::recv`].
    pub fn take_knocks(&mut self) -> Vec<u64> {
        mem::take(&mut self.knocks)
    }

    /// Waits for notifications and appends them to `out`: all that are queued, up to some
    /// thousand.
    pub fn recv(&mut self, out: &mut Vec<NetEvent>) -> Result<Wake, Error> {
        if self.wait().map_err(Error::socket("wait for"))? == Wake::Stopped {
            return Ok(Wake::Stopped);
        }
        for _ in 0..ROUNDS {
            match self.receive(out) {
                Ok(count) => match self.draining.as_mut() {
                    Some(left) if *left > count => *left -= count,
                    Some(_) => {
                        self.recovered(out);
                        break;
                    }
                    None if count < BATCH => break,
                    None => {}
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.draining.is_some() {
                        self.recovered(out);
                    }
                    break;
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.overrun(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::socket("receive on")(error)),
            }
        }
        Ok(Wake::Received)
    }

    /// Notifications are being lost, until the queue has once been empty: only then the kernel
    /// queues again (`netlink_rcv_wake`, net/netlink/af_netlink.c). It tells before it hands out
    /// what was queued before the loss. Losses that overlap are one.
    fn overrun(&mut self) {
        self.counters.overruns += 1;
        // The kernel accounts for twice the size asked for (socket(7)). After as many datagrams
        // as the full queue could hold it was empty once, however fast it fills again.
        self.draining = Some(2 * self.receive_buffer / MIN_TRUESIZE + 1);
    }

    fn recovered(&mut self, out: &mut Vec<NetEvent>) {
        self.draining = None;
        out.push(NetEvent::Lost);
    }

    /// Blocks until there is something to receive, an overrun included (`POLLERR`), or to do.
    fn wait(&self) -> io::Result<Wake> {
        let poll = |fd: &dyn AsRawFd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut fds = [poll(&self.socket), poll(&self.stopper.0)];
        let timeout = if self.draining.is_some() { 0 } else { -1 };
        loop {
            // SAFETY: `fds` is an array of that many pollfd.
            if unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) } >= 0 {
                return Ok(if fds[1].revents != 0 { Wake::Stopped } else { Wake::Received });
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Receives what is queued, up to a batch, and decodes it; returns the number of datagrams.
    fn receive(&mut self, out: &mut Vec<NetEvent>) -> io::Result<usize> {
        // SAFETY: all three are plain C structures for which zero is a valid value.
        let mut senders: [libc::sockaddr_nl; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut slices: [libc::iovec; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        for (i, buffer) in self.buffers.iter_mut().enumerate() {
            slices[i] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: BUFFER };
            let header = &mut headers[i].msg_hdr;
            header.msg_name = ptr::from_mut(&mut senders[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            header.msg_iov = &mut slices[i];
            header.msg_iovlen = 1;
        }
        // SAFETY: each of the BATCH headers points to one sender and one slice, each slice to a
        // buffer of BUFFER bytes; all of them outlive the call and nothing else refers to them.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let received = headers.iter().zip(&senders).zip(&self.buffers).take(count);
        let mut truncated = false;
        for ((header, sender), buffer) in received {
            // Any privileged process may send here; only the kernel is believed.
            if sender.nl_pid != 0 {
                if self.knocker == Some(sender.nl_pid)
                    && header.msg_len as usize == KNOCK
                    && let Some(number) = buffer[..KNOCK].last_chunk()
                {
                    self.knocks.push(u64::from_ne_bytes(*number));
                }
                continue;
            }
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                truncated = true;
                continue;
            }
            let length = (header.msg_len as usize).min(BUFFER);
            let tally = decode::events(&buffer[..length], out);
            if let Some(error) = tally.last_error.filter(|_| self.counters.decode_errors == 0) {
                tracing::warn!(%error, "left out a notification; further ones are only counted");
            }
            self.counters.messages += tally.messages;
            self.counters.decode_errors += tally.errors;
        }
        if truncated {
            self.overrun();
        }
        Ok(count)
    }
}

/// Asks for a receive buffer beyond all limits, else for one within them; returns what it is.
fn set_receive_buffer(socket: &Socket, bytes: usize) -> io::Result<usize> {
    let wanted = i32::try_from(bytes).unwrap_or(i32::MAX);
    match set_option(socket, libc::SO_RCVBUFFORCE, wanted) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            set_option(socket, libc::SO_RCVBUF, wanted)?;
        }
        result => result?,
    }
    // The kernel doubles the value for its own overhead (socket(7)) and reports the double.
    Ok(socket.get_rx_buf_sz()? / 2)
}

fn set_option(socket: &Socket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: `value` is readable for the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            ptr::from_ref(&value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
