//! What the scenarios of exits share: the client's flows, and by which way they left.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use crate::lab::{
    Exits, Lab, Leg, Origin, PATIENCE, Shots, Transfer, Volley,
    packet::protocol::{TCP, UDP},
    wait_until,
};

pub(super) use crate::scenario::support::{DIRECTORY, mount_bpffs};

/// The mark that chooses berlin.
pub(super) const MARK: u32 = 0x10;
/// The user that chooses paris.
pub(super) const UID: u32 = 1500;

/// A flow of the client's, and the exit that it shall leave by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    /// By what it is chosen.
    pub(super) by: &'static str,
    pub(super) exit: &'static str,
    pub(super) origin: Origin,
    pub(super) to: SocketAddr,
}

impl Flow {
    /// The four flows of a family: by mark, by user, by source prefix and by port. All have the same
    /// destination; but for the third, all have the same source, which the kernel chooses.
    pub(super) fn four(v4: bool) -> [Flow; 4] {
        let to = Exits::to(v4, Exits::PORTS[0]);
        let plain = Origin::default();
        let flow = |by, exit, origin| Flow { by, exit, origin, to };
        let second = Exits::CLIENT[1][usize::from(!v4)];
        [
            flow("mark", "berlin", Origin { mark: MARK, ..plain }),
            flow("uid", "paris", Origin { uid: UID, ..plain }),
            flow("source", "oslo", Origin { from: Some(second), ..plain }),
            Flow { to: Exits::to(v4, Exits::PORTS[1]), ..flow("port", "rome", plain) },
        ]
    }

    /// A flow that is like the first ones but for what chooses them.
    pub(super) fn unmatched(v4: bool) -> Flow {
        let from = Some(Exits::CLIENT[0][usize::from(!v4)]);
        let origin = Origin { from, ..Origin::default() };
        Flow { by: "nothing", exit: "isp", origin, to: Exits::to(v4, Exits::PORTS[0]) }
    }

    /// Those of both families.
    pub(super) fn all() -> Vec<Flow> {
        [true, false].into_iter().flat_map(Flow::four).collect()
    }

    pub(super) fn shots(&self) -> Shots {
        Shots { origin: self.origin, to: self.to }
    }
}

/// Waits until the kernel would send a flow's packets out by a device.
pub(super) fn wait_way(net: &Exits, flow: &Flow, device: &str) -> Result<()> {
    let Flow { to, origin, .. } = flow;
    let mut words = format!("route get {} ipproto 6 dport {}", to.ip(), to.port());
    if let Some(from) = origin.from {
        words += &format!(" from {from}");
    }
    if origin.mark != 0 {
        words += &format!(" mark {}", origin.mark);
    }
    words += &format!(" uid {}", origin.uid);
    let want = format!(" dev {device} ");
    let look = || net.client.ip(&words);
    wait_until(format!("`{words}` by {device}"), PATIENCE, look, |answer| answer.contains(&want))
        .map(drop)
}

/// What one shall see of packets: how many came by which of the Internet's devices.
pub(super) fn devices(legs: &[Leg]) -> BTreeMap<String, u64> {
    let mut devices = BTreeMap::new();
    for leg in legs {
        *devices.entry(leg.device.clone()).or_default() += leg.packets;
    }
    devices
}

/// Runs long transfers of all these flows at once, and asserts that each left by its exit and nowhere
/// else, and with which source.
pub(super) fn transfer(lab: &Lab, net: &Exits, flows: &[Flow], blocks: u64) -> Result<()> {
    let start = |flow: &Flow| Transfer::start(&net.client, &flow.origin, flow.to, PATIENCE);
    let transfers: Vec<_> = flows.iter().map(start).collect::<Result<_>>()?;
    transfers.iter().try_for_each(|transfer| transfer.run(blocks))?;
    for (flow, transfer) in flows.iter().zip(transfers) {
        let local = transfer.local();
        let done = transfer.stop()?;
        let seen = devices(&net.ways(TCP, local, flow.to));
        lab.say(format_args!(
            "by {}, from {local}: {} octets there and back, longest block {} ms, by {seen:?}",
            flow.by,
            done.octets,
            done.longest.as_millis()
        ));
        let want = format!("to-{}", flow.exit);
        ensure!(
            seen.keys().eq([&want]),
            "the flow by {} came by {seen:?} instead of {want}",
            flow.by
        );
        let own = flow.origin.from.unwrap_or(Exits::CLIENT[0][usize::from(local.is_ipv6())]);
        ensure!(local.ip() == own, "the flow by {} came from {local}, not {own}", flow.by);
    }
    Ok(())
}

/// Sends so many datagrams of each flow, at least; gives for each how many that were, and how many
/// arrived by which device.
pub(super) fn volley(
    net: &Exits,
    flows: &[Flow],
    each: u64,
) -> Result<Vec<(u64, BTreeMap<String, u64>)>> {
    let shots: Vec<_> = flows.iter().map(Flow::shots).collect();
    let volley = Volley::start(&net.client, &shots, Duration::from_millis(5))?;
    volley.run(each * shots.len() as u64)?;
    let flown = volley.stop()?;
    let result = flown.iter().zip(flows).map(|(flown, flow)| {
        (flown.report.sent as u64, devices(&net.ways(UDP, flown.local, flow.to)))
    });
    Ok(result.collect())
}
