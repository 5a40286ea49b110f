//! Links that we make ourselves: WireGuard devices, and tunnels inside them.
//!
//! Here lives what must be done so that links are as configured ([`plan`]), as a function of what
//! is configured and what there is. Secrets have no type here: a private key is known by its public
//! key, a preshared one by its [`Fingerprint`](state::Fingerprint). Invariant: nothing that
//! somebody else made is ever named for removal, be it a link, an address or a peer.

pub mod address;
pub mod mtu;
pub mod plan;
pub mod rule;
pub mod state;
