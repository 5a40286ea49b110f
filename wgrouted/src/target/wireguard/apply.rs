//! A batch on its way into a device: one message after the other, each acknowledgement checked.
//!
//! Here lives what needs no kernel to be tested: retrying, isolating the changes that the device
//! refuses, and finding out how it removes allowed IPs. The socket is a [`Transport`]. Invariant:
//! an error of one change never costs another change.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use tracing::debug;

use super::{
    Batch, Report, WgError,
    encode::{Encoder, Order, Removal},
    uapi::WGALLOWEDIP_F_REMOVE_ME,
};
use crate::core::{peer::PublicKey, prefix::Prefix, route::IfIndex};

/// The address on which the removal of allowed IPs is tried out: nobody's. It lies in the
/// discard-only block of RFC 6666, whose packets routers throw away; the rest spells `wgrouted`.
const PROBE: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0x7767, 0x726f, 0x7574, 0x6564);

/// How many peers are asked before the probe gives up: the first may just have been removed.
const PROBED_PEERS: usize = 8;

/// How often a message is sent again when the kernel is short of memory. The pauses double from
/// one millisecond, so together they last a quarter of a second.
const RETRIES: u32 = 8;

/// Takes messages to the kernel.
pub(super) trait Transport {
    /// Sends a `WG_CMD_SET_DEVICE` message and waits for its acknowledgement. [`WgError::Refused`]
    /// may be the fault of a single change; every other error concerns all of them.
    fn set_device(&mut self, ifindex: IfIndex, message: &mut [u8]) -> Result<(), WgError>;
}

/// Applies batches.
#[derive(Debug)]
pub(super) struct Applier {
    encoder: Encoder,
    /// What each device was found to understand.
    removal: HashMap<IfIndex, Removal>,
}

impl Applier {
    /// `limit` bounds the messages in bytes.
    pub(super) fn new(limit: usize) -> Applier {
        Applier { encoder: Encoder::new(limit), removal: HashMap::new() }
    }

    pub(super) fn apply(
        &mut self,
        transport: &mut impl Transport,
        ifindex: IfIndex,
        batch: Batch<'_>,
    ) -> Result<Report, WgError> {
        let mut report = Report::default();
        let result = self.changes(transport, ifindex, &batch, &mut report);
        if let Err(WgError::NoDevice(_)) = result {
            self.removal.remove(&ifindex);
        }
        result.map(|()| report)
    }

    /// Empties the graveyard.
    pub(super) fn bury(
        &mut self,
        transport: &mut impl Transport,
        ifindex: IfIndex,
    ) -> Result<(), WgError> {
        self.encoder.bury(ifindex);
        self.send(transport, ifindex, &mut Report::default())
    }

    /// Whether the device can remove a single allowed IP; `None` if it does not tell.
    pub(super) fn removes_single(
        &mut self,
        transport: &mut impl Transport,
        ifindex: IfIndex,
        peer: PublicKey,
    ) -> Result<Option<bool>, WgError> {
        let peers = std::iter::once(&peer);
        let found = self.probe(transport, ifindex, peers, &mut Report::default())?;
        Ok(found.map(|removal| matches!(removal, Removal::Flag)))
    }

    /// Sends the batch. A message that is refused is halved until the change that spoils it stands
    /// alone. What the kernel had already done of it is done again, which changes nothing: an
    /// allowed IP set twice is set, one removed twice is gone.
    fn changes(
        &mut self,
        transport: &mut impl Transport,
        ifindex: IfIndex,
        batch: &Batch<'_>,
        report: &mut Report,
    ) -> Result<(), WgError> {
        let order = Order::of(batch);
        let removal = self.removal(transport, ifindex, batch, report)?;
        let mut start = 0;
        // The end of a refused message: before it lies a change that the device will not take.
        let mut suspect = 0;
        while start < order.len() {
            let end =
                if start < suspect { start + (suspect - start).div_ceil(2) } else { order.len() };
            let next = self.encoder.changes(ifindex, batch, &order, (start, end), removal);
            match self.send(transport, ifindex, report) {
                Ok(()) => start = next,
                Err(WgError::Refused { errno, text, .. }) if next == start + 1 => {
                    let position = order.position(start);
                    let prefix = batch.changes[position].prefix;
                    debug!(ifindex, %prefix, errno, text, "the device refuses an allowed IP");
                    report.failed.push((position, errno));
                    start = next;
                    suspect = start;
                }
                Err(WgError::Refused { .. }) => suspect = next,
                Err(error) => return Err(error),
            }
        }
        report.failed.sort_unstable();
        Ok(())
    }

