//! The programs: maps, and glue between the kernel's hooks and [`ebpf_xdp::verdict`].
//!
//! Nothing is decided here. Sizes of the maps are the loader's to set; what stands here is the
//! least that loads. Built for the BPF target only (`cargo lab bpf`).
#![no_std]
#![no_main]
#![allow(missing_docs, unreachable_pub, reason = "what the macros make of maps and programs")]

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC, xdp_action};
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_coarse_ns, bpf_loop, bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::{TcContext, XdpContext};
use ebpf_xdp::addr::{Addr, V4};
use ebpf_xdp::flow::SECOND;
use ebpf_xdp::layout::{
    Budget, Counter, DOMAIN_BITS, EVENTS, Event, Flow, FlowKey, FragmentKey, Link, Peer, Policy,
    Rule, SLOTS, Sample, SetMember, Settings, Tunnel, TunnelKey,
};
use ebpf_xdp::packet::{Packet, Step};
use ebpf_xdp::tables::{Tables, Work};
use ebpf_xdp::verdict;

/// A trie key after its length.
#[repr(C, packed)]
struct Source4 {
    domain: u32,
    addr: [u8; 4],
}

/// A trie key after its length.
#[repr(C, packed)]
struct Source6 {
    domain: u32,
    addr: [u8; 16],
}

#[map(name = "WGR_SETTINGS")]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map(name = "WGR_LINKS")]
static LINKS: HashMap<u32, Link> = HashMap::with_max_entries(1, 0);
#[map(name = "WGR_TUNNELS")]
static TUNNELS: HashMap<TunnelKey, Tunnel> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map(name = "WGR_PEERS")]
static PEERS: Array<Peer> = Array::with_max_entries(1, 0);
#[map(name = "WGR_SOURCES_V4")]
static SOURCES_V4: LpmTrie<Source4, u32> = LpmTrie::with_max_entries(1, 0);
#[map(name = "WGR_SOURCES_V6")]
static SOURCES_V6: LpmTrie<Source6, u32> = LpmTrie::with_max_entries(1, 0);
#[map(name = "WGR_OWNER_SETS")]
static OWNER_SETS: HashMap<SetMember, u8> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map(name = "WGR_POLICIES")]
static POLICIES: Array<Policy> = Array::with_max_entries(1, 0);
#[map(name = "WGR_RULES")]
static RULES: Array<Rule> = Array::with_max_entries(1, 0);
#[map(name = "WGR_FLOWS")]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1, 0);
#[map(name = "WGR_FRAGMENTS")]
static FRAGMENTS: LruHashMap<FragmentKey, u64> = LruHashMap::with_max_entries(1, 0);
#[map(name = "WGR_COUNTERS")]
static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(SLOTS, 0);
#[map(name = "WGR_EVENTS")]
static EVENT_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(EVENTS, 0);
#[map(name = "WGR_LAST_SEEN")]
static LAST_SEEN: Array<u64> = Array::with_max_entries(1, 0);
#[map(name = "WGR_BUDGET")]
static BUDGET: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);
#[map(name = "WGR_WORK")]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(3, 0);
#[map(name = "WGR_SAMPLES")]
static SAMPLES: RingBuf = RingBuf::with_byte_size(4096, 0);

/// One round of a loop: 1 ends it.
unsafe extern "C" fn round<S: Step>(index: u32, step: *mut S) -> i64 {
    // SAFETY: `repeat` gives the very step it has borrowed for as long as the loop lasts.
    i64::from(unsafe { &mut *step }.step(index))
}

#[inline(always)]
fn repeat<S: Step>(count: u32, step: &mut S) {
    let callback = round::<S> as unsafe extern "C" fn(u32, *mut S) -> i64;
    // SAFETY: the callback takes what it is given here.
    unsafe { bpf_loop(count, callback as *mut c_void, ptr::from_mut(step).cast(), 0) };
}

/// The maps. Without `WRITE` nothing is changed by looking.
struct Maps<const WRITE: bool>;

