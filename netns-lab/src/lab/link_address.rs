//! Addresses of packet sockets.
//!
//! Here lives `sockaddr_ll` and nothing else.

use std::{ffi::CString, io};

use anyhow::{Result, bail};
use socket2::{SockAddr, SockAddrStorage};

/// A device as a packet socket knows it (packet(7)).
#[derive(Clone, Copy)]
pub(super) struct LinkAddress(libc::sockaddr_ll);

impl LinkAddress {
    /// The device with this name in the caller's network namespace.
    pub(super) fn of(device: &str) -> Result<LinkAddress> {
        let name = CString::new(device)?;
        // SAFETY: the name is a C string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            bail!("no device {device}: {}", io::Error::last_os_error());
        }
        // SAFETY: a structure of integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = i32::try_from(index)?;
        Ok(LinkAddress(address))
    }

    /// The same device, for frames of this protocol.
    pub(super) fn with_protocol(mut self, protocol: u16) -> SockAddr {
        self.0.sll_protocol = protocol.to_be();
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: `sockaddr_storage` has room for every socket address and is aligned for it.
        unsafe { *storage.view_as::<libc::sockaddr_ll>() = self.0 };
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the storage holds a `sockaddr_ll` of this length.
        unsafe { SockAddr::new(storage, length) }
    }

    /// The device's number.
    pub(super) fn index(&self) -> i32 {
        self.0.sll_ifindex
    }

    /// Whether a packet received from this address was one that the node itself sent.
    pub(super) fn is_outgoing(&self) -> bool {
        self.0.sll_pkttype == libc::PACKET_OUTGOING
    }
}

impl From<&SockAddr> for LinkAddress {
    fn from(address: &SockAddr) -> LinkAddress {
        // SAFETY: a `SockAddr` holds a whole `sockaddr_storage`, whatever its family; every bit
        // pattern is a value of these integers.
        LinkAddress(unsafe { *address.as_ptr().cast::<libc::sockaddr_ll>() })
    }
}

impl std::fmt::Debug for LinkAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "interface {}", self.0.sll_ifindex)
    }
}
