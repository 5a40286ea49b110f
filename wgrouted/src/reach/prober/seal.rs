//! What tells our probes' answers from everybody else's.
//!
//! Here lives [`Seal`], a secret of this run from which each probe's tag is made. The tag covers the
//! probe, its time, its link and the address it was sent to, so a peer of a shared interface that
//! has seen its own probes cannot answer for another. It keeps no list of what is under way.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
};

use super::datagram::{Datagram, Kind, nanoseconds};
use crate::core::{reach::event::ProbeId, route::IfIndex, time::Time};

/// All nodes on a link (RFC 4291 section 2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The secret.
#[derive(Clone, Debug, Default)]
pub struct Seal(RandomState);

impl Seal {
    /// A probe, sealed.
    pub fn request(
        &self,
        probe: ProbeId,
        sent: Time,
        ifindex: IfIndex,
        address: IpAddr,
    ) -> Datagram {
        let tag = self.tag(probe, sent, ifindex, address);
        Datagram { kind: Kind::Request, probe, sent, tag }
    }

    /// Whether this came back from where it was sent: by that link, from that address, or, if all
    /// nodes were asked, from any of them.
    pub fn is_genuine(&self, datagram: &Datagram, ifindex: IfIndex, source: IpAddr) -> bool {
        let sent_to =
            |address| self.tag(datagram.probe, datagram.sent, ifindex, address) == datagram.tag;
        let a_node = matches!(source, IpAddr::V6(node) if node.is_unicast_link_local());
        sent_to(source) || (a_node && sent_to(ALL_NODES.into()))
    }

    fn tag(&self, probe: ProbeId, sent: Time, ifindex: IfIndex, address: IpAddr) -> u64 {
        // SipHash with a key from the system's random numbers: made for this.
        self.0.hash_one((probe, nanoseconds(sent), ifindex, address))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::reach::event::SubjectId;

    const PROBE: ProbeId = ProbeId { subject: SubjectId(3), address: 1, sequence: 77 };
    const SENT: Time = Time(Duration::from_millis(5));

    #[test]
    fn an_answer_is_taken_from_the_address_and_link_that_were_asked_only() {
        let (seal, other) = (Seal::default(), Seal::default());
        let right: IpAddr = "10.0.0.1".parse().unwrap();
        let wrong: IpAddr = "10.0.0.2".parse().unwrap();
        let answer = seal.request(PROBE, SENT, 4, right).answer();
        assert!(seal.is_genuine(&answer, 4, right));
        assert!(!seal.is_genuine(&answer, 4, wrong));
        assert!(!seal.is_genuine(&answer, 5, right));
        assert!(!other.is_genuine(&answer, 4, right));
        for forged in [
            Datagram { tag: answer.tag ^ 1, ..answer },
            Datagram { sent: SENT + Duration::from_nanos(1), ..answer },
            Datagram { probe: ProbeId { sequence: 78, ..PROBE }, ..answer },
            Datagram { probe: ProbeId { subject: SubjectId(4), ..PROBE }, ..answer },
            Datagram { probe: ProbeId { address: 0, ..PROBE }, ..answer },
        ] {
            assert!(!seal.is_genuine(&forged, 4, right), "{forged:?}");
        }
    }

    #[test]
    fn all_nodes_are_asked_at_once_and_link_local_ones_answer() {
        let seal = Seal::default();
        let answer = seal.request(PROBE, SENT, 4, ALL_NODES.into()).answer();
        assert!(seal.is_genuine(&answer, 4, "fe80::7".parse().unwrap()));
        assert!(!seal.is_genuine(&answer, 5, "fe80::7".parse().unwrap()));
        assert!(!seal.is_genuine(&answer, 4, "2001:db8::7".parse().unwrap()));
        assert!(!seal.is_genuine(&answer, 4, "10.0.0.1".parse().unwrap()));
    }
}
