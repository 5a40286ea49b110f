//! What is said when probes cannot be sent: once, with the remedy.
//!
//! Here lives [`Complaints`]. It knows no sockets.

use std::{collections::HashSet, io};

use tracing::error;

use super::socket::{Echo, Medium};
use crate::core::prefix::Family;

/// What has been said.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    not_opened: HashSet<(Medium, i32)>,
    unsent: HashSet<Medium>,
}

impl Complaints {
    /// A socket was opened: if that fails later, it is news.
    pub(super) fn opened(&mut self, medium: Medium) {
        self.not_opened.retain(|(about, _)| *about != medium);
    }

    /// A socket cannot be opened.
    pub(super) fn not_opened(&mut self, medium: Medium, port: u16, why: &io::Error) {
        if self.not_opened.insert((medium, why.raw_os_error().unwrap_or_default())) {
            let family = medium.family;
            error!(%family, error = %why, "{}", not_opened(medium, port, why));
        }
    }

    /// The kernel does not let a probe out.
    pub(super) fn unsent(&mut self, medium: Medium, port: u16) {
        if self.unsent.insert(medium) {
            let family = medium.family;
            error!(
                %family,
                "probes are not let out: allow {} in the firewall's output rules, and leave \
                 IPAddressDeny= out of the systemd unit",
                match medium.protocol {
                    Echo::Icmp => "ICMP echo requests".to_owned(),
                    Echo::Udp => format!("UDP port {port}"),
                },
            );
        }
    }
}

fn not_opened(medium: Medium, port: u16, why: &io::Error) -> String {
    match (medium.protocol, why.raw_os_error()) {
        (Echo::Icmp, Some(libc::EPERM | libc::EACCES)) => {
            "ICMP probes cannot be sent: CAP_NET_RAW is missing: run as root, or add it to \
             AmbientCapabilities= and CapabilityBoundingSet= of the systemd unit, or set \
             `probe = \"udp\"`"
                .to_owned()
        }
        (Echo::Udp, Some(libc::EADDRINUSE)) => format!(
            "UDP port {port} is taken by another program: set `port` of `[reach]` to a free one, \
             the same on all peers"
        ),
        (_, Some(libc::EAFNOSUPPORT)) => {
            let family = match medium.family {
                Family::V4 => "AF_INET",
                Family::V6 => "AF_INET6",
            };
            format!(
                "there are no sockets of this family: add {family} to RestrictAddressFamilies= of \
                 the systemd unit, or load it into the kernel"
            )
        }
        (Echo::Icmp, _) => "a socket for ICMP probes cannot be opened".to_owned(),
        (Echo::Udp, _) => format!("a socket for UDP probes on port {port} cannot be opened"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_one_line_with_the_remedy() {
        for (protocol, number, remedy) in [
            (Echo::Icmp, libc::EPERM, "CAP_NET_RAW"),
            (Echo::Udp, libc::EADDRINUSE, "`port` of `[reach]`"),
            (Echo::Udp, libc::EAFNOSUPPORT, "RestrictAddressFamilies"),
            (Echo::Udp, libc::ENOMEM, "UDP probes on port 7"),
        ] {
            let medium = Medium { protocol, family: Family::V4 };
            let line = not_opened(medium, 7, &io::Error::from_raw_os_error(number));
            assert!(line.contains(remedy) && line.lines().count() == 1, "{line}");
        }
    }

    #[test]
    fn it_is_made_once_until_things_were_well() {
        let mut complaints = Complaints::default();
        let medium = Medium { protocol: Echo::Udp, family: Family::V6 };
        let why = io::Error::from_raw_os_error(libc::EADDRINUSE);
        complaints.not_opened(medium, 7, &why);
        assert!(!complaints.not_opened.insert((medium, libc::EADDRINUSE)));
        complaints.opened(medium);
        assert!(complaints.not_opened.is_empty());
    }
}
