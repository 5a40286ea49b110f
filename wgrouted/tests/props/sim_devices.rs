//! What requests do to the devices of the simulated world.
//!
//! Here lives how a batch is carried out, whole or in part.

use super::*;

impl Sim {
    pub(super) fn make(
        &mut self,
        ifindex: IfIndex,
        peers: &[PublicKey],
        changes: &[Change],
        fault: Fault,
    ) -> Result<Report, DeviceError> {
        let Some(device) = self.devices.get_mut(&ifindex) else { return Err(error("gone", true)) };
        let (limit, refused) = match fault {
            Fault::Fails => (0, usize::MAX),
            Fault::HalfWay(limit) => (limit, usize::MAX),
            Fault::Refuses(every) => (usize::MAX, every),
            Fault::Fine | Fault::Late(_) => (usize::MAX, usize::MAX),
        };
        let mut report = Report { messages: 1, ..Report::default() };
        for (at, change) in changes.iter().enumerate().take(limit) {
            if refused != usize::MAX && at % refused == 0 {
                report.failed.push((at, 22));
                continue;
            }
            let key = |peer: wgrouted::core::peer::PeerIdx| peers[peer.0 as usize];
            match (change.old, change.new) {
                (_, Some(new)) => device.set(change.prefix, key(new)),
                (Some(old), None) => device.unset(change.prefix, key(old)),
                (None, None) => {}
            }
            self.made.push((self.now, ifindex, *change));
        }
        match fault {
            Fault::Fails | Fault::HalfWay(_) => Err(error("failed", false)),
            _ => Ok(report),
        }
    }
}

pub(super) fn error(message: &str, gone: bool) -> DeviceError {
    DeviceError { message: message.to_owned(), gone }
}
