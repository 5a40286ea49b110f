//! What is wanted and what is installed for one prefix, in eight bytes.
//!
//! Here lives [`Slot`] alone: a million of them exist.

use super::peer::PeerIdx;

/// Peer numbers take 30 bits; WireGuard allows 2^20 peers on a device (`MAX_PEERS_PER_DEVICE`,
/// drivers/net/wireguard/messages.h).
const PEER: u32 = (1 << 30) - 1;
const FLAG_A: u32 = 1 << 31;
const FLAG_B: u32 = 1 << 30;

/// The wanted and the installed owner of a prefix, with three marks.
///
/// `have` changes only when the device acknowledged a change or was dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    want: u32,
    have: u32,
}

impl Default for Slot {
    fn default() -> Self {
        Slot { want: PEER, have: PEER }
    }
}

fn peer(word: u32) -> Option<PeerIdx> {
    (word & PEER != PEER).then_some(PeerIdx(word & PEER))
}

fn with_peer(word: u32, peer: Option<PeerIdx>) -> u32 {
    (word & !PEER) | peer.map_or(PEER, |idx| idx.0)
}

fn with_flag(word: u32, flag: u32, on: bool) -> u32 {
    if on { word | flag } else { word & !flag }
}

impl Slot {
    /// The owner that the prefix shall have.
    pub fn want(self) -> Option<PeerIdx> {
        peer(self.want)
    }

    /// The owner that the prefix has on the device.
    pub fn have(self) -> Option<PeerIdx> {
        peer(self.have)
    }

    /// Sets the wanted owner.
    pub fn set_want(&mut self, owner: Option<PeerIdx>) {
        self.want = with_peer(self.want, owner);
    }

    /// Sets the installed owner.
    pub fn set_have(&mut self, owner: Option<PeerIdx>) {
        self.have = with_peer(self.have, owner);
    }

    /// The prefix waits in the queue for an owner.
    pub fn is_queued(self) -> bool {
        self.want & FLAG_A != 0
    }

    /// Marks whether the prefix waits in the queue for an owner.
    pub fn set_queued(&mut self, on: bool) {
        self.want = with_flag(self.want, FLAG_A, on);
    }

    /// A change of the prefix is on its way to the device.
    pub fn is_in_flight(self) -> bool {
        self.want & FLAG_B != 0
    }

    /// Marks whether a change is on its way.
    pub fn set_in_flight(&mut self, on: bool) {
        self.want = with_flag(self.want, FLAG_B, on);
    }

    /// The sweep that is going on has met the prefix.
    pub fn is_seen(self) -> bool {
        self.have & FLAG_A != 0
    }

    /// Marks whether the sweep has met the prefix.
    pub fn set_seen(&mut self, on: bool) {
        self.have = with_flag(self.have, FLAG_A, on);
    }

    /// Neither wanted nor installed nor on its way.
    pub fn is_void(self) -> bool {
        self.want() == self.have() && self.have().is_none() && !self.is_in_flight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_marks_do_not_disturb_each_other() {
        let mut slot = Slot::default();
        assert!(slot.is_void());
        slot.set_want(Some(PeerIdx(0)));
        slot.set_have(Some(PeerIdx(1 << 20)));
        slot.set_queued(true);
        slot.set_in_flight(true);
        slot.set_seen(true);
        assert_eq!((slot.want(), slot.have()), (Some(PeerIdx(0)), Some(PeerIdx(1 << 20))));
        slot.set_want(None);
        slot.set_have(None);
        assert!(slot.is_queued() && slot.is_in_flight() && slot.is_seen() && !slot.is_void());
        slot.set_queued(false);
        slot.set_in_flight(false);
        slot.set_seen(false);
        assert_eq!(slot, Slot::default());
        assert_eq!(size_of::<Slot>(), 8);
    }
}
