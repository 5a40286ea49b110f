//! What a probe says.
//!
//! Here lives [`Datagram`]: the payload of a UDP echo, request or answer, and of an ICMP echo, which
//! comes back as it went. It holds all that is needed to judge the answer, so nobody has to remember
//! what was sent. Invariant: `parse(encode(x)) = x`, and an answer is as long as its request.
//!
//! ```text
//!  0  magic "wgrE"      4  version 1     5  kind: 1 request, 2 answer
//!  6  address           7  zero          8  peer
//! 12  sequence         20  time of sending, ns      28  tag
//! ```
//!
//! Numbers are in network byte order. Whoever answers sets the kind and leaves the rest alone.

use std::time::Duration;

use crate::core::{
    reach::event::{ProbeId, SubjectId},
    time::Time,
};

/// Octets.
pub const LENGTH: usize = 36;
const MAGIC: [u8; 4] = *b"wgrE";
const VERSION: u8 = 1;
const KIND: usize = 5;

/// Whether it asks or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Asks.
    Request = 1,
    /// Answers.
    Answer = 2,
}

/// A probe's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Whether it asks or answers.
    pub kind: Kind,
    /// Which probe.
    pub probe: ProbeId,
    /// When it was sent.
    pub sent: Time,
    /// Only we can have made it: see [`super::seal`].
    pub tag: u64,
}

impl Datagram {
    /// As octets.
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut octets = [0; LENGTH];
        octets[..4].copy_from_slice(&MAGIC);
        octets[4] = VERSION;
        octets[KIND] = self.kind as u8;
        octets[6] = self.probe.address;
        octets[8..12].copy_from_slice(&self.probe.subject.0.to_be_bytes());
        octets[12..20].copy_from_slice(&self.probe.sequence.to_be_bytes());
        octets[20..28].copy_from_slice(&nanoseconds(self.sent).to_be_bytes());
        octets[28..].copy_from_slice(&self.tag.to_be_bytes());
        octets
    }

    /// From octets; `None` if they are anything else.
    pub fn parse(octets: &[u8]) -> Option<Datagram> {
        let octets: &[u8; LENGTH] = octets.try_into().ok()?;
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&octets[at..at + 8]);
            u64::from_be_bytes(number)
        };
        if octets[..4] != MAGIC || octets[4] != VERSION || octets[7] != 0 {
            return None;
        }
        let kind = match octets[KIND] {
            1 => Kind::Request,
            2 => Kind::Answer,
            _ => return None,
        };
        let subject = u32::from_be_bytes([octets[8], octets[9], octets[10], octets[11]]);
        Some(Datagram {
            kind,
            probe: ProbeId {
                subject: SubjectId(subject),
                address: octets[6],
                sequence: number(12),
            },
            sent: Time(Duration::from_nanos(number(20))),
            tag: number(28),
        })
    }

    /// The answer to it.
    pub fn answer(self) -> Datagram {
        Datagram { kind: Kind::Answer, ..self }
    }
}

/// Nanoseconds since the start: enough for 584 years.
pub(super) fn nanoseconds(time: Time) -> u64 {
    u64::try_from(time.0.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn datagrams() -> impl Strategy<Value = Datagram> {
        let kind = prop_oneof![Just(Kind::Request), Just(Kind::Answer)];
        (kind, any::<(u32, u8, u64, u64, u64)>()).prop_map(
            |(kind, (subject, address, sequence, sent, tag))| Datagram {
                kind,
                probe: ProbeId { subject: SubjectId(subject), address, sequence },
                sent: Time(Duration::from_nanos(sent)),
                tag,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(datagram in datagrams()) {
            prop_assert_eq!(Datagram::parse(&datagram.encode()), Some(datagram));
        }

        #[test]
        fn what_is_read_was_written_so(
            datagram in datagrams(),
            harm in proptest::option::of((0..LENGTH, any::<u8>())),
        ) {
            let mut octets = datagram.encode();
            if let Some((at, octet)) = harm {
                octets[at] = octet;
            }
            if let Some(read) = Datagram::parse(&octets) {
                prop_assert_eq!(read.encode(), octets);
            }
        }

        #[test]
        fn anything_may_come(octets in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(read) = Datagram::parse(&octets) {
                prop_assert_eq!(&read.encode()[..], &octets[..]);
            }
        }

        #[test]
        fn other_lengths_are_refused(datagram in datagrams(), more in 1..30usize) {
            let mut octets = datagram.encode().to_vec();
            prop_assert_eq!(Datagram::parse(&octets[..LENGTH - more]), None);
            octets.resize(LENGTH + more, 0);
            prop_assert_eq!(Datagram::parse(&octets), None);
        }

        #[test]
        fn an_answer_differs_in_its_kind_only(datagram in datagrams()) {
            let mut octets = datagram.encode();
            octets[KIND] = Kind::Answer as u8;
            prop_assert_eq!(datagram.answer().encode(), octets);
        }
    }
}
