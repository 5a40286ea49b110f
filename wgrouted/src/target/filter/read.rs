//! What the filter counted, for whoever shows it.
//!
//! Here lives the reading side: it opens the pins of what is in force, changes nothing, and may be
//! used beside the thread that owns the filter.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use aya::maps::{Map as AyaMap, MapData, RingBuf};
use ebpf_xdp::{
    layout::{Counter, Event, Reason, SLOTS, Sample, names, slot},
    verdict::Verdict,
};

use super::{
    error::{failed, refuse},
    pins::Pins,
    programs::{self, Loaded},
    sys,
    tables::Tables,
};
use crate::core::{
    filter::table::{FilterError, Identity},
    route::IfIndex,
};

/// The filter in force, of the network namespace of the thread that opens it. It goes on reading
/// the same maps when the daemon replaces them: open one a question.
#[derive(Debug)]
pub struct FilterReader {
    tables: Tables,
    probe: Loaded,
    samples: PathBuf,
}

/// Packets of one peer that had the same fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The peer; 0: unknown.
    pub peer: u32,
    /// Why they passed or were dropped.
    pub reason: Reason,
    /// They passed although `reason` speaks against it.
    pub monitored: bool,
    /// How many.
    pub counter: Counter,
}

/// What was counted beside packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// [`Event::FlowOpened`].
    pub flow_opened: u64,
    /// [`Event::FlowFailed`].
    pub flow_failed: u64,
    /// [`Event::FlowExpired`].
    pub flow_expired: u64,
    /// [`Event::FragmentOpened`].
    pub fragment_opened: u64,
    /// [`Event::SampleLimited`].
    pub sample_limited: u64,
    /// [`Event::SampleLost`].
    pub sample_lost: u64,
}

/// Room in the maps, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// IPv4 prefixes.
    pub sources_v4: u32,
    /// IPv6 prefixes.
    pub sources_v6: u32,
    /// Members of sets of owners.
    pub members: u32,
    /// Peer numbers, of which 0 is nobody's.
    pub peers: u32,
    /// Links.
    pub links: u32,
    /// Policies, of which 0 is none.
    pub policies: u32,
    /// Rules.
    pub rules: u32,
}

impl FilterReader {
    /// Opens what is in force.
    pub fn open(directory: impl AsRef<Path>) -> Result<FilterReader, FilterError> {
        let directory = directory.as_ref();
        let pins = Pins::of(directory)?;
        let number = pins.current().or(pins.generations()?.last().copied());
        let Some(number) = number else {
            return Err(refuse(format!(
                "there is no filter below {} for this network namespace: start the daemon with \
                 `[filter]`, or name the directory of its pins",
                directory.display()
            )));
        };
        let generation = pins.generation(number);
        if !Tables::is_of_this_version(&generation) {
            return Err(refuse(format!(
                "the filter in {} is of another version: ask with the program that made it",
                generation.display()
            )));
        }
        Ok(FilterReader {
            tables: Tables::open(&generation)?,
            probe: programs::open_probe(&generation)?,
            samples: generation.join(names::SAMPLES),
        })
    }

    /// What was counted, of all CPUs together and without what is zero; by peer, passes before
    /// drops before what would have been dropped.
    pub fn counters(&self) -> Result<Vec<Count>, FilterError> {
        let fates: Vec<_> = Reason::ALL
            .into_iter()
            .flat_map(|reason| [(reason, false), (reason, true)])
            .filter(|(reason, monitored)| reason.is_drop() || !monitored)
            .collect();
        let mut all = Vec::new();
        let scanned = self.tables.counters.scan_each(|index: u32, each: &[Counter]| {
            let counter = each.iter().fold(Counter::default(), |sum, one| Counter {
                packets: sum.packets.wrapping_add(one.packets),
                bytes: sum.bytes.wrapping_add(one.bytes),
            });
            let (peer, slot_of) = (index / SLOTS, index % SLOTS);
            let fate =
                fates.iter().find(|(reason, monitored)| slot(*reason, *monitored) == slot_of);
            if let Some((reason, monitored)) = fate.copied().filter(|_| counter.packets > 0) {
                all.push(Count { peer, reason, monitored, counter });
            }
        });
        scanned.map_err(|error| failed("read the filter's counters", &error))?;
        all.sort_unstable_by_key(|count| (count.peer, slot(count.reason, count.monitored)));
        Ok(all)
    }