    /// How to remove allowed IPs from this device. Asked only when there are some to remove, so
    /// that a device which never loses one is never probed.
    fn removal(
        &mut self,
        transport: &mut impl Transport,
        ifindex: IfIndex,
        batch: &Batch<'_>,
        report: &mut Report,
    ) -> Result<Removal, WgError> {
        let mut removals = batch.changes.iter().filter(|change| change.new.is_none());
        let Some(owner) = removals.find_map(|change| change.old) else {
            return Ok(Removal::Flag);
        };
        if let Some(removal) = self.removal.get(&ifindex) {
            return Ok(*removal);
        }
        let peers = batch.peers[owner.0 as usize..].iter().chain(batch.peers);
        let found = self.probe(transport, ifindex, peers, report)?;
        debug!(ifindex, ?found, "probed how the device removes allowed IPs");
        if let Some(removal) = found {
            self.removal.insert(ifindex, removal);
        }
        Ok(found.unwrap_or(Removal::Graveyard))
    }

    /// Finds out whether the device knows `WGALLOWEDIP_F_REMOVE_ME`, by asking peers to give up
    /// [`PROBE`], which they do not own. Versions say nothing: vendors backport.
    ///
    /// | | since Linux 6.16 | before | lenient | peer gone |
    /// |---|---|---|---|---|
    /// | the flag | done | `EINVAL` | **added** | done |
    /// | flags that do not exist | `EINVAL` | `EINVAL` | **added** | done (some: `EINVAL`) |
    ///
    /// "Lenient" is the out-of-tree module on kernels before 5.2, which skips attributes that it
    /// does not know: there a removal would set what it should remove. Thus the second question,
    /// to which only a kernel that reads the flags says no. A yes teaches nothing, and the next peer
    /// is asked. If all say yes, [`PROBE`] may have been added to one: it goes to the graveyard, and
    /// the answer is `None`.
    fn probe<'a>(
        &mut self,
        transport: &mut impl Transport,
        ifindex: IfIndex,
        peers: impl Iterator<Item = &'a PublicKey>,
        report: &mut Report,
    ) -> Result<Option<Removal>, WgError> {
        let prefix = Prefix::host(IpAddr::V6(PROBE));
        for key in peers.take(PROBED_PEERS) {
            for (flags, refused) in
                [(WGALLOWEDIP_F_REMOVE_ME, Removal::Graveyard), (u32::MAX, Removal::Flag)]
            {
                self.encoder.probe(ifindex, *key, prefix, flags);
                match self.send(transport, ifindex, report) {
                    Ok(()) => {}
                    Err(WgError::Refused { .. }) => return Ok(Some(refused)),
                    Err(error) => return Err(error),
                }
            }
        }
        self.encoder.graveyard(ifindex, prefix);
        self.send(transport, ifindex, report)?;
        Ok(None)
    }

    /// Sends the message just encoded, again if the kernel had no memory for it.
    fn send(
        &mut self,
        transport: &mut impl Transport,
        ifindex: IfIndex,
        report: &mut Report,
    ) -> Result<(), WgError> {
        let mut retry = 0;
        loop {
            let sent = Instant::now();
            let result = transport.set_device(ifindex, self.encoder.bytes());
            report.messages += 1;
            report.longest_message = report.longest_message.max(sent.elapsed());
            // Let those in who waited for the RTNL lock.
            thread::yield_now();
            match result {
                Err(WgError::Refused { errno, .. }) if transient(errno) && retry == RETRIES => {
                    return Err(WgError::Exhausted { ifindex, errno });
                }
                Err(WgError::Refused { errno, text, .. }) if transient(errno) => {
                    debug!(ifindex, errno, text, retry, "sending a message again");
                    thread::sleep(Duration::from_millis(1 << retry));
                    retry += 1;
                }
                result => return result,
            }
        }
    }
}

