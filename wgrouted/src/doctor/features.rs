//! What the kernel can do, found out by doing it.
//!
//! Here live attempts in a network namespace of their own, which goes with the thread that made it,
//! and all that was tried with it. Versions say nothing: vendors backport. Rules are read back,
//! because kernels skip attributes that they do not know.

use std::{collections::BTreeMap, io, net::Ipv4Addr, ops::ControlFlow, path::Path, thread};

use crate::{
    core::{
        doctor::seen::{Feature, Seen},
        links::{
            address::InterfaceAddress,
            plan::{Created, Step},
        },
        peer::PublicKey,
    },
    source::rtnetlink::{
        Error,
        request::{Client, Part, Request},
        wire::{self, Attributes},
    },
    target::{
        filter::features::{Features, Tried},
        links::{KernelLinks, LinkError, Mark, Secrets},
        wireguard::{KernelWireguard, PeerSettings, WgError},
    },
};

/// `lo`, the first device of each network namespace.
const LOOPBACK: u32 = 1;
/// What everything that is tried here is called.
const NAME: &str = "tried";

/// `NHA_BLACKHOLE`, include/uapi/linux/nexthop.h.
const NHA_BLACKHOLE: u16 = 4;

/// All features that need a network namespace to be tried.
const TRIED: [Feature; 13] = [
    Feature::SingleRemoval,
    Feature::AddressProtocol,
    Feature::Nexthops,
    Feature::ResilientGroups,
    Feature::UserRules,
    Feature::PortRules,
    Feature::DscpRules,
    Feature::VrfRules,
    Feature::Bpf,
    Feature::LpmTries,
    Feature::Tcx,
    Feature::Clsact,
    Feature::Xdp,
];

/// Tries everything.
pub(super) fn probe() -> BTreeMap<Feature, Seen<bool>> {
    let mut found = BTreeMap::from([
        (Feature::Wireguard, wireguard()),
        (Feature::Ipv6, Ok(Path::new("/proc/sys/net/ipv6").exists())),
    ]);
    // The namespace is the thread's, and goes with it.
    let tried = thread::spawn(|| {
        // SAFETY: no pointers are passed; the call moves this thread to a new network namespace.
        match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
            0 => Ok(inside()),
            _ => Err(io::Error::last_os_error()),
        }
    });
    let tried = match tried.join() {
        Ok(Ok(tried)) => Ok(tried),
        Ok(Err(error)) if error.raw_os_error() == Some(libc::EPERM) => {
            Err("it is tried in a network namespace of its own: run as root".to_owned())
        }
        Ok(Err(error)) => Err(format!("a network namespace to try it in cannot be made: {error}")),
        Err(_) => Err("the attempt broke off".to_owned()),
    };
    match tried {
        Ok(tried) => found.extend(tried),
        Err(because) => found.extend(TRIED.map(|feature| (feature, Err(because.clone())))),
    }
    found
}

