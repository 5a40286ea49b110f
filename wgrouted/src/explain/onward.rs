//! From the link that a packet leaves by to the peer at its other end, and back.
//!
//! Here live the reading of devices and tunnels, the peer that WireGuard gives the packet to, the way
//! of its own packets, and whether replies come in: the packet filter decides where one is in force,
//! WireGuard's AllowedIPs always.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use ebpf_xdp::parse::protocol;
use serde::Serialize;

use super::{Informant, network::Network};
use crate::{
    config::filter::has_ports,
    core::{
        device::Device,
        links::state::{Have, HaveShape},
        lookup::packet::Packet,
        peer::PublicKey,
        prefix::Prefix,
        report::PeerRow,
        route::Hop,
    },
    serve::filter::{TestAnswer, TestQuery},
    target::{
        links::{KernelLinks, Mark},
        wireguard::{KernelWireguard, WireguardTarget},
    },
};

/// What WireGuard's own packets are looked up with, where the other port is not known.
const ANY_PORT: u16 = 49152;

/// The links of this namespace with their addresses, as far as they can be read.
#[derive(Debug)]
pub struct Devices(Vec<Have>);

impl Devices {
    /// Reads them. Without, less is told.
    pub fn read() -> Devices {
        // Whose links they are is of no interest here.
        let mark = Mark::new(Path::new(""));
        let read = KernelLinks::open(mark).and_then(|mut links| links.read(|_, _| false));
        Devices(read.map(|read| read.links).unwrap_or_default())
    }

    /// Of a packet of this host's whose source is none of its addresses.
    pub fn stranger(&self, packet: &Packet) -> Option<String> {
        let source = packet.src.filter(|_| packet.iif.is_none() && !self.0.is_empty())?;
        let mut own = self.0.iter().flat_map(|link| &link.addresses);
        let is_own = source.is_loopback() || own.any(|have| have.address.address == source);
        (!is_own).then(|| {
            format!("{source} is no address of this host: add --iif with the link that it comes by")
        })
    }

    fn named(&self, name: &str) -> Option<&Have> {
        self.0.iter().find(|link| link.name == name)
    }
}

/// The link that a packet leaves by, and who is there.
#[derive(Clone, Debug, Serialize)]
pub struct Onward {
    /// The link.
    pub link: String,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// The tunnel that the link is.
    pub tunnel: Option<TunnelView>,
    /// The WireGuard device that the link is, or that the tunnel is in.
    pub wireguard: Option<WireguardView>,
}

/// A tunnel.
#[derive(Clone, Debug, Serialize)]
pub struct TunnelView {
    /// The kernel's name of its kind.
    pub kind: &'static str,
    /// The device that it is in.
    pub over: String,
    /// This end.
    pub local: IpAddr,
    /// The other end.
    pub remote: IpAddr,
}

/// A WireGuard device and what it does with the packet.
#[derive(Clone, Debug, Serialize)]
pub struct WireguardView {
    /// Its name.
    pub device: String,
    /// The address by which it chooses: the packet's destination, or the tunnel's other end.
    pub address: IpAddr,
    /// The peer that gets the packet; none: nobody has the address, which is ENOKEY.
    pub peer: Option<PeerView>,
    /// Whether replies come in; none if nobody gets the packet.
    pub replies: Option<Replies>,
}

/// The peer that gets a packet.
#[derive(Clone, Debug, Serialize)]
pub struct PeerView {
    /// Its name, or its key.
    pub name: String,
    /// Its key.
    pub public_key: PublicKey,
    /// The allowed IP that gives the packet to it.
    pub allowed_ip: Prefix,
    /// Where it is; none if nobody knows, and the packet cannot be sent.
    pub endpoint: Option<SocketAddr>,
    /// The link by which WireGuard's own packets to it leave, and the gateway.
    pub outer: Option<(String, Option<IpAddr>)>,
}

/// What becomes of replies. WireGuard itself lets them in: whom it gives the packet to owns its
/// address.
#[derive(Clone, Debug, Serialize)]
pub struct Replies {
    /// Who sends them: the address asked about, or the tunnel's other end.
    pub source: IpAddr,
    /// What the packet filter says, where one is in force.
    pub filter: Option<TestAnswer>,
}