impl<const WRITE: bool> Tables for Maps<WRITE> {
    const WRITE: bool = WRITE;

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: takes nothing.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn settings(&self) -> Settings {
        SETTINGS.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn link(&self, ifindex: u32) -> Option<Link> {
        // SAFETY: a word; what a concurrent update may do to it is to replace it.
        unsafe { LINKS.get(ifindex) }.copied()
    }

    #[inline(always)]
    fn peer(&self, peer: u32) -> Option<Peer> {
        PEERS.get(peer).copied()
    }

    #[inline(always)]
    fn tunnel(&self, key: &TunnelKey) -> Option<Tunnel> {
        // SAFETY: a word, as above.
        unsafe { TUNNELS.get(key) }.copied()
    }

    #[inline(always)]
    fn owner(&self, family: u8, domain: u32, addr: Addr) -> Option<u32> {
        if family == V4 {
            let data = Source4 { domain, addr: addr.octets4() };
            SOURCES_V4.get(Key::new(DOMAIN_BITS + 32, data)).copied()
        } else {
            let data = Source6 { domain, addr: addr.octets6() };
            SOURCES_V6.get(Key::new(DOMAIN_BITS + 128, data)).copied()
        }
    }

    #[inline(always)]
    fn in_set(&self, set: u32, peer: u32) -> bool {
        // SAFETY: the value is not looked at.
        unsafe { OWNER_SETS.get(SetMember { set, peer }) }.is_some()
    }

    #[inline(always)]
    fn policy(&self, policy: u32) -> Option<Policy> {
        POLICIES.get(policy).copied()
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<&Rule> {
        RULES.get(index)
    }

    #[inline(always)]
    fn flow(&mut self, key: &FlowKey) -> Option<&mut Flow> {
        // SAFETY: the kernel keeps the element's memory while the program runs. CPUs that write
        // it at once write the same second, or one state of two.
        FLOWS.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
    }

    #[inline(always)]
    fn put_flow(&mut self, key: &FlowKey, flow: &Flow) -> bool {
        FLOWS.insert(key, flow, BPF_ANY.into()).is_ok()
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<u64> {
        // SAFETY: a word, as above.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn put_fragment(&mut self, key: &FragmentKey, now: u64) {
        // Not stored: later fragments will be dropped, and counted.
        let _ = FRAGMENTS.insert(key, now, BPF_ANY.into());
    }

    #[inline(always)]
    fn count(&mut self, peer: u32, slot: u32, bytes: u32) {
        let index = peer.wrapping_mul(SLOTS).wrapping_add(slot);
        if let Some(counter) = COUNTERS.get_ptr_mut(index) {
            // SAFETY: of this CPU alone.
            unsafe {
                (*counter).packets += 1;
                (*counter).bytes += u64::from(bytes);
            }
        }
    }

    #[inline(always)]
    fn event(&mut self, event: Event) {
        if WRITE && let Some(counter) = EVENT_COUNTERS.get_ptr_mut(event as u32) {
            // SAFETY: of this CPU alone.
            unsafe { *counter += 1 };
        }
    }

    #[inline(always)]
    fn seen(&mut self, peer: u32, now: u64) {
        if let Some(seen) = LAST_SEEN.get_ptr_mut(peer) {
            // SAFETY: a word; CPUs that write it at once write the same second.
            unsafe {
                if now.wrapping_sub(*seen) > SECOND {
                    *seen = now;
                }
            }
        }
    }

    #[inline(always)]
    fn may_sample(&mut self, limit: u32, now: u64) -> bool {
        let Some(budget) = BUDGET.get_ptr_mut(0) else { return false };
        // SAFETY: of this CPU alone.
        let budget = unsafe { &mut *budget };
        if now.wrapping_sub(budget.since) >= SECOND {
            *budget = Budget { since: now, taken: 0 };
        }
        budget.taken += 1;
        budget.taken <= u64::from(limit)
    }

    #[inline(always)]
    fn sample(&mut self, sample: &Sample) {
        if SAMPLES.output::<Sample>(sample, 0).is_err() {
            self.event(Event::SampleLost);
        }
    }
}

/// A packet in an XDP buffer. The helper reads across the fragments of a long one.
struct XdpPacket(*mut c_void);

impl Packet for XdpPacket {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context of this run.
        unsafe { bpf_xdp_get_buff_len(self.0.cast()) as u32 }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the context of this run, and `N` bytes of room.
        let error = unsafe {
            bpf_xdp_load_bytes(self.0.cast(), offset, bytes.as_mut_ptr().cast(), N as u32)
        };
        if error == 0 { Some(bytes) } else { None }
    }

    #[inline(always)]
    fn repeat<S: Step>(&self, count: u32, step: &mut S) {
        repeat(count, step);
    }
}

/// A packet in a socket buffer. The helper reads what is not in its linear part too.
struct SkbPacket(*mut c_void, u32);

impl Packet for SkbPacket {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.1
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the context of this run, and `N` bytes of room.
        let error = unsafe {
            bpf_skb_load_bytes(self.0.cast_const(), offset, bytes.as_mut_ptr().cast(), N as u32)
        };
        if error == 0 { Some(bytes) } else { None }
    }

    #[inline(always)]
    fn repeat<S: Step>(&self, count: u32, step: &mut S) {
        repeat(count, step);
    }
}

/// Places in `WORK`. A CPU receives one packet at a time and sends one at a time, but may send while
/// it receives.
const RECEIVE: u32 = 0;
const SEND: u32 = 1;
const PROBE: u32 = 2;

#[inline(always)]
fn work(place: u32) -> Option<&'static mut Work> {
    // SAFETY: of this CPU and of this place alone, and plain data.
    WORK.get_ptr_mut(place).map(|work| unsafe { &mut *work })
}

