//! Links that we make: one plan suffices, and nothing that somebody else made goes away.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use proptest::{collection::vec, option, prelude::*};
use wgrouted::core::{
    links::{
        address::InterfaceAddress,
        plan::{Created, Plan, Step, plan},
        rule::{Tunnel, TunnelKind},
        state::{
            Fingerprint, Have, HaveAddress, HaveDevice, HavePeer, HaveShape, Known, KnownLink,
            KnownPeer, Want, WantDevice, WantEndpoint, WantPeer, WantShape,
        },
    },
    peer::PublicKey,
    prefix::Prefix,
};

use crate::domain::key;

const NAMES: [&str; 4] = ["wg0", "wg1", "gre0", "gre1"];

fn end(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51820))
}

fn secret(number: u8) -> Fingerprint {
    Fingerprint::of(&[number; 32])
}

fn addresses() -> impl Strategy<Value = BTreeMap<IpAddr, u8>> {
    let one = (any::<bool>(), 1..4u8, any::<bool>()).prop_map(|(v4, host, long)| {
        let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host)]);
        let address = if v4 { IpAddr::from([10, 0, 0, host]) } else { v6 };
        (
            address,
            match (v4, long) {
                (true, true) => 32,
                (true, false) => 24,
                (false, true) => 128,
                (false, false) => 64,
            },
        )
    });
    vec(one, 0..4).prop_map(BTreeMap::from_iter)
}

fn interface_addresses() -> impl Strategy<Value = Vec<InterfaceAddress>> {
    addresses().prop_map(|all| {
        all.into_iter().map(|(address, length)| InterfaceAddress { address, length }).collect()
    })
}

fn tunnel() -> impl Strategy<Value = Tunnel> {
    let kinds = prop_oneof![Just(TunnelKind::Gre), Just(TunnelKind::Ipip)];
    (kinds, 0..2usize, 1..3u8, 1..3u8, option::of(0..2u32)).prop_map(|(kind, over, l, r, key)| {
        Tunnel {
            kind,
            over: NAMES[over].to_owned(),
            local: IpAddr::from([10, 0, 0, l]),
            remote: IpAddr::from([10, 0, 1, r]),
            ttl: 64,
            key,
        }
    })
}

prop_compose! {
    fn want_peer()(
        number in 1..5u8,
        preshared in option::of(1..3u8),
        endpoint in option::of((1..4u8, vec(1..4u8, 0..2), any::<bool>())),
        keepalive in option::of(0..2u16),
    ) -> WantPeer {
        WantPeer {
            public_key: key(number),
            preshared: preshared.map(secret),
            endpoint: endpoint.map(|(text, addresses, is_name)| WantEndpoint {
                text: format!("text{text}"),
                addresses: addresses.into_iter().map(end).collect(),
                is_name,
            }),
            keepalive,
            allowed_ips: vec![Prefix::DEFAULT_V4],
        }
    }
}

fn want_peers() -> impl Strategy<Value = Vec<WantPeer>> {
    vec(want_peer(), 0..4).prop_map(|peers| {
        let mut seen = BTreeSet::new();
        peers.into_iter().filter(|peer| seen.insert(peer.public_key)).collect()
    })
}

prop_compose! {
    fn want_device()(
        own in 10..12u8,
        listen_port in option::of(1..3u16),
        fwmark in option::of(0..2u32),
        peers in want_peers(),
    ) -> WantDevice {
        WantDevice { public_key: key(own), listen_port, fwmark, peers }
    }
}

fn wants() -> impl Strategy<Value = Vec<Want>> {
    let shape = prop_oneof![
        3 => want_device().prop_map(WantShape::Wireguard),
        1 => tunnel().prop_map(WantShape::Tunnel),
    ];
    let one = (0..4usize, shape, interface_addresses(), 1280..1282u32);
    vec(one, 0..4).prop_map(|all| {
        let mut seen = BTreeSet::new();
        let fresh = all.into_iter().filter(|(name, ..)| seen.insert(*name));
        fresh
            .map(|(name, shape, addresses, mtu)| Want {
                name: NAMES[name].to_owned(),
                shape,
                addresses,
                mtu,
            })
            .collect()
    })
}

prop_compose! {
    fn have_peer()(
        preshared in option::of(1..3u8),
        endpoint in option::of(1..4u8),
        keepalive in 0..2u16,
        silent: bool,
    ) -> HavePeer {
        let (preshared, endpoint) = (preshared.map(secret), endpoint.map(end));
        HavePeer { preshared, endpoint, keepalive, silent }
    }
}

