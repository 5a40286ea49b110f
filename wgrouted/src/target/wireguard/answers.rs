//! The answers to a generic netlink request, datagram by datagram.
//!
//! Here lives the reader: messages and their sequence numbers, acknowledgements with their
//! extended texts, the flag of a torn dump. Pure, over raw bytes.

use netlink_packet_core::{
    DoneBuffer, ErrorBuffer, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NLMSG_DONE,
    NLMSG_ERROR, NetlinkBuffer,
};
use netlink_packet_generic::GenlHeader;

use super::{
    genl::GenlError,
    uapi::{Attributes, GENL_HEADER, HEADERS, Malformed},
};

/// `struct nlmsghdr`, which an acknowledgement repeats.
const NLMSG_HEADER: usize = 16;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Whether a dump is a picture of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Dumped {
    Whole,
    /// `NLM_F_DUMP_INTR`: something changed meanwhile and the rest may be missing.
    Torn,
}

/// What the answers to one request have said so far.
#[derive(Debug)]
pub(super) struct Answers {
    kind: u16,
    sequence: u32,
    dumped: Dumped,
    understood: Result<(), Malformed>,
}

impl Answers {
    /// For a request to a family, with this number.
    pub(super) fn new(kind: u16, sequence: u32) -> Answers {
        Answers { kind, sequence, dumped: Dumped::Whole, understood: Ok(()) }
    }

    /// Takes a datagram in and hands the attributes of each answer to `each`, until one is known to
    /// be torn or `each` fails. Returns the outcome with the last answer.
    pub(super) fn datagram(
        &mut self,
        mut rest: &[u8],
        each: &mut impl FnMut(GenlHeader, &[u8]) -> Result<(), Malformed>,
    ) -> Result<Option<Dumped>, GenlError> {
        while !rest.is_empty() {
            let answer =
                NetlinkBuffer::new_checked(rest).map_err(|_| Malformed("a cut netlink message"))?;
            let end = (answer.length() as usize).next_multiple_of(4);
            rest = rest.get(end..).unwrap_or(&[]);
            // Left over from an exchange that ended early.
            if answer.sequence_number() != self.sequence {
                continue;
            }
            if answer.flags() & NLM_F_DUMP_INTR != 0 {
                self.dumped = Dumped::Torn;
            }
            match answer.message_type() {
                NLMSG_ERROR | NLMSG_DONE => {
                    acknowledgement(&answer)?;
                    self.understood?;
                    return Ok(Some(self.dumped));
                }
                kind if kind == self.kind => {
                    if self.dumped == Dumped::Whole && self.understood.is_ok() {
                        self.understood = content(answer.payload())
                            .and_then(|(header, attributes)| each(header, attributes));
                    }
                }
                _ => self.understood = Err(Malformed("a message of another family")),
            }
        }
        Ok(None)
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