/// XDP. `frags`: packets in several pieces too, which drivers have at a large MTU.
#[xdp(frags)]
pub fn wgr_xdp(context: XdpContext) -> u32 {
    let Some(work) = work(RECEIVE) else { return xdp_action::XDP_DROP };
    let packet = XdpPacket(context.as_ptr());
    let ifindex = context.ingress_ifindex() as u32;
    let verdict = verdict::ingress(&packet, ifindex, &mut Maps::<true>, work);
    if verdict.is_drop() { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// Answers what would become of a packet and leaves no trace. Never attached: run by
/// `BPF_PROG_TEST_RUN`, where XDP, unlike tc, takes packets without an Ethernet header.
#[xdp]
pub fn wgr_probe(context: XdpContext) -> u32 {
    let Some(work) = work(PROBE) else { return u32::MAX };
    let packet = XdpPacket(context.as_ptr());
    let ifindex = context.ingress_ifindex() as u32;
    verdict::decide(&packet, ifindex, &mut Maps::<false>, work).encode()
}

/// What tc does next; the numbers are the same for tcx (`TCX_NEXT`, `TCX_DROP`).
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;

/// tc ingress: behind GRO, so a coalesced packet is judged once.
#[classifier]
pub fn wgr_ingress(context: TcContext) -> i32 {
    let Some(work) = work(RECEIVE) else { return TC_ACT_SHOT };
    let packet = SkbPacket(context.as_ptr(), context.len());
    // SAFETY: the context of this run.
    let ifindex = unsafe { (*context.skb.skb).ifindex };
    let verdict = verdict::ingress(&packet, ifindex, &mut Maps::<true>, work);
    if verdict.is_drop() { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

/// tc egress: opens the flows of what this side sends.
#[classifier]
pub fn wgr_egress(context: TcContext) -> i32 {
    if let Some(work) = work(SEND) {
        let packet = SkbPacket(context.as_ptr(), context.len());
        // SAFETY: the context of this run.
        let ifindex = unsafe { (*context.skb.skb).ifindex };
        verdict::egress(&packet, ifindex, &mut Maps::<true>, work);
    }
    TC_ACT_UNSPEC
}

/// Lets the kernel's GPL-only helpers be used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
