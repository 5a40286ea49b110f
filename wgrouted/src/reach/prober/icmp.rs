//! ICMP echo (RFC 792, RFC 4443 section 4): header and checksum around a probe's payload.
//!
//! Here live [`request`] and [`payload`]. Pure. The kernel makes the IP header, and the checksum of
//! ICMPv6 (`rawv6_init_sk`, net/ipv6/raw.c).

use super::datagram::LENGTH;
use crate::core::prefix::Family;

/// Octets of type, code, checksum, identifier and sequence number.
const HEADER: usize = 8;

pub(super) const ECHO_REPLY: u8 = 0;
const ECHO: u8 = 8;
pub(super) const ECHO_REPLY_V6: u8 = 129;
const ECHO_V6: u8 = 128;

/// An echo request. Identifier and sequence number are for those who watch with a sniffer.
pub(super) fn request(
    family: Family,
    identifier: u16,
    sequence: u16,
    payload: &[u8; LENGTH],
) -> [u8; HEADER + LENGTH] {
    let mut packet = [0; HEADER + LENGTH];
    packet[0] = match family {
        Family::V4 => ECHO,
        Family::V6 => ECHO_V6,
    };
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[HEADER..].copy_from_slice(payload);
    if family == Family::V4 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// What came back in an echo reply, as a raw socket gives it: of IPv4 with the IP header.
pub(super) fn payload(family: Family, packet: &[u8]) -> Option<&[u8]> {
    let (message, reply) = match family {
        Family::V4 => {
            let header = usize::from(packet.first()? & 0xf) * 4;
            (packet.get(header..)?, ECHO_REPLY)
        }
        Family::V6 => (packet, ECHO_REPLY_V6),
    };
    let (header, payload) = message.split_at_checked(HEADER)?;
    (header[..2] == [reply, 0]).then_some(payload)
}

/// The Internet checksum (RFC 1071).
fn checksum(octets: &[u8]) -> u16 {
    let (pairs, rest) = octets.as_chunks::<2>();
    let words = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair)));
    let last = rest.first().map(|octet| u32::from(*octet) << 8);
    let mut sum: u32 = words.chain(last).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_as_the_rfcs_say() {
        let packet = request(Family::V4, 0x1234, 7, &[0xab; LENGTH]);
        assert_eq!(packet[..2], [8, 0]);
        assert_eq!(packet[4..8], [0x12, 0x34, 0, 7]);
        assert_eq!(checksum(&packet), 0, "a sum over all, the checksum included, is zero");
        assert_ne!(packet[2..4], [0, 0]);
        let packet = request(Family::V6, 0x1234, 7, &[0xab; LENGTH]);
        assert_eq!(packet[..4], [128, 0, 0, 0], "the kernel sums");
    }

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        // Its section 3: the sum of these is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff]), 0x00ff);
    }

    #[test]
    fn only_replies_have_a_payload() {
        let mut packet = vec![0x46; 24];
        packet.extend(request(Family::V4, 1, 2, &[7; LENGTH]));
        assert_eq!(payload(Family::V4, &packet), None);
        packet[24] = ECHO_REPLY;
        assert_eq!(payload(Family::V4, &packet), Some(&[7; LENGTH][..]), "behind IP options");
        let mut packet = request(Family::V6, 1, 2, &[7; LENGTH]);
        assert_eq!(payload(Family::V6, &packet), None);
        packet[0] = ECHO_REPLY_V6;
        assert_eq!(payload(Family::V6, &packet), Some(&[7; LENGTH][..]));
    }

    proptest! {
        #[test]
        fn anything_may_come(packet in proptest::collection::vec(any::<u8>(), 0..80)) {
            for family in Family::ALL {
                if let Some(payload) = payload(family, &packet) {
                    prop_assert!(packet.ends_with(payload));
                }
            }
        }
    }
}
