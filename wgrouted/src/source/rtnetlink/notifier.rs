//! The few notifications that concern routes of our own.
//!
//! Here lives [`Notifier`], a socket that never blocks. A filter in the kernel lets through what can
//! take such a route away (its removal, changes of links and addresses) and nothing of what routing
//! daemons do otherwise: a full table on its way past costs nothing. What the filter cannot see,
//! a replacement by somebody else (the message names only the new route's protocol), and what the
//! kernel announces to nobody, is found by whoever reads again from time to time.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd, RawFd},
};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::{Error, decode, wire};
use crate::core::{event::NetEvent, reach::route::PROTOCOL};

/// Notifications are smaller than this; one that is not counts as lost.
const BUFFER: usize = 32 * 1024;

const GROUPS: [u32; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];

/// Of addresses exits need none: a route that dies with one is a removal. Of links, rules, nexthop
/// objects and routes they do.
const EXIT_GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    RTNLGRP_NEXTHOP,
];
/// include/uapi/linux/rtnetlink.h
const RTNLGRP_NEXTHOP: u32 = 32;

/// Hears what may take routes of our own away.
pub struct Notifier {
    socket: Socket,
    buffer: Box<[u8]>,
}

impl Notifier {
    /// Starts to listen, to removals of routes of these protocols only.
    pub fn open(protocols: &BTreeSet<u8>) -> Result<Notifier, Error> {
        Notifier::to(&GROUPS, protocols)
    }

    /// Starts to listen to what may take away what exits consist of: rules of anybody, routes and
    /// nexthop objects of ours, links.
    pub fn exits() -> Result<Notifier, Error> {
        Notifier::to(&EXIT_GROUPS, &[PROTOCOL].into())
    }

    fn to(groups: &[u32], protocols: &BTreeSet<u8>) -> Result<Notifier, Error> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(Error::socket("open"))?;
        attach(&socket, &filter(protocols)).map_err(Error::socket("attach a filter to"))?;
        socket.set_non_blocking(true).map_err(Error::socket("unblock"))?;
        socket.bind_auto().map_err(Error::socket("bind"))?;
        for &group in groups {
            socket.add_membership(group).map_err(Error::socket("subscribe"))?;
        }
        Ok(Notifier { socket, buffer: vec![0; BUFFER].into() })
    }

    /// Takes what is queued away. Whether there was something, or something was lost.
    pub fn heard(&mut self) -> Result<bool, Error> {
        let mut heard = false;
        loop {
            match self.socket.recv_from(&mut &mut self.buffer[..], libc::MSG_TRUNC) {
                Ok(_) => heard = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => heard = true,
                Err(error) => return Err(Error::socket("receive on")(error)),
            }
        }
    }

    /// Receives what is queued. Losses are told as [`NetEvent::Lost`].
    pub fn receive(&mut self) -> Result<Vec<NetEvent>, Error> {
        let mut events = Vec::new();
        loop {
            match self.socket.recv_from(&mut &mut self.buffer[..], libc::MSG_TRUNC) {
                Ok((length, _)) if length > self.buffer.len() => events.push(NetEvent::Lost),
                Ok((length, sender)) if sender.port_number() == 0 => {
                    if decode::events(&self.buffer[..length], &mut events).errors > 0 {
                        events.push(NetEvent::Lost);
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(events),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    events.push(NetEvent::Lost);
                }
                Err(error) => return Err(Error::socket("receive on")(error)),
            }
        }
    }
}

impl AsRawFd for Notifier {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// A classic BPF program over one notification, which is a datagram of its own: at 4 stands
/// `nlmsg_type`, at 21 the `rtm_protocol` of a route, at 18 the `nh_protocol` of a nexthop object.
fn filter(protocols: &BTreeSet<u8>) -> Vec<libc::sock_filter> {
    const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    // Loads take the bytes for big-endian; netlink is the machine's.
    let kind = |kind: u16| u32::from(kind.to_be());
    let mut program = vec![
        op(LOAD_HALF, 0, 0, 4),
        op(JUMP_EQUAL, 1, 0, kind(wire::RTM_NEWROUTE)),
        op(JUMP_EQUAL, 0, 1, kind(wire::RTM_NEWNEXTHOP)),
        op(RETURN, 0, 0, 0),
        op(JUMP_EQUAL, 0, 2, kind(wire::RTM_DELNEXTHOP)),
        op(LOAD_BYTE, 0, 0, 18),
        op(libc::BPF_JMP | libc::BPF_JA, 0, 0, 3),
        op(JUMP_EQUAL, 1, 0, kind(wire::RTM_DELROUTE)),
        op(RETURN, 0, 0, u32::MAX),
        op(LOAD_BYTE, 0, 0, 21),
    ];
    for protocol in protocols {
        program.push(op(JUMP_EQUAL, 0, 1, u32::from(*protocol)));
        program.push(op(RETURN, 0, 0, u32::MAX));
    }
    program.push(op(RETURN, 0, 0, 0));
    program
}

fn attach(socket: &Socket, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        // At most two instructions for each of 256 protocols.
        len: program.len() as libc::c_ushort,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions at `filter` and writes nothing.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
