//! Any datagrams in answer to a dump of a device: `cargo +nightly fuzz run wireguard`.
//!
//! Each begins with its length in two bytes, so that a corpus can hold several.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wgrouted::target::wireguard::read_dump;

/// What a request might carry: with fixed numbers the fuzzer need not guess them.
const FAMILY: u16 = 28;
const SEQUENCE: u32 = 1;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let datagrams = std::iter::from_fn(|| {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_ne_bytes(*length)).min(tail.len());
        let (datagram, tail) = tail.split_at(length);
        rest = tail;
        Some(datagram)
    });
    if let Ok(Some(device)) = read_dump(FAMILY, SEQUENCE, datagrams) {
        // An allowed IP takes at least its length and its address.
        assert!(device.allowed_ips.len() + device.graveyard.len() <= input.len() / 8);
        assert!(device.allowed_ips.iter().all(|(_, peer)| (peer.0 as usize) < device.peers.len()));
    }
});
