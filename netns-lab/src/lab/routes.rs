//! Writing routes fast.
//!
//! Here lives a routing daemon without routing: it turns a list into rtnetlink messages. `ip
//! -batch` waits for an answer to each of its lines; an overrun needs a faster writer.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use super::node::Node;

/// Messages are sent in packets of about this size: below the default send buffer of 208 KiB.
const BATCH: usize = 64 << 10;
/// Byte length of `nlmsghdr` plus `rtmsg` (linux/netlink.h, linux/rtnetlink.h).
const HEADERS: usize = 16 + 12;

/// What to do with a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Add; an error if there is one with the same key.
    Add,
    /// Add, or take the place of the one with the same key.
    Replace,
    /// Delete.
    Delete,
}

/// Where routes go.
#[derive(Clone, Copy, Debug)]
pub struct Via<'a> {
    /// Gateway.
    pub gateway: IpAddr,
    /// Device.
    pub device: &'a str,
    /// Table.
    pub table: u32,
    /// Protocol number.
    pub protocol: u8,
}

/// Applies `op` to a route for each prefix and returns when the kernel has done all of it.
pub fn write<'a>(
    node: &Node,
    op: Op,
    via: Via<'_>,
    prefixes: impl IntoIterator<Item = &'a IpNet>,
) -> Result<()> {
    let (socket, oif) = node.enter(|| {
        let name = std::ffi::CString::new(via.device)?;
        // SAFETY: the name is a C string.
        let oif = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if oif == 0 {
            bail!("no device {}: {}", via.device, io::Error::last_os_error());
        }
        Ok((open()?, oif))
    })?;
    let mut batch = Vec::with_capacity(BATCH + 256);
    let mut prefixes = prefixes.into_iter().peekable();
    let mut sequence = 0;
    while let Some(prefix) = prefixes.next() {
        sequence += 1;
        let last = batch.len() > BATCH || prefixes.peek().is_none();
        message(&mut batch, op, via, oif, *prefix, sequence, last);
        if last {
            send(&socket, &batch)?;
            await_ack(&socket, sequence)
                .with_context(|| format!("{op:?} of routes, the last one {prefix}"))?;
            batch.clear();
        }
    }
    Ok(())
}

fn open() -> Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: plain integers.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("netlink socket");
    }
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<()> {
    // SAFETY: pointer and length describe `bytes`.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error()).context("send routes");
    }
    Ok(())
}

/// Reads answers up to the acknowledgement of `sequence`. An error names the first bad message.
fn await_ack(socket: &OwnedFd, sequence: u32) -> Result<()> {
    let mut buffer = vec![0u8; 32 << 10];
    loop {
        // SAFETY: pointer and length describe `buffer`.
        let length =
            unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let Ok(length) = usize::try_from(length) else {
            return Err(io::Error::last_os_error()).context("answer to routes");
        };
        let mut rest = &buffer[..length];
        while let (Some(size), Some(number), Some(code)) =
            (u32_at(rest, 0), u32_at(rest, 8), u32_at(rest, 16))
        {
            // NLMSG_ERROR carries a negative errno, or zero as acknowledgement.
            let code = code.cast_signed();
            if code != 0 {
                bail!("message {number}: {}", io::Error::from_raw_os_error(-code));
            }
            if number == sequence {
                return Ok(());
            }
            rest = rest.get((size as usize).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Appends one `RTM_NEWROUTE` or `RTM_DELROUTE`.
fn message(
    batch: &mut Vec<u8>,
    op: Op,
    via: Via<'_>,
    oif: u32,
    prefix: IpNet,
    sequence: u32,
    acknowledge: bool,
) {
    let start = batch.len();
    let (kind, flags) = match op {
        Op::Add => (libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL),
        Op::Replace => (libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE),
        Op::Delete => (libc::RTM_DELROUTE, 0),
    };
    let ack = if acknowledge { libc::NLM_F_ACK } else { 0 };
    let flags = (libc::NLM_F_REQUEST | flags | ack) as u16;
    batch.extend_from_slice(&[0; 4]); // the length, known at the end
    batch.extend_from_slice(&kind.to_ne_bytes());
    batch.extend_from_slice(&flags.to_ne_bytes());
    batch.extend_from_slice(&sequence.to_ne_bytes());
    batch.extend_from_slice(&0u32.to_ne_bytes());
    let family = match prefix {
        IpNet::V4(_) => libc::AF_INET,
        IpNet::V6(_) => libc::AF_INET6,
    };
    batch.extend_from_slice(&[
        family as u8,
        prefix.prefix_len(),
        0, // source length
        0, // type of service
        0, // table: RTA_TABLE has it
        via.protocol,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
    ]);
    batch.extend_from_slice(&0u32.to_ne_bytes());
    debug_assert_eq!(batch.len() - start, HEADERS);
    attribute(batch, libc::RTA_TABLE, &via.table.to_ne_bytes());
    attribute(batch, libc::RTA_DST, &octets(prefix.network()));
    attribute(batch, libc::RTA_OIF, &oif.to_ne_bytes());
    match (prefix, via.gateway) {
        (IpNet::V4(_), IpAddr::V6(gateway)) => {
            // struct rtvia: the family, then the address.
            let mut rtvia = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
            rtvia.extend_from_slice(&gateway.octets());
            attribute(batch, libc::RTA_VIA, &rtvia);
        }
        (_, gateway) => attribute(batch, libc::RTA_GATEWAY, &octets(gateway)),
    }
    let length = u32::try_from(batch.len() - start).expect("a message is short");
    batch[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn attribute(batch: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("an attribute is short");
    batch.extend_from_slice(&length.to_ne_bytes());
    batch.extend_from_slice(&kind.to_ne_bytes());
    batch.extend_from_slice(value);
    batch.resize(batch.len().next_multiple_of(4), 0);
}
