//! What the verdict asks of the tables.
//!
//! Implemented by the programs over BPF maps and on the host over collections. A method that finds
//! nothing says so; none fails otherwise.

use crate::addr::Addr;
use crate::layout::{
    Event, Flow, FlowKey, FragmentKey, Link, Peer, Policy, Rule, Sample, Settings, Tunnel,
    TunnelKey,
};
use crate::parse::Headers;

/// Where the verdict keeps what it works with. Programs have it in a map: their stack is 512 bytes
/// deep, and what lies in a map has no past that the verifier would have to tell apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// The packet that is judged: of a tunnel's packet the inner one.
    pub headers: Headers,
    /// The packet that it quotes.
    pub quoted: Headers,
    /// A key to look up.
    pub flow: FlowKey,
    /// A key to look up.
    pub fragment: FragmentKey,
    /// A key to look up.
    pub tunnel: TunnelKey,
}

/// The tables.
pub trait Tables {
    /// Whether looking at a packet leaves traces: flows are opened and refreshed.
    const WRITE: bool = true;

    /// Nanoseconds of a monotonic clock.
    fn now(&self) -> u64;
    /// What holds for all links.
    fn settings(&self) -> Settings;
    /// A link by interface index.
    fn link(&self, ifindex: u32) -> Option<Link>;
    /// A peer.
    fn peer(&self, peer: u32) -> Option<Peer>;
    /// The tunnel between two ends.
    fn tunnel(&self, key: &TunnelKey) -> Option<Tunnel>;
    /// The value of the longest prefix that contains an address, within a domain.
    fn owner(&self, family: u8, domain: u32, addr: Addr) -> Option<u32>;
    /// Whether a peer belongs to a set of owners.
    fn in_set(&self, set: u32, peer: u32) -> bool;
    /// A policy.
    fn policy(&self, policy: u32) -> Option<Policy>;
    /// A rule.
    fn rule(&self, index: u32) -> Option<&Rule>;
    /// A flow, to be changed in place.
    fn flow(&mut self, key: &FlowKey) -> Option<&mut Flow>;
    /// Stores a flow; `false` if that failed.
    fn put_flow(&mut self, key: &FlowKey, flow: &Flow) -> bool;
    /// When the first fragment of a packet passed.
    fn fragment(&self, key: &FragmentKey) -> Option<u64>;
    /// The first fragment of a packet passed now.
    fn put_fragment(&mut self, key: &FragmentKey, now: u64);
    /// Counts a packet of a peer (0: unknown).
    fn count(&mut self, peer: u32, slot: u32, bytes: u32);
    /// Counts an event.
    fn event(&mut self, event: Event);
    /// A packet of a peer passed now.
    fn seen(&mut self, peer: u32, now: u64);
    /// Whether the budget has room for a sample, which is then taken from it.
    fn may_sample(&mut self, limit: u32, now: u64) -> bool;
    /// Hands a sample to whoever watches.
    fn sample(&mut self, sample: &Sample);
}
