//! Links, the ways of WireGuard's own packets, and whose rules and routes there are.
//!
//! Here live questions to the kernel, none of which changes anything.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use crate::{
    core::{
        doctor::{
            loops,
            seen::{Network, Seen, Way},
            wants::{Ranges, Wants},
        },
        event::Scope,
        links::state::{Have, HaveShape},
        peer::PublicKey,
        prefix::Family,
        reach::route::PROTOCOL,
        route::{IfIndex, Route, TableId},
    },
    source::rtnetlink::Dumper,
    target::{
        links::{KernelLinks, Mark, Read},
        wireguard::KernelWireguard,
    },
};

/// Others' routes in our tables that are looked at; more are of no use.
const STRAYS: usize = 10_000;

/// Whether a link is a WireGuard device.
pub(super) fn is_wireguard(link: &Have) -> bool {
    matches!(link.shape, HaveShape::Wireguard(_))
}

/// Sockets for questions.
pub(super) struct Kernel {
    links: KernelLinks,
    dumper: Dumper,
    unread: Vec<(String, String)>,
}

/// Opens the sockets.
pub(super) fn open(mark: &Mark) -> Seen<Kernel> {
    let links = KernelLinks::open(mark.clone()).map_err(|error| error.to_string())?;
    let dumper = Dumper::open().map_err(|error| error.to_string())?;
    Ok(Kernel { links, dumper, unread: Vec::new() })
}

impl Kernel {
    /// All links, with the settings of WireGuard devices as far as they may be read.
    pub(super) fn links(&mut self) -> Seen<Vec<Have>> {
        let Read { links, unread } =
            self.links.read(|_, _| true).map_err(|error| error.to_string())?;
        self.unread = unread.into_iter().map(|(name, error)| (name, error.to_string())).collect();
        Ok(links)
    }

    /// The rest.
    pub(super) fn network(&mut self, links: Vec<Have>, wants: &Wants) -> Network {
        let ways = self.ways(&links);
        let unread = std::mem::take(&mut self.unread);
        let mut network = Network { links, unread, ways, ..Network::default() };
        network.rules = Family::ALL
            .into_iter()
            .map(|family| self.dumper.iprules(family))
            .collect::<Result<Vec<_>, _>>()
            .map(|rules| rules.concat())
            .map_err(|error| error.to_string());
        let objects = self.dumper.owned_nexthops().map_err(|error| error.to_string());
        let Ranges { nexthops, tables, .. } = &wants.flows.ranges;
        network.nexthops = objects.map(|objects| {
            let ours = objects.iter().filter(|object| nexthops.contains(&object.id));
            ours.map(|object| (object.id, object.protocol)).collect()
        });
        // Tables that a routing daemon shall fill have numbers of their own.
        let (strays, covering) = self.routes(&network, |table| tables.contains(&table));
        network.strays = strays;
        network.covering = covering;
        network
    }

    /// One pass over all routes: those of others in our tables, and those that cover endpoints whose
    /// packets go astray.
    fn routes(
        &mut self,
        network: &Network,
        is_ours: impl Fn(TableId) -> bool,
    ) -> (Seen<Vec<Route>>, Vec<Route>) {
        let astray: Vec<_> = loops::astray(network).map(|way| way.endpoint.ip()).collect();
        let (mut strays, mut covering) = (Vec::new(), Vec::new());
        for family in Family::ALL {
            let scope = Scope { family, table: None, oif: None };
            let dumped = self.dumper.routes(scope, &mut |routes| {
                for route in routes {
                    if astray.iter().any(|address| route.prefix.contains(*address)) {
                        covering.push(route.clone());
                    }
                    if is_ours(route.path.table)
                        && route.path.protocol != PROTOCOL
                        && strays.len() < STRAYS
                    {
                        strays.push(route);
                    }
                }
                ControlFlow::Continue(())
            });
            if let Err(error) = dumped {
                return (Err(error.to_string()), covering);
            }
        }
        (Ok(strays), covering)
    }

    /// How each device's own packets go to each peer whose place is known.
    fn ways(&mut self, links: &[Have]) -> Vec<Way> {
        let mut ways = Vec::new();
        for link in links {
            let HaveShape::Wireguard(Some(device)) = &link.shape else { continue };
            let ahead = ahead(link.index);
            for (key, peer) in &device.peers {
                let Some(endpoint) = peer.endpoint else { continue };
                let (port, mark) = (device.listen_port, device.fwmark);
                let path = self.links.path(endpoint, port, mark);
                let unmarked = match mark {
                    0 => path,
                    _ => self.links.path(endpoint, port, 0),
                };
                ways.push(Way {
                    device: link.name.clone(),
                    peer: key.to_string(),
                    endpoint,
                    mark,
                    path,
                    unmarked: unmarked.map(|(through, _)| through),
                    ahead: ahead.get(key).copied().unwrap_or(false),
                });
            }
        }
        ways
    }
}

/// Of each peer, whether its last handshake lies in the future. It is asked twice: what was completed
/// between a look at the clock and one at the device is of the past the next time.
fn ahead(device: IfIndex) -> BTreeMap<PublicKey, bool> {
    let look = || {
        let settings = KernelWireguard::open().ok()?.settings(device, Duration::ZERO).ok()?;
        let peers = settings.peers.into_iter();
        Some(peers.map(|(key, peer)| (key, !peer.silent)).collect::<BTreeMap<_, _>>())
    };
    let first = look().unwrap_or_default();
    if first.values().all(|ahead| !ahead) {
        return first;
    }
    look().unwrap_or_default()
}