impl Onward {
    /// Beyond a hop.
    pub fn of(
        network: &mut Network,
        devices: &Devices,
        hop: Hop,
        packet: &Packet,
        source: Option<IpAddr>,
        informant: &mut dyn Informant,
        notes: &mut Vec<String>,
    ) -> Onward {
        let link = network.name(hop.oif);
        let mut onward =
            Onward { link: link.clone(), gateway: hop.gateway, tunnel: None, wireguard: None };
        let (device, seek) = match devices.named(&link).map(|have| &have.shape) {
            Some(HaveShape::Wireguard(_)) => (link, packet.dst),
            Some(HaveShape::Tunnel(tunnel)) => {
                onward.tunnel = Some(TunnelView {
                    kind: tunnel.kind.name(),
                    over: tunnel.over.clone(),
                    local: tunnel.local,
                    remote: tunnel.remote,
                });
                (tunnel.over.clone(), tunnel.remote)
            }
            _ => return onward,
        };
        let Some(have) = devices.named(&device) else { return onward };
        let tunnel = onward.tunnel.as_ref().map(|_| onward.link.as_str());
        if !matches!(have.shape, HaveShape::Wireguard(_)) {
            return onward;
        }
        let read = KernelWireguard::open().and_then(|mut door| {
            Ok((
                door.dump(have.index)?,
                door.settings(have.index, std::time::Duration::ZERO)?.fwmark,
            ))
        });
        let (held, fwmark) = match read {
            Ok(read) => read,
            Err(error) => {
                notes.push(format!("{device} cannot be read: {error}"));
                return onward;
            }
        };
        let rows = informant.peers();
        let found = owner(&held, seek);
        let name = |key: &PublicKey| peer_name(&rows, &device, key);
        let peer = found.map(|(allowed_ip, at)| {
            let peer = &held.peers[at];
            let outer = peer.endpoint.and_then(|to| outer(network, &held, fwmark, to));
            PeerView {
                name: name(&peer.public_key),
                public_key: peer.public_key,
                allowed_ip,
                endpoint: peer.endpoint,
                outer,
            }
        });
        let replies = peer.as_ref().map(|peer| {
            let reply = reply(&device, peer, packet, source, tunnel);
            Replies { source: seek, filter: reply.and_then(|reply| informant.judge(reply)) }
        });
        onward.wireguard = Some(WireguardView { device, address: seek, peer, replies });
        onward
    }

    /// The WireGuard device on the way.
    pub fn device(&self) -> Option<&str> {
        self.wireguard.as_ref().map(|view| view.device.as_str())
    }
}

/// The allowed IP that holds an address, and the position of its peer.
fn owner(device: &Device, address: IpAddr) -> Option<(Prefix, usize)> {
    let holds = device.allowed_ips.iter().filter(|(prefix, _)| prefix.contains(address));
    let longest = holds.max_by_key(|(prefix, _)| prefix.prefix_len());
    longest.map(|(prefix, at)| (*prefix, at.0 as usize)).filter(|(_, at)| *at < device.peers.len())
}

fn peer_name(rows: &[PeerRow], device: &str, key: &PublicKey) -> String {
    let row = rows.iter().find(|row| &*row.interface == device && row.public_key == *key);
    row.map_or_else(|| key.to_string(), |row| row.name.clone())
}

/// Where WireGuard's own packets go.
fn outer(
    network: &mut Network,
    device: &Device,
    mark: u32,
    to: SocketAddr,
) -> Option<(String, Option<IpAddr>)> {
    let packet = Packet {
        mark,
        protocol: Some(protocol::UDP),
        sport: Some(device.listen_port).filter(|port| *port != 0),
        dport: Some(to.port()),
        ..Packet::to(to.ip())
    };
    let hop = network.ask(&packet).ok()?.hop()?;
    Some((network.name(hop.oif), hop.gateway))
}

/// The reply, as the filter is asked about it; none while nobody knows where it goes to. One that comes
/// out of a tunnel is asked about as such.
fn reply(
    device: &str,
    peer: &PeerView,
    packet: &Packet,
    source: Option<IpAddr>,
    tunnel: Option<&str>,
) -> Option<TestQuery> {
    let (icmp, echo_reply) =
        if packet.dst.is_ipv4() { (protocol::ICMP, 0) } else { (protocol::ICMPV6, 129) };
    let number = packet.protocol.unwrap_or(icmp);
    let ports = has_ports(number);
    Some(TestQuery {
        peer: tunnel.is_none().then(|| peer.public_key.to_string()),
        tunnel: tunnel.map(str::to_owned),
        interface: Some(device.to_owned()),
        src: packet.dst,
        dst: source?,
        protocol: number,
        src_port: packet.dport.filter(|_| ports),
        dst_port: packet.sport.or(Some(ANY_PORT)).filter(|_| ports),
        icmp_type: Some(echo_reply).filter(|_| number == icmp),
        icmp_code: None,
        fragment: None,
    })
}
