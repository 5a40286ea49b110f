//! Keys and values of the maps, byte for byte as the kernel holds them.
//!
//! Nothing here decides anything. Every type has a fixed size without padding, asserted below: a
//! byte that nobody sets would make two equal keys differ. [`VERSION`] changes with any of them.

mod count;
pub mod domain;
mod flow;
mod link;
pub mod names;
pub mod owner;
mod peer;
mod policy;
mod reason;
mod source;

pub use count::{Budget, Counter, EVENTS, Event, Sample};
pub use flow::{Flow, FlowKey, FragmentKey};
pub use link::{Finder, Link, Tunnel, TunnelKey};
pub use peer::{Mode, Peer};
pub use policy::{MAX_RULES, Policy, Rule};
pub use reason::{Reason, SLOTS, slot};
pub use source::{DOMAIN_BITS, SetMember, SourceKey4, SourceKey6};

/// Version of this layout: programs and maps of different versions never meet.
pub const VERSION: u32 = 2;
/// Marks [`Settings`] as ours.
pub const MAGIC: u32 = 0x7767_7266;

/// A type that may be handed to the kernel as bytes and taken back from it.
///
/// # Safety
///
/// `#[repr(C)]` or a primitive, without padding, and every bit pattern is a value.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($type:ty = $size:literal),* $(,)?) => { $(
        const _: () = assert!(size_of::<$type>() == $size);
        // SAFETY: `#[repr(C)]` of integers; its fields fill the size asserted above.
        unsafe impl Plain for $type {}
    )* };
}

plain! {
    u8 = 1,
    u32 = 4,
    u64 = 8,
    Settings = 32,
    Link = 8,
    TunnelKey = 48,
    Tunnel = 8,
    Peer = 8,
    SourceKey4 = 12,
    SourceKey6 = 24,
    SetMember = 8,
    Policy = 8,
    Rule = 80,
    FlowKey = 40,
    Flow = 16,
    FragmentKey = 40,
    Counter = 16,
    Budget = 16,
    Sample = 64,
}

/// What holds for all links.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u32,
    /// Bits of [`Settings::GUARD`].
    pub flags: u32,
    /// Sampled drops a second and CPU; 0 samples nothing.
    pub samples_per_second: u32,
    /// Number of peers the tables have room for: ids are below it.
    pub peers: u32,
    /// Zero.
    pub reserved: [u32; 3],
}

impl Settings {
    /// A device that the program is attached to but that is not in the table of links, or a peer
    /// without a mode, is refused. Without it such packets pass and are counted.
    pub const GUARD: u32 = 1;
}
