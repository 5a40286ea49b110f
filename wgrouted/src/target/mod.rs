//! What the daemon changes in the world.

pub mod fake;
pub mod filter;
pub mod kexits;
pub mod klink;
pub mod kroute;
pub mod links;
mod rtnl;
pub mod wireguard;
