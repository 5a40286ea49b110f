//! Any datagram: `cargo +nightly fuzz run rtnetlink`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wgrouted::source::rtnetlink::{decode, wire::Messages};

fuzz_target!(|datagram: &[u8]| {
    let mut events = Vec::new();
    let tally = decode::events(datagram, &mut events);
    assert!(tally.messages <= datagram.len() as u64 / 16 + 1);
    assert!(tally.errors + events.len() as u64 <= tally.messages);
    for message in Messages::new(datagram).flatten() {
        let _ = decode::route_or_clone(&message);
    }
});
