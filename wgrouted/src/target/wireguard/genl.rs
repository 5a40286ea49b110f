//! A generic netlink socket for requests: one at a time, each answered before the next.
//!
//! Here lives the exchange of datagrams. What is in them is read in `answers`, what the attributes
//! mean is the caller's business. Invariant: the kernel answers
//! from within `sendmsg()` and continues a dump from within `recvmsg()`
//! (`netlink_unicast_kernel()`, `netlink_recvmsg()` in net/netlink/af_netlink.c), so no call here
//! waits, and an answer that is not there is lost.

use std::io;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, ParseableParametrized,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    constants::GENL_ID_CTRL,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use zeroize::Zeroize;

use super::{
    answers::{Answers, Dumped},
    uapi::{GENL_HEADER, Malformed},
};

/// Size of every receive buffer. The kernel makes dump messages as large as the largest buffer it
/// has seen on the socket, up to 32 KiB, so this must not vary.
const RECEIVE: usize = 64 << 10;

/// Why a request failed.
#[derive(Debug)]
pub(super) enum GenlError {
    /// The kernel said no.
    Refused { errno: i32, text: String },
    /// A system call failed.
    Socket { action: &'static str, source: io::Error },
    /// The answer does not follow the protocol.
    Malformed(&'static str),
}

impl From<Malformed> for GenlError {
    fn from(Malformed(what): Malformed) -> GenlError {
        GenlError::Malformed(what)
    }
}

/// The socket.
#[derive(Debug)]
pub(super) struct Genl {
    socket: Socket,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl Genl {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Genl, GenlError> {
        let failed = |source| GenlError::Socket { action: "open it", source };
        let mut socket = Socket::new(NETLINK_GENERIC).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        // A connected netlink socket takes datagrams from the kernel (port 0) alone.
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        socket.set_ext_ack(true).map_err(failed)?;
        socket.set_cap_ack(true).map_err(failed)?;
        Ok(Genl { socket, sequence: 0, buffer: vec![0; RECEIVE].into_boxed_slice() })
    }

    /// The number of a family; the kernel loads its module if it can.
    pub(super) fn family(&mut self, name: &str) -> Result<u16, GenlError> {
        let mut request = message(&GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(name.to_owned())],
        }));
        let mut id = None;
        let _: Dumped =
            self.exchange(GENL_ID_CTRL, &mut request, NLM_F_ACK, |header, attributes| {
                let answer = GenlCtrl::parse_with_param(attributes, header)
                    .map_err(|_| Malformed("a family description"))?;
                id = answer.nlas.iter().find_map(|attribute| match attribute {
                    GenlCtrlAttrs::FamilyId(id) => Some(*id),
                    _ => None,
                });
                Ok(())
            })?;
        id.ok_or(GenlError::Malformed("a family without a number"))
    }

    /// Sends a request and waits for its acknowledgement. `message` begins with
    /// [`HEADERS`](super::uapi::HEADERS) bytes of
    /// room, of which the generic netlink header is filled in.
    pub(super) fn request(&mut self, family: u16, message: &mut [u8]) -> Result<(), GenlError> {
        self.exchange(family, message, NLM_F_ACK, |_, _| Ok(())).map(drop)
    }

    /// Sends a dump request and hands the attributes of each answer to `each`, until one is known
    /// to be torn or `each` fails; the rest is read and thrown away. Nothing of the answers remains
    /// in the receive buffer.
    pub(super) fn dump<F: GenlFamily + Emitable + std::fmt::Debug>(
        &mut self,
        family: u16,
        request: F,
        mut each: impl FnMut(&[u8]) -> Result<(), Malformed>,
    ) -> Result<Dumped, GenlError> {
        let mut request = message(&GenlMessage::from_payload(request));
        let result =
            self.exchange(family, &mut request, NLM_F_DUMP, |_, attributes| each(attributes));
        self.buffer.zeroize();
        result
    }

    /// Sends a dump request, hands over the first answer only, and hangs up, which ends the dump.
    pub(super) fn first<F: GenlFamily + Emitable + std::fmt::Debug>(
        mut self,
        family: u16,
        request: F,
        mut each: impl FnMut(&[u8]) -> Result<(), Malformed>,
    ) -> Result<(), GenlError> {
        let mut request = message(&GenlMessage::from_payload(request));
        self.send(family, &mut request, NLM_F_DUMP)?;
        let mut answers = Answers::new(family, self.sequence);
        let length = self.receive()?;
        answers.datagram(&self.buffer[..length], &mut |_, attributes| each(attributes)).map(drop)
    }

    fn exchange(
        &mut self,
        kind: u16,
        message: &mut [u8],
        flags: u16,
        mut each: impl FnMut(GenlHeader, &[u8]) -> Result<(), Malformed>,
    ) -> Result<Dumped, GenlError> {
        self.send(kind, message, flags)?;
        let mut answers = Answers::new(kind, self.sequence);
        loop {
            let length = self.receive()?;
            if let Some(dumped) = answers.datagram(&self.buffer[..length], &mut each)? {
                return Ok(dumped);
            }
        }
    }

    fn send(&mut self, kind: u16, message: &mut [u8], flags: u16) -> Result<(), GenlError> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(message.len()).expect("messages are far below 4 GiB");
        let mut header = NetlinkBuffer::new(&mut *message);
        header.set_length(length);
        header.set_message_type(kind);
        header.set_flags(NLM_F_REQUEST | flags);
        header.set_sequence_number(self.sequence);
        header.set_port_number(0);
        retry(|| self.socket.send(message, 0))
            .map_err(|source| GenlError::Socket { action: "send a request", source })?;
        Ok(())
    }

    fn receive(&mut self) -> Result<usize, GenlError> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        let length = retry(|| self.socket.recv(&mut &mut self.buffer[..], flags))
            .map_err(|source| GenlError::Socket { action: "receive an answer", source })?;
        if length > self.buffer.len() {
            return Err(GenlError::Malformed("a datagram larger than the kernel makes them"));
        }
        Ok(length)
    }
}

/// Everything the kernel ever said leaves with the socket.
impl Drop for Genl {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

/// A request with room for the netlink header in front.
fn message<F: GenlFamily + Emitable + std::fmt::Debug>(payload: &GenlMessage<F>) -> Vec<u8> {
    let mut message = vec![0; GENL_HEADER + payload.buffer_len()];
    payload.emit(&mut message[GENL_HEADER..]);
    message
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::wireguard::WgError;

    #[test]
    fn a_family_that_does_not_exist_is_refused_by_the_real_kernel() {
        let mut genl = Genl::open().unwrap();
        assert_eq!(genl.family("nlctrl").unwrap(), GENL_ID_CTRL);
        let error = genl.family("no such family").unwrap_err();
        assert_eq!(WgError::from_genl(0, error), WgError::NoFamily);
        assert_eq!(genl.family("nlctrl").unwrap(), GENL_ID_CTRL);
    }
}
