//! Names of the maps, as the object file has them.

/// `ARRAY` of one [`Settings`](super::Settings).
pub const SETTINGS: &str = "WGR_SETTINGS";
/// `HASH`: interface index to [`Link`](super::Link).
pub const LINKS: &str = "WGR_LINKS";
/// `HASH`: [`TunnelKey`](super::TunnelKey) to [`Tunnel`](super::Tunnel).
pub const TUNNELS: &str = "WGR_TUNNELS";
/// `ARRAY`: peer id to [`Peer`](super::Peer).
pub const PEERS: &str = "WGR_PEERS";
/// `LPM_TRIE`: [`SourceKey4`](super::SourceKey4) to owner.
pub const SOURCES_V4: &str = "WGR_SOURCES_V4";
/// `LPM_TRIE`: [`SourceKey6`](super::SourceKey6) to owner.
pub const SOURCES_V6: &str = "WGR_SOURCES_V6";
/// `HASH` of [`SetMember`](super::SetMember); the value says nothing.
pub const OWNER_SETS: &str = "WGR_OWNER_SETS";
/// `ARRAY`: policy id to [`Policy`](super::Policy).
pub const POLICIES: &str = "WGR_POLICIES";
/// `ARRAY` of [`Rule`](super::Rule).
pub const RULES: &str = "WGR_RULES";
/// `LRU_HASH`: [`FlowKey`](super::FlowKey) to [`Flow`](super::Flow).
pub const FLOWS: &str = "WGR_FLOWS";
/// `LRU_HASH`: [`FragmentKey`](super::FragmentKey) to the time of its first fragment.
pub const FRAGMENTS: &str = "WGR_FRAGMENTS";
/// `PERCPU_ARRAY`: peer id × [`SLOTS`](super::SLOTS) + slot to [`Counter`](super::Counter).
pub const COUNTERS: &str = "WGR_COUNTERS";
/// `PERCPU_ARRAY`: [`Event`](super::Event) to how often it happened.
pub const EVENTS: &str = "WGR_EVENTS";
/// `ARRAY`: peer id to the time its last accepted packet came.
pub const LAST_SEEN: &str = "WGR_LAST_SEEN";
/// `PERCPU_ARRAY` of one [`Budget`](super::Budget).
pub const BUDGET: &str = "WGR_BUDGET";
/// `RINGBUF` of [`Sample`](super::Sample).
pub const SAMPLES: &str = "WGR_SAMPLES";
