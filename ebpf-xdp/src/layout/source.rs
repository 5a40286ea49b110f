//! Keys of the tries of sources, and sets of owners.

/// Bits of a trie key before the address: the domain is always matched whole.
pub const DOMAIN_BITS: u32 = 32;

/// Key of the IPv4 trie, as `BPF_MAP_TYPE_LPM_TRIE` wants it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey4 {
    /// [`DOMAIN_BITS`] plus the prefix length.
    pub bits: u32,
    /// A [`super::domain`].
    pub domain: u32,
    /// The network's octets.
    pub addr: [u8; 4],
}

/// Key of the IPv6 trie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey6 {
    /// [`DOMAIN_BITS`] plus the prefix length.
    pub bits: u32,
    /// A [`super::domain`].
    pub domain: u32,
    /// The network's octets.
    pub addr: [u8; 16],
}

/// A peer belongs to a set of owners.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SetMember {
    /// The set.
    pub set: u32,
    /// The peer.
    pub peer: u32,
}
