//! A socket for requests to rtnetlink that change something.
//!
//! Here lives the exchange; what is asked is the caller's business. The kernel answers from within
//! the system calls, so nothing here waits.

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// What was dumped changed meanwhile (include/uapi/linux/netlink.h).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// How often a dump that was disturbed is begun anew.
const ATTEMPTS: u32 = 8;

/// A part of an answer, or why it is not understood.
pub(super) type Answer = Result<RouteNetlinkMessage, DecodeError>;

/// The socket.
#[derive(Debug)]
pub(super) struct Rtnl {
    socket: Socket,
    sequence: u32,
}

impl Rtnl {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Rtnl> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Rtnl { socket, sequence: 0 })
    }

    /// Sends a request and reads its answers, to the acknowledgement or the end of the dump.
    pub(super) fn exchange(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<Answer>> {
        let mut message = NetlinkMessage::from(request);
        let ack = if flags & NLM_F_DUMP == NLM_F_DUMP { 0 } else { NLM_F_ACK };
        message.header.flags = NLM_F_REQUEST | ack | flags;
        for _ in 0..ATTEMPTS {
            self.sequence = self.sequence.wrapping_add(1);
            message.header.sequence_number = self.sequence;
            message.finalize();
            let mut bytes = vec![0; message.buffer_len()];
            message.serialize(&mut bytes);
            self.socket.send(&bytes, 0)?;
            if let Some(answers) = self.answers()? {
                return Ok(answers);
            }
        }
        Err(io::Error::other("it kept changing while it was read; try again later"))
    }

    /// `None` if what was dumped changed meanwhile.
    fn answers(&mut self) -> io::Result<Option<Vec<Answer>>> {
        let malformed = |error: DecodeError| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut answers = Vec::new();
        let mut disturbed = false;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let frame = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
                let length = frame.length() as usize;
                let (bytes, sequence, flags) =
                    (&rest[..length], frame.sequence_number(), frame.flags());
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                // Left over from an exchange that failed half way.
                if sequence != self.sequence {
                    continue;
                }
                disturbed |= flags & NLM_F_DUMP_INTR != 0;
                match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
                    Ok(NetlinkMessage { payload, .. }) => match payload {
                        NetlinkPayload::Error(error) if error.code.is_some() => {
                            return Err(error.to_io());
                        }
                        NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => {
                            return Ok((!disturbed).then_some(answers));
                        }
                        NetlinkPayload::InnerMessage(answer) => answers.push(Ok(answer)),
                        _ => {}
                    },
                    Err(error) => answers.push(Err(error)),
                }
            }
        }
    }
}
