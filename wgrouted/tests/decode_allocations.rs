//! The decoder's promise to allocate nothing for a route with one hop, kept by counting.
//!
//! Alone in its file because it replaces the allocator.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use wgrouted::{core::event::NetEvent, source::rtnetlink::decode};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u32> = const { Cell::new(0) };
}

// SAFETY: both methods only pass on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
#[cfg(target_endian = "little")]
fn a_route_with_one_hop_costs_no_allocation() {
    let captured = include_str!("../src/source/rtnetlink/decode/captured.txt");
    let mut checked = 0;
    let mut out = Vec::with_capacity(1);
    for line in captured.lines().filter_map(|line| line.strip_prefix("< ")) {
        let digits = |i| u8::from_str_radix(&line[i..i + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..line.len()).step_by(2).map(digits).collect();
        let before = ALLOCATIONS.get();
        decode::events(&bytes, &mut out);
        let allocations = ALLOCATIONS.get() - before;
        if let Some(NetEvent::Route(event)) = out.pop() {
            let several = event.route.path.hops.len() > 1;
            assert_eq!(allocations > 0, several, "{allocations} for {event:?}");
            checked += 1;
        }
    }
    assert!(checked > 20);
}
