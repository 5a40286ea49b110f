//! A change of AllowedIPs, as data.
//!
//! Here live [`Change`] and its safe order. How a change is applied is the target's business.

use super::{peer::PeerIdx, prefix::Prefix};

/// One prefix changes hands: data, not an action.
///
/// `old` is what the device is believed to hold (a removal on the device must name the owner),
/// `new` what it shall hold. Exactly one change per prefix in a batch; `old != new`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The prefix.
    pub prefix: Prefix,
    /// Its present owner on the device; `None` if it is not installed.
    pub old: Option<PeerIdx>,
    /// Its owner to be; `None` to remove it.
    pub new: Option<PeerIdx>,
}
