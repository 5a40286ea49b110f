//! What a socket's packets are known by.
//!
//! Here lives the making of sockets whose packets `ip rule` can tell apart: by source, by mark, by the
//! user that they belong to. Where they send is their user's business.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use super::node::Node;

/// Who sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Source address, if not the kernel's choice.
    pub from: Option<IpAddr>,
    /// The socket's mark.
    pub mark: u32,
    /// The user that it belongs to.
    pub uid: u32,
}

impl Origin {
    /// Opens a socket in a node that sends to addresses like `to`. It has a port.
    pub(super) fn open(&self, node: &Node, to: IpAddr, kind: Type) -> Result<Socket> {
        let (domain, any): (_, IpAddr) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
            IpAddr::V6(_) => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let open = || -> Result<Socket> {
            // The thread is this socket's own, and what a socket belongs to is its maker's fsuid
            // (sock_init_data, net/core/sock.c). The call tells of no error.
            // SAFETY: a plain integer.
            unsafe { libc::setfsuid(self.uid) };
            let socket = Socket::new(domain, kind, None)?;
            // SAFETY: a plain integer.
            unsafe { libc::setfsuid(0) };
            owned_by(&socket, self.uid)?;
            if self.mark != 0 {
                socket.set_mark(self.mark).context("mark")?;
            }
            socket.bind(&SocketAddr::new(self.from.unwrap_or(any), 0).into()).context("bind")?;
            Ok(socket)
        };
        node.enter(open).with_context(|| format!("socket to {to} in {node:?}"))
    }
}

/// An error unless a socket belongs to this user.
fn owned_by(socket: &Socket, uid: u32) -> Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: a structure of integers, for which zero is a value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and `stat` is large enough.
    if unsafe { libc::fstat(socket.as_raw_fd(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error()).context("owner of a socket");
    }
    anyhow::ensure!(stat.st_uid == uid, "a socket of user {} instead of {uid}", stat.st_uid);
    Ok(())
}