fn have_device() -> impl Strategy<Value = HaveDevice> {
    let peers = vec((1..6u8, have_peer()), 0..5);
    (option::of(10..12u8), 0..3u16, 0..2u32, peers).prop_map(|(own, listen_port, fwmark, peers)| {
        let peers = peers.into_iter().map(|(number, peer)| (key(number), peer)).collect();
        HaveDevice { public_key: own.map(key), listen_port, fwmark, peers }
    })
}

fn haves() -> impl Strategy<Value = Vec<Have>> {
    let shape = prop_oneof![
        4 => have_device().prop_map(|device| HaveShape::Wireguard(Some(device))),
        2 => tunnel().prop_map(HaveShape::Tunnel),
        1 => Just(HaveShape::Other("veth".to_owned())),
    ];
    let marks = vec(any::<bool>(), 4);
    let one = (0..4usize, shape, any::<[bool; 2]>(), 1280..1282u32, addresses(), marks);
    vec(one, 0..5).prop_map(|all| {
        let mut seen = BTreeSet::new();
        let fresh = all.into_iter().filter(|(name, ..)| seen.insert(*name));
        fresh
            .map(|(name, shape, [ours, up], mtu, addresses, marks)| Have {
                index: name as u32 + 1,
                name: NAMES[name].to_owned(),
                ours,
                shape,
                up,
                mtu,
                addresses: addresses
                    .into_iter()
                    .zip(marks)
                    .map(|((address, length), ours)| HaveAddress {
                        address: InterfaceAddress { address, length },
                        ours,
                    })
                    .collect(),
            })
            .collect()
    })
}

/// What is remembered, perhaps of a link that has been another one since.
fn knowns() -> impl Strategy<Value = Known> {
    let peer = (1..6u8, any::<bool>(), option::of(1..4u8)).prop_map(|(number, ours, text)| {
        (key(number), KnownPeer { ours, endpoint: text.map(|text| format!("text{text}")) })
    });
    let link = (0..4usize, any::<bool>(), vec(peer, 0..4)).prop_map(|(name, same, peers)| {
        let index = if same { name as u32 + 1 } else { 99 };
        let peers = peers.into_iter().collect();
        (NAMES[name].to_owned(), KnownLink { index, peers })
    });
    vec(link, 0..4).prop_map(BTreeMap::from_iter)
}

/// The kernel, as far as steps go. Numbers of new links begin at 100.
struct Kernel {
    links: BTreeMap<String, Have>,
    wants: BTreeMap<String, Want>,
    next: u32,
}

impl Kernel {
    fn new(have: &[Have], want: &[Want]) -> Self {
        Kernel {
            links: have.iter().map(|link| (link.name.clone(), link.clone())).collect(),
            wants: want.iter().map(|link| (link.name.clone(), link.clone())).collect(),
            next: 100,
        }
    }

    fn have(&self) -> Vec<Have> {
        self.links.values().cloned().collect()
    }

    /// Takes the steps, and returns what is remembered then.
    fn follow(&mut self, plan: &Plan) -> Known {
        let mut known = plan.known.clone();
        for task in &plan.tasks {
            self.take(&task.link, &task.step);
            if matches!(task.step, Step::Create(_)) {
                known.get_mut(&task.link).unwrap().index = self.links[&task.link].index;
            }
        }
        known
    }

    fn device(&mut self, name: &str) -> &mut HaveDevice {
        match &mut self.links.get_mut(name).unwrap().shape {
            HaveShape::Wireguard(Some(device)) => device,
            other => panic!("{name} is {other:?}"),
        }
    }

