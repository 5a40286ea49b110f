//! A generic netlink socket for requests: one at a time, each answered before the next.
//!
//! Here lives the exchange of datagrams: sequence numbers, acknowledgements with their extended
//! texts, dumps. What the attributes mean is the caller's business. Invariant: the kernel answers
//! from within `sendmsg()` and continues a dump from within `recvmsg()`
//! (`netlink_unicast_kernel()`, `netlink_recvmsg()` in net/netlink/af_netlink.c), so no call here
//! waits, and an answer that is not there is lost.

use std::io;

use netlink_packet_core::{
    DoneBuffer, Emitable, ErrorBuffer, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP,
    NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, ParseableParametrized,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    constants::GENL_ID_CTRL,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use zeroize::Zeroize;

use super::uapi::{Attributes, GENL_HEADER, HEADERS, Malformed};

/// Size of every receive buffer. The kernel makes dump messages as large as the largest buffer it
/// has seen on the socket, up to 32 KiB, so this must not vary.
const RECEIVE: usize = 64 << 10;

/// `struct nlmsghdr`, which an acknowledgement repeats.
const NLMSG_HEADER: usize = 16;
const NLMSGERR_ATTR_MSG: u16 = 1;

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

/// Whether a dump is a picture of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Dumped {
    Whole,
    /// `NLM_F_DUMP_INTR`: something changed meanwhile and the rest may be missing.
    Torn,
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

    /// Sends a request and waits for its acknowledgement. `message` begins with [`HEADERS`] bytes of
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

    fn exchange(
        &mut self,
        kind: u16,
        message: &mut [u8],
        flags: u16,
        mut each: impl FnMut(GenlHeader, &[u8]) -> Result<(), Malformed>,
    ) -> Result<Dumped, GenlError> {
        self.send(kind, message, flags)?;
        let mut dumped = Dumped::Whole;
        let mut understood = Ok(());
        loop {
            let length = self.receive()?;
            let mut rest = &self.buffer[..length];
            while !rest.is_empty() {
                let answer = NetlinkBuffer::new_checked(rest)
                    .map_err(|_| Malformed("a cut netlink message"))?;
                let end = (answer.length() as usize).next_multiple_of(4);
                rest = rest.get(end..).unwrap_or(&[]);
                // Left over from an exchange that ended early.
                if answer.sequence_number() != self.sequence {
                    continue;
                }
                if answer.flags() & NLM_F_DUMP_INTR != 0 {
                    dumped = Dumped::Torn;
                }
                match answer.message_type() {
                    NLMSG_ERROR | NLMSG_DONE => {
                        acknowledgement(&answer)?;
                        understood?;
                        return Ok(dumped);
                    }
                    t if t == kind => {
                        if dumped == Dumped::Whole && understood.is_ok() {
                            understood = content(answer.payload())
                                .and_then(|(header, attributes)| each(header, attributes));
                        }
                    }
                    _ => understood = Err(Malformed("a message of another family")),
                }
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

fn content(payload: &[u8]) -> Result<(GenlHeader, &[u8]), Malformed> {
    let header = GenlHeader::parse(payload).map_err(|_| Malformed("a cut netlink message"))?;
    Ok((header, &payload[HEADERS - GENL_HEADER..]))
}

/// What `NLMSG_ERROR` or `NLMSG_DONE` says about the request.
fn acknowledgement(answer: &NetlinkBuffer<&[u8]>) -> Result<(), GenlError> {
    let payload = answer.payload();
    let short = |_| Malformed("a cut acknowledgement");
    let (code, texts) = if answer.message_type() == NLMSG_DONE {
        let done = DoneBuffer::new_checked(payload).map_err(short)?;
        (done.code(), done.extended_ack())
    } else {
        let error = ErrorBuffer::new_checked(payload).map_err(short)?;
        let request = error.payload();
        let texts = if answer.flags() & NLM_F_CAPPED != 0 {
            request.get(NLMSG_HEADER..)
        } else {
            // The whole request is repeated; its own header tells how long it is.
            NetlinkBuffer::new_checked(request)
                .ok()
                .and_then(|buffer| request.get((buffer.length() as usize).next_multiple_of(4)..))
        };
        (error.code().map_or(0, i32::from), texts.unwrap_or(&[]))
    };
    if code == 0 {
        return Ok(());
    }
    let text = if answer.flags() & NLM_F_ACK_TLVS != 0 { extended_text(texts) } else { None };
    Err(GenlError::Refused { errno: code.saturating_neg(), text: text.unwrap_or_default() })
}

fn extended_text(attributes: &[u8]) -> Option<String> {
    Attributes::new(attributes)
        .map_while(Result::ok)
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::target::wireguard::WgError;

    /// An `NLMSG_ERROR` with an extended text, as kernels answer a socket with `NETLINK_CAP_ACK`.
    fn refusal(flags: u16, code: i32, request: &[u8], text: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let attribute = 4 + text.len();
        let length = 16 + 4 + request.len() + attribute.next_multiple_of(4);
        bytes.extend_from_slice(&(length as u32).to_ne_bytes());
        bytes.extend_from_slice(&NLMSG_ERROR.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.extend_from_slice(request);
        bytes.extend_from_slice(&(attribute as u16).to_ne_bytes());
        bytes.extend_from_slice(&NLMSGERR_ATTR_MSG.to_ne_bytes());
        bytes.extend_from_slice(text);
        bytes.resize(length, 0);
        bytes
    }

    fn refused(bytes: &[u8]) -> (i32, String) {
        match acknowledgement(&NetlinkBuffer::new_checked(bytes).unwrap()) {
            Err(GenlError::Refused { errno, text }) => (errno, text),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_kernels_text_is_found_behind_capped_and_whole_requests() {
        let mut whole = vec![0; 24];
        whole[0] = 24;
        let expected = (libc::EINVAL, "no such luck".to_owned());
        let capped = NLM_F_ACK_TLVS | NLM_F_CAPPED;
        assert_eq!(refused(&refusal(capped, -22, &[0; 16], b"no such luck\0")), expected);
        assert_eq!(refused(&refusal(NLM_F_ACK_TLVS, -22, &whole, b"no such luck\0")), expected);
        assert_eq!(refused(&refusal(0, -22, &whole, b"")), (libc::EINVAL, String::new()));
    }

    #[test]
    fn a_family_that_does_not_exist_is_refused_by_the_real_kernel() {
        let mut genl = Genl::open().unwrap();
        assert_eq!(genl.family("nlctrl").unwrap(), GENL_ID_CTRL);
        let error = genl.family("no such family").unwrap_err();
        assert_eq!(WgError::from_genl(0, error), WgError::NoFamily);
        assert_eq!(genl.family("nlctrl").unwrap(), GENL_ID_CTRL);
    }

    proptest! {
        #[test]
        fn any_acknowledgement_is_survived(payload: Vec<u8>, flags: u16, done: bool) {
            let mut bytes = vec![0; 16];
            bytes.extend_from_slice(&payload);
            let mut header = NetlinkBuffer::new(bytes.as_mut_slice());
            header.set_length(16 + payload.len() as u32);
            header.set_message_type(if done { NLMSG_DONE } else { NLMSG_ERROR });
            header.set_flags(flags);
            let _ = acknowledgement(&NetlinkBuffer::new_checked(bytes.as_slice()).unwrap());
        }
    }
}