    /// What was counted beside packets, of all CPUs together.
    pub fn events(&self) -> Result<Events, FilterError> {
        let mut events = Events::default();
        let scanned = self.tables.events.scan_each(|event: u32, each: &[u64]| {
            let place = match event {
                _ if event == Event::FlowOpened as u32 => &mut events.flow_opened,
                _ if event == Event::FlowFailed as u32 => &mut events.flow_failed,
                _ if event == Event::FlowExpired as u32 => &mut events.flow_expired,
                _ if event == Event::FragmentOpened as u32 => &mut events.fragment_opened,
                _ if event == Event::SampleLimited as u32 => &mut events.sample_limited,
                _ if event == Event::SampleLost as u32 => &mut events.sample_lost,
                _ => return,
            };
            *place = each.iter().fold(0, |sum, one| sum.wrapping_add(*one));
        });
        scanned.map_err(|error| failed("read the filter's events", &error))?;
        Ok(events)
    }

    /// How long ago the last packet of each peer passed; of those that ever sent one.
    pub fn last_seen(&self) -> Result<Vec<(u32, Duration)>, FilterError> {
        let now = sys::coarse_monotonic();
        let mut all = Vec::new();
        let scanned = self.tables.last_seen.scan(|peer: u32, time: u64| {
            if time != 0 {
                all.push((peer, Duration::from_nanos(now.saturating_sub(time))));
            }
        });
        scanned.map_err(|error| failed("read when peers were seen", &error))?;
        all.sort_unstable();
        Ok(all)
    }

    /// Who the peers are, by number.
    pub fn peers(&self) -> Result<Vec<(u32, Identity)>, FilterError> {
        self.tables.identities().map_err(|error| failed("read who the peers are", &error))
    }

    /// Room in the maps.
    pub fn room(&self) -> Room {
        let tables = &self.tables;
        Room {
            sources_v4: tables.sources_v4.entries(),
            sources_v6: tables.sources_v6.entries(),
            members: tables.owner_sets.entries(),
            peers: tables.peers.entries(),
            links: tables.links.entries(),
            policies: tables.policies.entries(),
            rules: tables.rules.entries(),
        }
    }

    /// What would become of a packet that came in by a device, in the kernel's own words. Nothing
    /// is counted or remembered. The verdict does not name the peer.
    pub fn probe(&self, ifindex: IfIndex, packet: &[u8]) -> Result<Verdict, FilterError> {
        // net/bpf/test_run.c: as long as an Ethernet header, as short as a page less headroom.
        if packet.len() < 14 {
            return Err(refuse("the kernel tries no packet shorter than 14 octets".to_owned()));
        }
        let result = sys::run_xdp(self.probe.as_fd(), packet, ifindex);
        let word = result.map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV) => refuse(format!("there is no device {ifindex}")),
            Some(libc::EINVAL) if packet.len() > 3000 => refuse(format!(
                "the kernel does not try a packet of {} octets: give fewer than 3000",
                packet.len()
            )),
            _ => failed("run the filter on a packet", &error),
        })?;
        Verdict::decode(word)
            .ok_or_else(|| refuse(format!("the filter gave {word:#x}, which means nothing")))
    }

    /// The samples of dropped packets. Each is given to one reader only.
    pub fn samples(&self) -> Result<Samples, FilterError> {
        let unreadable = |error: &dyn std::fmt::Display| {
            refuse(format!("cannot use {}: {error}", self.samples.display()))
        };
        let map = MapData::from_pin(&self.samples).map_err(|error| unreadable(&error))?;
        let ring = RingBuf::try_from(AyaMap::RingBuf(map)).map_err(|error| unreadable(&error))?;
        Ok(Samples { ring })
    }
}

/// How long ago a time of the coarse monotonic clock was, such as a sample's.
pub fn age_of(time: u64) -> Duration {
    Duration::from_nanos(sys::coarse_monotonic().saturating_sub(time))
}

/// Samples of dropped packets, as they come. Readable when there are any: wait with
/// `tokio::io::unix::AsyncFd` or poll(2).
pub struct Samples {
    ring: RingBuf<MapData>,
}

impl std::fmt::Debug for Samples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Samples").finish_non_exhaustive()
    }
}

impl AsFd for Samples {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl std::os::fd::AsRawFd for Samples {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.ring.as_raw_fd()
    }
}

impl Samples {
    /// The next one, if there is one. Does not wait.
    pub fn take(&mut self) -> Option<Sample> {
        loop {
            let item = self.ring.next()?;
            if item.len() >= size_of::<Sample>() {
                // SAFETY: that many bytes are there, and of this type every bit pattern is a value.
                return Some(unsafe { item.as_ptr().cast::<Sample>().read_unaligned() });
            }
        }
    }
}