    fn take(&mut self, name: &str, step: &Step) {
        match step {
            Step::Create(created) => {
                assert!(!self.links.contains_key(name), "{name} is there");
                let shape = match created {
                    Created::Wireguard => HaveShape::Wireguard(Some(HaveDevice::default())),
                    Created::Tunnel(tunnel) => HaveShape::Tunnel(tunnel.clone()),
                };
                let (index, name) = (self.next, name.to_owned());
                self.next += 1;
                let link = Have {
                    index,
                    name: name.clone(),
                    ours: true,
                    shape,
                    up: false,
                    mtu: 1420,
                    addresses: Vec::new(),
                };
                self.links.insert(name, link);
            }
            Step::Delete => drop(self.links.remove(name).unwrap()),
            Step::Retunnel(tunnel) => {
                self.links.get_mut(name).unwrap().shape = HaveShape::Tunnel(tunnel.clone());
            }
            Step::Device { private_key, listen_port, fwmark } => {
                let own = match &self.wants[name].shape {
                    WantShape::Wireguard(want) => want.public_key,
                    WantShape::Tunnel(_) => panic!("{name} shall be a tunnel"),
                };
                let device = self.device(name);
                if *private_key {
                    device.public_key = Some(own);
                }
                device.listen_port = listen_port.unwrap_or(device.listen_port);
                device.fwmark = fwmark.unwrap_or(device.fwmark);
            }
            Step::Peer(step) => {
                let preshared = match &self.wants[name].shape {
                    WantShape::Wireguard(want) => {
                        let peers = &want.peers;
                        let peer = peers.iter().find(|peer| peer.public_key == step.public_key);
                        peer.unwrap().preshared
                    }
                    WantShape::Tunnel(_) => panic!("{name} shall be a tunnel"),
                };
                let peers = &mut self.device(name).peers;
                assert_eq!(step.add.is_some(), !peers.contains_key(&step.public_key));
                let peer = peers.entry(step.public_key).or_default();
                if step.preshared {
                    peer.preshared = preshared;
                }
                peer.endpoint = step.endpoint.or(peer.endpoint);
                peer.keepalive = step.keepalive.unwrap_or(peer.keepalive);
            }
            Step::RemovePeer(key) => drop(self.device(name).peers.remove(key).unwrap()),
            Step::Mtu(mtu) => self.links.get_mut(name).unwrap().mtu = *mtu,
            Step::Up => self.links.get_mut(name).unwrap().up = true,
            Step::AddAddress(address) => {
                let list = &mut self.links.get_mut(name).unwrap().addresses;
                let same = |there: &HaveAddress| {
                    let same = there.address.address == address.address;
                    there.address == *address || (same && address.address.is_ipv6())
                };
                assert!(!list.iter().any(same), "EEXIST");
                list.push(HaveAddress { address: *address, ours: true });
            }
            Step::RemoveAddress(address) => {
                let list = &mut self.links.get_mut(name).unwrap().addresses;
                let before = list.len();
                list.retain(|there| there.address != *address);
                assert_eq!(list.len() + 1, before, "EADDRNOTAVAIL");
            }
        }
    }
}

/// What is nobody's but others': links without our mark, and on these what we did not add.
fn foreign(have: &[Have], known: &Known) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for link in have.iter().filter(|link| !link.ours) {
        all.insert(format!("link {} {}", link.name, link.index));
        let addresses = link.addresses.iter().filter(|address| !address.ours);
        all.extend(addresses.map(|there| format!("{} {}", link.name, there.address)));
        let known = known.get(&link.name).filter(|known| known.index == link.index);
        let ours = |key: &PublicKey| {
            known.is_some_and(|known| known.peers.get(key).is_some_and(|peer| peer.ours))
        };
        if let HaveShape::Wireguard(Some(device)) = &link.shape {
            let peers = device.peers.keys().filter(|key| !ours(key));
            all.extend(peers.map(|key| format!("{} {key}", link.name)));
        }
    }
    all
}

