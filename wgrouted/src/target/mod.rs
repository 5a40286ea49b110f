//! What the daemon changes in the world.

pub mod fake;
pub mod wireguard;