fn wireguard() -> Seen<bool> {
    match KernelWireguard::open() {
        Ok(_) => Ok(true),
        Err(WgError::NoFamily) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

/// Tries everything in the calling thread's network namespace.
fn inside() -> BTreeMap<Feature, Seen<bool>> {
    let mut found = BTreeMap::new();
    let Features { bpf, tries, tcx, clsact, xdp } = Features::try_on(LOOPBACK);
    for (feature, tried) in [
        (Feature::Bpf, bpf),
        (Feature::LpmTries, tries),
        (Feature::Tcx, tcx),
        (Feature::Clsact, clsact),
        (Feature::Xdp, xdp),
    ] {
        found.insert(feature, seen(tried));
    }
    let (removal, address) = device().unwrap_or_else(|error| {
        let because = match KernelWireguard::open() {
            Err(WgError::NoFamily) => "there is no WireGuard to try it with".to_owned(),
            _ => error.to_string(),
        };
        (Err(because.clone()), Err(because))
    });
    found.insert(Feature::SingleRemoval, removal);
    found.insert(Feature::AddressProtocol, address);
    // Blackholes are objects of this device.
    let up = KernelLinks::open(Mark::new(Path::new(NAME)))
        .and_then(|mut links| links.take("lo", &Step::Up, &Secrets::default()));
    let client = up.map_err(|error| error.to_string());
    let client = client.and_then(|()| Client::open().map_err(|error| error.to_string()));
    match client {
        Ok(mut client) => found.extend(routing(&mut client)),
        Err(because) => {
            found.extend(
                TRIED
                    .into_iter()
                    .filter(|feature| !found.contains_key(feature))
                    .map(|feature| (feature, Err(because.clone())))
                    .collect::<Vec<_>>(),
            );
        }
    }
    found
}

fn seen(tried: Tried) -> Seen<bool> {
    tried.map_err(|error| format!("the kernel forbids it ({error}): run as root"))
}

/// How a WireGuard device removes allowed IPs, and whether addresses keep their protocol.
fn device() -> Result<(Seen<bool>, Seen<bool>), LinkError> {
    let mut links = KernelLinks::open(Mark::new(Path::new(NAME)))?;
    let none = Secrets::default();
    links.take(NAME, &Step::Create(Created::Wireguard), &none)?;
    let address = InterfaceAddress { address: Ipv4Addr::new(192, 0, 2, 1).into(), length: 32 };
    links.take(NAME, &Step::AddAddress(address), &none)?;
    let have = links.read(|_, _| false)?.links;
    let ours = have.iter().flat_map(|link| &link.addresses).any(|there| there.ours);
    let mut wireguard = KernelWireguard::open()?;
    let (index, public_key) = (links.index(NAME)?, PublicKey([7; 32]));
    let peer = PeerSettings {
        public_key,
        add: Some(&[]),
        preshared: None,
        endpoint: None,
        keepalive: None,
    };
    wireguard.set_peer(index, &peer)?;
    let removal = wireguard.removes_single(index, public_key)?;
    Ok((removal.ok_or_else(|| "the device answers everything with yes".to_owned()), Ok(ours)))
}

fn routing(client: &mut Client) -> Vec<(Feature, Seen<bool>)> {
    let id = |id: u32| {
        let mut header = [0; 8];
        header[0] = wire::AF_INET;
        Request::new(
            "add a nexthop object",
            wire::RTM_NEWNEXTHOP,
            libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            &header,
        )
        .attribute(wire::NHA_ID, &id.to_ne_bytes())
    };
    let nexthop = client.order(id(1).attribute(NHA_BLACKHOLE, &[]));
    // struct nexthop_grp: id, weight less one, reserved
    let member = [1_u32.to_ne_bytes(), [0; 4]].concat();
    // A nested attribute: its length and type, and the number of entries.
    let buckets = [6_u16, wire::NHA_RES_GROUP_BUCKETS, 1, 0].map(u16::to_ne_bytes).concat();
    let group = Request::new(
        "add a nexthop group",
        wire::RTM_NEWNEXTHOP,
        libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &[0; 8],
    )
    .attribute(wire::NHA_ID, &2_u32.to_ne_bytes())
    .attribute(wire::NHA_GROUP, &member)
    .attribute(wire::NHA_GROUP_TYPE, &wire::NEXTHOP_GRP_TYPE_RES.to_ne_bytes())
    .attribute(wire::NHA_RES_GROUP | libc::NLA_F_NESTED as u16, &buckets);
    let group = client.order(group);
    let users = [0_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat();
    let ports = [53_u16.to_ne_bytes(), 53_u16.to_ne_bytes()].concat();
    let udp = (wire::FRA_IP_PROTO, &[17][..]);
    vec![
        (Feature::Nexthops, done(nexthop)),
        (Feature::ResilientGroups, done(group)),
        (Feature::UserRules, rule(client, 1, &[(wire::FRA_UID_RANGE, &users)])),
        (Feature::PortRules, rule(client, 2, &[(wire::FRA_DPORT_RANGE, &ports), udp])),
        (Feature::DscpRules, rule(client, 3, &[(wire::FRA_DSCP, &[46])])),
        (Feature::VrfRules, rule(client, 4, &[(wire::FRA_L3MDEV, &[1])])),
    ]
}

/// What is forbidden was not tried; any other refusal is an answer.
fn done(result: Result<(), Error>) -> Seen<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Error::Refused { source, .. }) if source.raw_os_error() != Some(libc::EPERM) => {
            Ok(false)
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Adds a rule with these attributes, and looks whether it has the first of them.
fn rule(client: &mut Client, priority: u32, attributes: &[(u16, &[u8])]) -> Seen<bool> {
    let vrf = attributes.iter().any(|(kind, _)| *kind == wire::FRA_L3MDEV);
    // struct fib_rule_hdr: family, lengths, tos, table, two reserved, action, flags
    let mut header = [0; 12];
    header[0] = wire::AF_INET;
    header[7] = wire::FR_ACT_TO_TBL;
    let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut request = Request::new("add a rule", wire::RTM_NEWRULE, flags, &header)
        .attribute(wire::FRA_PRIORITY, &priority.to_ne_bytes());
    if !vrf {
        request = request.attribute(wire::FRA_TABLE, &1000_u32.to_ne_bytes());
    }
    for (kind, value) in attributes {
        request = request.attribute(*kind, value);
    }
    if !done(client.order(request))? {
        return Ok(false);
    }
    header[7] = 0;
    let request = Request::new("dump rules", wire::RTM_GETRULE, libc::NLM_F_DUMP, &header);
    let mut has = false;
    let dumped = client.exchange(request, &mut |part| {
        if let Part::Message(message) = part
            && let Some((_, found)) = message.payload.split_first_chunk::<12>()
        {
            let found: Vec<_> = Attributes::new(found).flatten().collect();
            let ours = found.contains(&(wire::FRA_PRIORITY, &priority.to_ne_bytes()[..]));
            has |= ours && attributes.iter().all(|attribute| found.contains(attribute));
        }
        ControlFlow::Continue(())
    });
    dumped.map_err(|error| error.to_string())?;
    Ok(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root and kernel WireGuard: sudo -E cargo test -p wgrouted --lib doctor -- --ignored"]
    fn this_kernel_is_asked_and_nothing_is_left() {
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        let found = probe();
        assert_eq!(found.len(), TRIED.len() + 2);
        for feature in [
            Feature::Wireguard,
            Feature::AddressProtocol,
            Feature::Nexthops,
            Feature::ResilientGroups,
            Feature::UserRules,
            Feature::PortRules,
            Feature::Bpf,
            Feature::LpmTries,
            Feature::Clsact,
            Feature::Xdp,
        ] {
            assert_eq!(found[&feature], Ok(true), "{feature:?}");
        }
        // Found out, whatever the answer.
        for feature in [Feature::SingleRemoval, Feature::DscpRules, Feature::Tcx, Feature::VrfRules]
        {
            assert!(found[&feature].is_ok(), "{feature:?}: {found:?}");
        }
        // A thread that has ended is listed for a moment longer.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while threads() > before {
            assert!(std::time::Instant::now() < until, "a thread and its namespace are left");
            thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
