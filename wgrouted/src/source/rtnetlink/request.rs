//! One question, its answers: the request half of a netlink socket.
//!
//! Here live the request's bytes ([`Request`]) and the exchange ([`Client`]): sequence numbers,
//! multipart answers, errors with the kernel's explanation. What the answers mean is the
//! caller's business.

use std::{io, net::IpAddr, ops::ControlFlow};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{
    Error,
    wire::{self, Attributes, Message, Messages, align},
};

/// The largest answer. The kernel sizes the parts of a dump by the largest buffer that a socket
/// ever read with, up to 32 KiB, so it must never shrink (net/netlink/af_netlink.c,
/// `netlink_dump`); the other half is for a single message that is larger than that.
const BUFFER: usize = 64 * 1024;

/// A request under construction.
pub(crate) struct Request {
    /// What it asks for, as an error names it: "dump links".
    pub(crate) what: &'static str,
    bytes: Vec<u8>,
}

impl Request {
    /// Starts a message with the fixed header of its type.
    pub(crate) fn new(what: &'static str, kind: u16, flags: libc::c_int, header: &[u8]) -> Request {
        let flags = (libc::NLM_F_REQUEST | flags) as u16;
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(header);
        Request { what, bytes }
    }

    /// Appends an attribute, of a few thousand bytes at most: the largest that we ever send is a group
    /// of nexthop objects.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        debug_assert!(value.len() <= 8192);
        self.bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }

    /// Appends an address.
    pub(crate) fn address(self, kind: u16, address: IpAddr) -> Request {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    fn finish(&mut self, sequence: u32) -> &[u8] {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }
}

/// A piece of an answer.
pub(crate) enum Part<'a> {
    /// One message of it.
    Message(Message<'a>),
    /// The end of a datagram: what the messages amount to may be handed on.
    Datagram,
}

/// How an exchange ended.
pub(crate) struct Ended {
    /// `Break` if the caller stopped it.
    pub(crate) flow: ControlFlow<()>,
    /// What was dumped changed meanwhile (`NLM_F_DUMP_INTR`).
    pub(crate) interrupted: bool,
}

/// A socket for requests.
pub(crate) struct Client {
    socket: Socket,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl Client {
    pub(crate) fn open() -> Result<Client, Error> {
        Ok(Client { socket: connect()?, sequence: 0, buffer: vec![0; BUFFER].into() })
    }

    /// Sends a request and hands over its answer, datagram by datagram, until the kernel says
    /// that it is complete or the caller breaks.
    pub(crate) fn exchange(
        &mut self,
        request: Request,
        part: &mut dyn FnMut(Part<'_>) -> ControlFlow<()>,
    ) -> Result<Ended, Error> {
        let result = self.talk(request, part);
        if !matches!(result, Ok(Ended { flow: ControlFlow::Continue(()), .. })) {
            // The rest of a dump may still be under way: closing the socket ends it.
            self.socket = connect()?;
        }
        result
    }

    fn talk(
        &mut self,
        mut request: Request,
        part: &mut dyn FnMut(Part<'_>) -> ControlFlow<()>,
    ) -> Result<Ended, Error> {
        let what = request.what;
        self.sequence = self.sequence.wrapping_add(1);
        self.socket
            .send(request.finish(self.sequence), 0)
            .map_err(Error::socket("send a request on"))?;
        let mut interrupted = false;
        loop {
            let length = self.receive(what)?;
            for message in Messages::new(&self.buffer[..length]) {
                let message =
                    message.map_err(|source| Error::Malformed { request: what, source })?;
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & wire::NLM_F_DUMP_INTR != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_NOOP => {}
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        // What preceded the end in this datagram is still to be handed on.
                        let flow = part(Part::Datagram);
                        refusal(what, &message)?;
                        return Ok(Ended { flow, interrupted });
                    }
                    _ => {
                        let single = message.flags & libc::NLM_F_MULTI as u16 == 0;
                        let mut flow = part(Part::Message(message));
                        if single && flow.is_continue() {
                            flow = part(Part::Datagram);
                        }
                        if single || flow.is_break() {
                            return Ok(Ended { flow, interrupted });
                        }
                    }
                }
            }
            let flow = part(Part::Datagram);
            if flow.is_break() {
                return Ok(Ended { flow, interrupted });
            }
        }
    }

    /// Sends a request that the kernel answers with an acknowledgement or an error.
    pub(crate) fn order(&mut self, request: Request) -> Result<(), Error> {
        self.exchange(request, &mut |_| ControlFlow::Continue(())).map(drop)
    }

    /// Reads one datagram of the kernel's.
    fn receive(&mut self, request: &'static str) -> Result<usize, Error> {
        loop {
            // MSG_TRUNC makes the kernel return the real length.
            match self.socket.recv_from(&mut &mut self.buffer[..], libc::MSG_TRUNC) {
                Ok((length, _)) if length > self.buffer.len() => {
                    return Err(Error::Truncated { request, length });
                }
                Ok((length, sender)) if sender.port_number() == 0 => return Ok(length),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::socket("receive on")(error)),
            }
        }
    }
}

