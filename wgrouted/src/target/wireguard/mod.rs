//! WireGuard devices as a target for AllowedIPs.
//!
//! Here lives what every door to WireGuard shares (kernel, later user space): the batch, the trait
//! of the doors and the graveyard. What a device holds is the core's [`Device`]. Secrets have no
//! place in any of them.

mod answers;
mod apply;
mod dump;
mod encode;
mod error;
mod genl;
mod kernel;
#[cfg(test)]
mod loopback;
mod settings;
mod uapi;

pub use self::{
    dump::read_dump,
    encode::{DEFAULT_MESSAGE, MAX_MESSAGE, MIN_MESSAGE},
    error::WgError,
    kernel::KernelWireguard,
    settings::{PeerSettings, Secret, Settings},
};
pub use crate::core::device::{Device, DevicePeer, Report};
use crate::core::{change::Change, peer::PublicKey, route::IfIndex};

/// The public key of the graveyard: a peer to which kernels before Linux 6.16, which cannot remove
/// a single allowed IP, have the removed ones moved.
///
/// It is 32 bytes of English, so that everybody can see that nobody made it from a private key.
/// Nobody can find one either: the text is the u-coordinate of a point on the quadratic twist of
/// Curve25519, while every public key made from a private key lies on the curve itself.
pub const GRAVEYARD: PublicKey = PublicKey(*b"wgrouted graveyard, no such peer");

/// A batch for one device. `changes` name peers by their position in `peers`.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Key of each peer number that occurs in `changes`.
    pub peers: &'a [PublicKey],
    /// What shall change, in the order in which it shall happen.
    pub changes: &'a [Change],
}

/// A door to WireGuard devices.
///
/// Calls block. They never touch peers, keys, endpoints or keepalives.
pub trait WireguardTarget {
    /// Reads a device.
    fn dump(&mut self, ifindex: IfIndex) -> Result<Device, WgError>;

    /// Applies the changes of a batch in their order; changes of the same kind (set or removal) to
    /// neighbouring prefixes of the same length may happen in any order among themselves.
    ///
    /// A change that the device refuses costs only itself. An error means that any part of the
    /// batch may have been applied.
    ///
    /// A peer that is gone is not an error: WireGuard acknowledges changes to it and does nothing.
    fn apply(&mut self, ifindex: IfIndex, batch: Batch<'_>) -> Result<Report, WgError>;

    /// Clears [`Device::graveyard`].
    fn bury(&mut self, ifindex: IfIndex) -> Result<(), WgError>;
}
