//! The packet filter's shared half: map layout, header parser and verdict.
//!
//! The same code decides in the kernel and on the host. [`verdict::ingress`] and
//! [`verdict::egress`] read packets through [`packet::Packet`] and tables through
//! [`tables::Tables`]; the programs (`src/main.rs`, built for the BPF target only) and the host's
//! mirror implement both.
//!
//! Nothing here allocates, panics or depends on `std`, no loop is without a constant bound, and
//! no packet byte is ever written: generic XDP mistakes a changed IP header on a layer 3 device
//! for a changed Ethernet header (kernel: `net/core/dev.c`, `bpf_prog_run_generic_xdp`).
//!
//! # What happens to a packet that a peer sent
//!
//! 1. *Which peer?* A **dedicated** link has one. On a **shared** link WireGuard has proven that
//!    the source belongs to the peer, so the source names it.
//! 2. *May it use this source?* The peer's [`layout::Mode`] asks the trie of sources
//!    ([`source`]). If the packet is one of a **tunnel** of that peer, what it carries is asked the
//!    same once more, as sent by the tunnel's own peer in the tables ([`tunnel`]).
//! 3. *May it say this?* Its [`layout::Policy`], if it has one: known flows pass, then the first
//!    matching rule decides, then the policy's default ([`policy`]).
#![no_std]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod flow;
pub mod layout;
#[cfg(not(target_arch = "bpf"))]
pub mod object;
pub mod packet;
pub mod parse;
pub mod policy;
pub mod source;
pub mod tables;
pub mod tunnel;
pub mod verdict;