/// Whether the same message may succeed a moment later.
fn transient(errno: i32) -> bool {
    matches!(errno, libc::ENOMEM | libc::ENOBUFS | libc::EINTR | libc::EAGAIN | libc::EBUSY)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        core::{change::Change, peer::PeerIdx},
        target::{
            fake::FakeDevice,
            wireguard::{
                GRAVEYARD, MIN_MESSAGE,
                loopback::{Flavour, Loopback, strategies},
            },
        },
    };

    type Tables = BTreeMap<Prefix, (Option<PeerIdx>, Option<PeerIdx>)>;
    type Table = BTreeMap<Prefix, PublicKey>;

    /// One of the two tables, as a device holds it.
    fn table(
        tables: &Tables,
        side: impl Fn(&(Option<PeerIdx>, Option<PeerIdx>)) -> Option<PeerIdx>,
    ) -> Table {
        let peers = strategies::peers();
        let owned = tables.iter().filter_map(|(prefix, owners)| Some((*prefix, side(owners)?)));
        owned.map(|(prefix, owner)| (prefix, peers[owner.0 as usize])).collect()
    }

    fn kernel(flavour: Flavour, tables: &Tables) -> Loopback {
        let mut device = FakeDevice::new("wg0", strategies::peers());
        for (prefix, key) in table(tables, |owners| owners.0) {
            device.set(prefix, &key);
        }
        Loopback::new(flavour, device)
    }

    /// Sets longest first, then removals shortest first.
    fn safe_order(mut changes: Vec<Change>) -> Vec<Change> {
        changes.sort_by_key(|change| {
            let len = i16::from(change.prefix.prefix_len());
            (change.new.is_none(), if change.new.is_some() { -len } else { len })
        });
        changes
    }

    /// The owner of an address by linear search.
    fn owner(table: &Table, addr: IpAddr) -> Option<PublicKey> {
        let matching = table.iter().filter(|(prefix, _)| prefix.contains(addr));
        matching.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, key)| *key)
    }

    fn flavour() -> impl Strategy<Value = Flavour> {
        proptest::sample::select(Flavour::ALL.as_slice())
    }

    proptest! {
        #[test]
        fn no_address_ever_has_a_third_owner(
            tables in strategies::tables(),
            flavour in flavour(),
            limit in MIN_MESSAGE..2000,
        ) {
            let mut kernel = kernel(flavour, &tables);
            let old = kernel.device.allowed_ips().clone();
            let new = table(&tables, |owners| owners.1);
            let may: Vec<_> = strategies::addresses()
                .into_iter()
                .map(|addr| (addr, [owner(&old, addr), owner(&new, addr)]))
                .collect();
            kernel.watch = Some(Box::new(move |device| {
                for (addr, allowed) in &may {
                    let now = owner(device.allowed_ips(), *addr);
                    // On the way through the graveyard an address has nobody.
                    let buried = now == Some(GRAVEYARD)
                        && !matches!(flavour, Flavour::Modern | Flavour::UpFront);
                    assert!(buried || allowed.contains(&now), "{addr}: {now:?} of {allowed:?}");
                }
            }));
            let changes = safe_order(strategies::changes(&tables));
            let peers = strategies::peers();
            let batch = Batch { peers: &peers, changes: &changes };
            let report = Applier::new(limit).apply(&mut kernel, 7, batch).unwrap();
            prop_assert_eq!(&report.failed, &[]);
            prop_assert_eq!(report.messages, kernel.messages);
            prop_assert_eq!(kernel.device.allowed_ips(), &new);
        }

        #[test]
        fn a_bad_change_costs_only_itself(
            tables in strategies::tables(),
            bad in proptest::collection::btree_set(strategies::prefix(), 0..8),
            flavour in flavour(),
            limit in MIN_MESSAGE..2000,
        ) {
            let mut kernel = kernel(flavour, &tables);
            kernel.refused = bad.iter().map(|prefix| (*prefix, libc::EAFNOSUPPORT)).collect();
            let changes = safe_order(strategies::changes(&tables));
            let peers = strategies::peers();
            let batch = Batch { peers: &peers, changes: &changes };
            let report = Applier::new(limit).apply(&mut kernel, 7, batch).unwrap();
            let failed: Vec<_> = (0..changes.len())
                .filter(|&position| bad.contains(&changes[position].prefix))
                .map(|position| (position, libc::EAFNOSUPPORT))
                .collect();
            prop_assert_eq!(report.failed, failed);
            let expected = tables.into_iter().map(|(prefix, (old, new))| {
                (prefix, if bad.contains(&prefix) { (old, old) } else { (old, new) })
            });
            prop_assert_eq!(kernel.device.allowed_ips(), &table(&expected.collect(), |o| o.1));
        }

        #[test]
        fn a_kernel_short_of_memory_is_asked_again(
            tables in strategies::tables(),
            errors in proptest::collection::vec(
                proptest::sample::select(&[libc::ENOMEM, libc::EINTR, libc::EBUSY][..]), 0..4,
            ),
            flavour in flavour(),
        ) {
            let mut kernel = kernel(flavour, &tables);
            kernel.errors = errors.into();
            let changes = safe_order(strategies::changes(&tables));
            let peers = strategies::peers();
            let batch = Batch { peers: &peers, changes: &changes };
            let report = Applier::new(MIN_MESSAGE).apply(&mut kernel, 7, batch).unwrap();
            prop_assert_eq!(&report.failed, &[]);
            prop_assert_eq!(kernel.device.allowed_ips(), &table(&tables, |owners| owners.1));
        }
    }

    const A: PublicKey = PublicKey([1; 32]);
    const GONE: PublicKey = PublicKey([9; 32]);

    fn removal_of(prefix: Prefix, old: u32) -> [Change; 1] {
        [Change { prefix, old: Some(PeerIdx(old)), new: None }]
    }

    fn with_default_route(flavour: Flavour) -> Loopback {
        let mut device = FakeDevice::new("wg0", [A]);
        device.set(Prefix::DEFAULT_V4, &A);
        Loopback::new(flavour, device)
    }

    #[test]
    fn the_probe_is_asked_once_and_leaves_nothing() {
        for (flavour, probes) in [(Flavour::Modern, 2), (Flavour::UpFront, 2), (Flavour::Strict, 1)]
        {
            let mut kernel = with_default_route(flavour);
            let mut applier = Applier::new(MIN_MESSAGE);
            let changes = removal_of(Prefix::DEFAULT_V4, 0);
            let batch = Batch { peers: &[A], changes: &changes };
            let report = applier.apply(&mut kernel, 7, batch).unwrap();
            assert_eq!(report.messages, probes + 1, "{flavour:?}");
            assert_eq!(kernel.device.allowed_ips().len(), 0);
            assert_eq!(applier.apply(&mut kernel, 7, batch).unwrap().messages, 1);
            assert_eq!(kernel.device.allowed_ips().len(), 0);
            let graveyard = kernel.device.peer(&GRAVEYARD).is_some();
            assert_eq!(graveyard, flavour == Flavour::Strict);
        }
    }

    #[test]
    fn a_kernel_that_ignores_flags_is_found_out() {
        let mut kernel = with_default_route(Flavour::Lenient);
        let changes = removal_of(Prefix::DEFAULT_V4, 0);
        let batch = Batch { peers: &[A], changes: &changes };
        let mut applier = Applier::new(MIN_MESSAGE);
        applier.apply(&mut kernel, 7, batch).unwrap();
        assert_eq!(kernel.device.allowed_ips().len(), 0);
        assert_eq!(applier.removal.get(&7), None);
    }

    #[test]
    fn a_peer_that_is_gone_does_not_mislead_the_probe() {
        for flavour in [Flavour::Modern, Flavour::UpFront, Flavour::Strict] {
            let mut kernel = with_default_route(flavour);
            let changes = removal_of("10.0.0.0/8".parse().unwrap(), 1);
            let batch = Batch { peers: &[A, GONE], changes: &changes };
            let mut applier = Applier::new(MIN_MESSAGE);
            applier.apply(&mut kernel, 7, batch).unwrap();
            let expected =
                if flavour == Flavour::Strict { Removal::Graveyard } else { Removal::Flag };
            assert_eq!(applier.removal.get(&7), Some(&expected), "{flavour:?}");
            assert_eq!(kernel.device.allowed_ips().len(), 1);
            assert!(kernel.device.peer(&GONE).is_none());
        }
    }

    #[test]
    fn sets_alone_probe_nothing() {
        let mut kernel = with_default_route(Flavour::Strict);
        let changes = [Change { prefix: Prefix::DEFAULT_V6, old: None, new: Some(PeerIdx(0)) }];
        let batch = Batch { peers: &[A], changes: &changes };
        assert_eq!(Applier::new(MIN_MESSAGE).apply(&mut kernel, 7, batch).unwrap().messages, 1);
        assert!(kernel.device.peer(&GRAVEYARD).is_none());
    }

    #[test]
    fn errors_of_the_whole_device_end_the_batch_and_forget_the_probe() {
        let mut kernel = with_default_route(Flavour::Modern);
        let changes = removal_of(Prefix::DEFAULT_V4, 0);
        let batch = Batch { peers: &[A], changes: &changes };
        let mut applier = Applier::new(MIN_MESSAGE);
        applier.apply(&mut kernel, 7, batch).unwrap();
        kernel.errors = [libc::ENODEV].into();
        assert_eq!(applier.apply(&mut kernel, 7, batch), Err(WgError::NoDevice(7)));
        assert_eq!(applier.removal.get(&7), None);
        kernel.errors = [libc::ENOMEM; 20].into();
        assert_eq!(
            applier.apply(&mut kernel, 7, batch),
            Err(WgError::Exhausted { ifindex: 7, errno: libc::ENOMEM })
        );
    }

    #[test]
    fn one_bad_change_is_found_by_halving() {
        let mut kernel = with_default_route(Flavour::Modern);
        let changes: Vec<_> = (0..2000u32)
            .map(|bits| Change {
                prefix: Prefix::host(std::net::Ipv4Addr::from(bits).into()),
                old: None,
                new: Some(PeerIdx(0)),
            })
            .collect();
        kernel.refused.insert(changes[1234].prefix, libc::EINVAL);
        let batch = Batch { peers: &[A], changes: &changes };
        let report = Applier::new(16 << 10).apply(&mut kernel, 7, batch).unwrap();
        assert_eq!(report.failed, [(1234, libc::EINVAL)]);
        assert_eq!(kernel.device.allowed_ips().len(), 2000);
        assert!(report.messages < 20, "{}", report.messages);
    }

    #[test]
    fn burying_needs_no_graveyard() {
        let mut kernel = with_default_route(Flavour::Strict);
        Applier::new(MIN_MESSAGE).bury(&mut kernel, 7).unwrap();
        assert!(kernel.device.peer(&GRAVEYARD).is_none());
        kernel.device.add_peer(GRAVEYARD);
        kernel.device.set(Prefix::DEFAULT_V4, &GRAVEYARD);
        Applier::new(MIN_MESSAGE).bury(&mut kernel, 7).unwrap();
        assert_eq!(kernel.device.allowed_ips().len(), 0);
    }
}