/// A socket that asks for strict checking, so that filters are honoured instead of ignored, and
/// for explained errors. Old kernels know neither (4.20 and 4.12); the options are therefore
/// wishes, and [`super::Dumper`] checks each answer against its filter.
fn connect() -> Result<Socket, Error> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(Error::socket("open"))?;
    let _ = socket.set_netlink_get_strict_chk(true);
    let _ = socket.set_ext_ack(true);
    let _ = socket.set_cap_ack(true);
    socket.bind_auto().map_err(Error::socket("bind"))?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(Error::socket("connect"))?;
    Ok(socket)
}

/// The error that ends an answer, if it is one: both `NLMSG_ERROR` and `NLMSG_DONE` begin with a
/// negative error number or zero.
fn refusal(request: &'static str, message: &Message<'_>) -> Result<(), Error> {
    let code = message.payload.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 {
        return Ok(());
    }
    Err(Error::Refused {
        request,
        explanation: explanation(message),
        source: io::Error::from_raw_os_error(code.saturating_neg()),
    })
}

/// `NLMSGERR_ATTR_MSG` behind the error number and, in `NLMSG_ERROR`, the request's header and
/// (unless capped) its payload.
fn explanation(message: &Message<'_>) -> Option<String> {
    if message.flags & wire::NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let echoed = match i32::from(message.kind) {
        libc::NLMSG_DONE => 0,
        _ if message.flags & wire::NLM_F_CAPPED != 0 => 16,
        _ => u32::from_ne_bytes(*message.payload.get(4..)?.first_chunk::<4>()?) as usize,
    };
    let attributes = message.payload.get(align(echoed).saturating_add(4)..)?;
    let (_, text) = Attributes::new(attributes)
        .map_while(Result::ok)
        .find(|(kind, _)| *kind == wire::NLMSGERR_ATTR_MSG)?;
    let text = String::from_utf8_lossy(text);
    Some(text.trim_end_matches(['\0', '.']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `NLMSG_ERROR`, EINVAL, capped, "Invalid prefix for given prefix length."
    #[test]
    fn an_error_carries_the_kernels_explanation() {
        let mut payload = Vec::from((-libc::EINVAL).to_ne_bytes());
        payload.extend_from_slice(&[0; 16]);
        let text = b"Invalid prefix for given prefix length.\0";
        payload.extend_from_slice(&(4 + text.len() as u16).to_ne_bytes());
        payload.extend_from_slice(&wire::NLMSGERR_ATTR_MSG.to_ne_bytes());
        payload.extend_from_slice(text);
        let mut message = Message {
            kind: libc::NLMSG_ERROR as u16,
            flags: wire::NLM_F_ACK_TLVS | wire::NLM_F_CAPPED,
            sequence: 1,
            payload: &payload,
        };
        assert_eq!(
            refusal("add a route", &message).unwrap_err().to_string(),
            "the kernel refused to add a route: Invalid prefix for given prefix length"
        );
        // Not capped, but the echoed length is a lie: no explanation, no panic.
        message.flags = wire::NLM_F_ACK_TLVS;
        let mut lie = payload.clone();
        lie[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        message.payload = &lie;
        assert_eq!(explanation(&message), None);
    }
}