/// Everything that there is, whoever made it.
fn all(have: &[Have]) -> BTreeSet<String> {
    let others: Vec<_> = have
        .iter()
        .map(|link| {
            let unmarked = |there: &HaveAddress| HaveAddress { ours: false, ..*there };
            let addresses = link.addresses.iter().map(unmarked).collect();
            Have { ours: false, addresses, ..link.clone() }
        })
        .collect();
    foreign(&others, &Known::new())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(1000)))]

    #[test]
    fn one_plan_suffices(want in wants(), have in haves(), known in knowns()) {
        let mut kernel = Kernel::new(&have, &want);
        let first = plan(&want, &kernel.have(), &known);
        let known = kernel.follow(&first);
        let mut second = plan(&want, &kernel.have(), &known);
        // A peer that stays silent at its new place is not told the same again.
        prop_assert_eq!(&second.tasks, &[]);
        prop_assert_eq!(&second.conflicts, &first.conflicts);
        second.known.retain(|_, link| link.index != 0);
        prop_assert_eq!(second.known, known);
    }

    #[test]
    fn what_others_made_stays(want in wants(), have in haves(), known in knowns()) {
        let mut kernel = Kernel::new(&have, &want);
        kernel.follow(&plan(&want, &have, &known));
        let left = all(&kernel.have());
        for thing in foreign(&have, &known) {
            prop_assert!(left.contains(&thing), "{thing} is gone");
        }
    }

    #[test]
    fn nothing_of_ours_is_left_when_nothing_is_configured(have in haves(), known in knowns()) {
        let mut kernel = Kernel::new(&have, &[]);
        kernel.follow(&plan(&[], &have, &known));
        for link in kernel.have() {
            prop_assert!(!link.ours);
            // Of links that nobody remembers nothing is touched.
            if known.get(&link.name).is_some_and(|known| known.index == link.index) {
                prop_assert!(link.addresses.iter().all(|address| !address.ours));
            }
        }
        prop_assert_eq!(plan(&[], &kernel.have(), &Known::new()).tasks, []);
    }

    #[test]
    fn what_is_there_is_adopted(want in wants(), have in haves(), known in knowns()) {
        let mut kernel = Kernel::new(&have, &want);
        let plan = plan(&want, &have, &known);
        kernel.follow(&plan);
        for want in &want {
            if plan.conflicts.iter().any(|(link, _)| *link == want.name) {
                continue;
            }
            let before = have.iter().find(|link| link.name == want.name);
            let after = &kernel.links[&want.name];
            prop_assert!(after.up && after.mtu == want.mtu);
            let fits = match (&want.shape, before.map(|link| &link.shape)) {
                (WantShape::Wireguard(_), Some(HaveShape::Wireguard(_))) => true,
                (WantShape::Tunnel(want), Some(HaveShape::Tunnel(have))) => want.kind == have.kind,
                _ => false,
            };
            let same = before.is_some_and(|link| link.index == after.index);
            prop_assert_eq!(fits, same);
            if let Some(before) = before.filter(|_| fits) {
                prop_assert_eq!(before.ours, after.ours);
            }
            let has = |address| after.addresses.iter().any(|there| there.address == address);
            prop_assert!(want.addresses.iter().all(|address| has(*address)));
            if let (WantShape::Wireguard(want), HaveShape::Wireguard(Some(device))) =
                (&want.shape, &after.shape)
            {
                prop_assert_eq!(device.public_key, Some(want.public_key));
                prop_assert!(want.peers.iter().all(|p| device.peers.contains_key(&p.public_key)));
            }
        }
    }
}

/// A device with one peer, as it is configured and as it is.
fn roaming(text: &str, at: u8, silent: bool, is_name: bool) -> (Vec<Want>, Vec<Have>) {
    let peer = WantPeer {
        public_key: key(1),
        preshared: None,
        endpoint: Some(WantEndpoint { text: text.to_owned(), addresses: vec![end(1)], is_name }),
        keepalive: None,
        allowed_ips: Vec::new(),
    };
    let device =
        WantDevice { public_key: key(9), listen_port: None, fwmark: None, peers: vec![peer] };
    let shape = WantShape::Wireguard(device);
    let want = Want { name: "wg0".to_owned(), shape, addresses: Vec::new(), mtu: 1420 };
    let there = HavePeer { endpoint: Some(end(at)), silent, ..HavePeer::default() };
    let device = HaveDevice {
        public_key: Some(key(9)),
        peers: BTreeMap::from([(key(1), there)]),
        ..HaveDevice::default()
    };
    let have = Have {
        index: 1,
        name: "wg0".to_owned(),
        ours: true,
        shape: HaveShape::Wireguard(Some(device)),
        up: true,
        mtu: 1420,
        addresses: Vec::new(),
    };
    (vec![want], vec![have])
}

#[test]
fn a_peer_that_moved_is_left_where_it_is() {
    let remembered = |text: &str| {
        let peer = KnownPeer { ours: true, endpoint: Some(text.to_owned()) };
        let peers = BTreeMap::from([(key(1), peer)]);
        Known::from([("wg0".to_owned(), KnownLink { index: 1, peers })])
    };
    for (text, at, silent, is_name, steps) in [
        ("a", 1, false, false, 0),
        ("a", 1, true, true, 0),
        // It moved, and is heard there.
        ("a", 2, false, true, 0),
        // Silent where it was, while its name says elsewhere.
        ("a", 2, true, true, 1),
        // An address never says anything else.
        ("a", 2, true, false, 0),
        // The operator says elsewhere.
        ("b", 2, false, false, 1),
    ] {
        let (want, have) = roaming(text, at, silent, is_name);
        let tasks = plan(&want, &have, &remembered("a")).tasks;
        assert_eq!(tasks.len(), steps, "{text} {at} {silent} {is_name}: {tasks:?}");
    }
    // Adopted: nobody knows what was configured before.
    let (want, have) = roaming("a", 2, false, false);
    assert_eq!(plan(&want, &have, &Known::new()).tasks.len(), 1);
}
