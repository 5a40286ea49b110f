//! Packets of all kinds, and a way to spoil them.

use std::net::{Ipv4Addr, Ipv6Addr};

pub fn v4(text: &str) -> [u8; 4] {
    text.parse::<Ipv4Addr>().unwrap().octets()
}

pub fn v6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

/// An IP packet between two addresses of one family.
pub fn ip(src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    if src.contains(':') {
        ipv6(src, dst, protocol, payload)
    } else {
        ipv4(src, dst, protocol, 7, 0x4000, &[], payload)
    }
}

pub fn ipv4(
    src: &str,
    dst: &str,
    protocol: u8,
    id: u16,
    fragment: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let length = 20 + options.len();
    let mut packet = vec![0x40 | (length / 4) as u8, 0];
    packet.extend(((length + payload.len()) as u16).to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(v4(src));
    packet.extend(v4(dst));
    packet.extend(options);
    packet.extend(payload);
    packet
}

pub fn ipv6(src: &str, dst: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(v6(src));
    packet.extend(v6(dst));
    packet.extend(payload);
    packet
}

/// An extension header of `units` times eight octets before the payload.
pub fn extension(next: u8, units: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 8 * usize::from(units)];
    header[..3].copy_from_slice(&[next, units - 1, 4]);
    header.extend(payload);
    header
}

/// An IPv6 fragment header before the payload; `offset` in octets.
pub fn fragment6(next: u8, offset: u16, more: bool, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![next, 0];
    header.extend((offset | u16::from(more)).to_be_bytes());
    header.extend(id.to_be_bytes());
    header.extend(payload);
    header
}

pub fn udp(src: u16, dst: u16) -> Vec<u8> {
    let mut header = Vec::from(src.to_be_bytes());
    header.extend(dst.to_be_bytes());
    header.extend([0, 16, 0, 0]);
    header.extend([0xab; 8]);
    header
}

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
pub const FIN: u8 = 1;
pub const RST: u8 = 4;

pub fn tcp(src: u16, dst: u16, flags: u8) -> Vec<u8> {
    let mut header = Vec::from(src.to_be_bytes());
    header.extend(dst.to_be_bytes());
    header.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    header
}

/// An ICMP or ICMPv6 message.
pub fn icmp(kind: u8, code: u8, id: u16, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend([0, 1]);
    message.extend(rest);
    message
}

/// GRE, with checksum, key and sequence number as the flags say.
pub fn gre(flags: u8, payload: &[u8]) -> Vec<u8> {
    gre_keyed(flags, 0, payload)
}

/// GRE with this key, if the flags say that there is one.
pub fn gre_keyed(flags: u8, key: u32, payload: &[u8]) -> Vec<u8> {
    let kind = if payload[0] >> 4 == 4 { 0x0800_u16 } else { 0x86dd };
    let mut header = vec![flags, 0];
    header.extend(kind.to_be_bytes());
    for (flag, word) in [(0x80, 0xdead_0000), (0x20, key), (0x10, 7_u32)] {
        if flags & flag != 0 {
            header.extend(word.to_be_bytes());
        }
    }
    header.extend(payload);
    header
}

/// With an Ethernet header.
pub fn ethernet(packet: &[u8]) -> Vec<u8> {
    let kind = match packet.first().map_or(0, |first| first >> 4) {
        4 => 0x0800_u16,
        6 => 0x86dd,
        _ => 0x88b5,
    };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame
}

/// One of each kind, between hosts that the tables of [`world`](super::world) know.
pub fn corpus() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let hosts4 = ["10.1.0.5", "10.2.0.5", "10.1.7.9", "192.0.2.1", "172.16.0.1", "10.9.0.2"];
    let hosts6 =
        ["2001:db8:1::5", "2001:db8:2::5", "2001:db8:1:7::9", "2001:db8:ffff::1", "fe80::2", "::1"];
    for hosts in [hosts4, hosts6] {
        let icmp_of = if hosts[0].contains(':') { 58 } else { 1 };
        let echo = if icmp_of == 58 { 128 } else { 8 };
        for (number, src) in hosts.iter().enumerate() {
            let dst = hosts[(number + 1) % hosts.len()];
            for port in [22, 53, 80, 443, 8080, 65535] {
                all.push(ip(src, dst, 17, &udp(40000, port)));
                all.push(ip(src, dst, 6, &tcp(40000, port, SYN)));
                all.push(ip(dst, src, 6, &tcp(port, 40000, SYN | ACK)));
                all.push(ip(src, dst, 132, &udp(9, port)));
            }
            all.push(ip(src, dst, icmp_of, &icmp(echo, 0, 77, b"ping")));
            all.push(ip(src, dst, icmp_of, &icmp(echo + 1, 0, 77, b"pong")));
            all.push(ip(src, dst, 1, &icmp(8, 0, 1, b"")));
            all.push(ip(src, dst, 50, b"encrypted"));
            all.push(ip(src, dst, 89, b"ospf"));
            let quoted = ip(dst, src, 17, &udp(53, 40000));
            all.push(ip(src, dst, icmp_of, &icmp(3, 1, 0, &quoted)));
            all.push(ip(src, dst, icmp_of, &icmp(3, 1, 0, &quoted[..24])));
            all.push(ip(src, dst, icmp_of, &icmp(if echo == 8 { 11 } else { 1 }, 0, 0, &quoted)));
        }
    }
    for dst in ["224.0.0.5", "224.0.1.1", "255.255.255.255", "169.254.0.9"] {
        for src in ["10.9.0.2", "169.254.0.1", "0.0.0.0", "127.0.0.1", "224.0.0.1"] {
            all.push(ip(src, dst, 17, &udp(68, 67)));
            all.push(ip(src, dst, 89, b"hello"));
        }
    }
    for dst in ["ff02::1:6", "ff02::1", "ff05::2", "fe80::9", "2001:db8:2::5"] {
        for src in ["fe80::2", "::", "2001:db8:1::5", "ff02::1", "::ffff:10.1.0.5"] {
            all.push(ip(src, dst, 17, &udp(6696, 6696)));
            all.push(ip(src, dst, 58, &icmp(135, 0, 0, &[0; 16])));
            all.push(ip(src, dst, 58, &icmp(128, 0, 3, b"")));
        }
    }
    let (a4, b4, a6, b6) = (hosts4[0], hosts4[1], hosts6[0], hosts6[1]);
    for options in [4, 20, 40] {
        all.push(ipv4(a4, b4, 17, 1, 0, &vec![1; options], &udp(1, 53)));
    }
    // Fragments: first, later, of TCP's flags, beyond the end.
    for (id, fragment) in [(1, 0x2000), (1, 0x2001), (1, 2), (2, 0x2002), (3, 1), (4, 0x1fff)] {
        for protocol in [6, 17] {
            all.push(ipv4(a4, b4, protocol, id, fragment, &[], &tcp(40000, 53, SYN)));
        }
    }
    for (offset, more) in
        [(0, true), (0, false), (16, true), (16, false), (8, false), (65528, false)]
    {
        for (next, body) in [(17, udp(40000, 53)), (6, tcp(1, 80, SYN))] {
            all.push(ipv6(a6, b6, 44, &fragment6(next, offset, more, 9, &body)));
            let chain = extension(44, 1, &fragment6(next, offset, more, 10, &body));
            all.push(ipv6(a6, b6, 60, &chain));
            let twice = fragment6(44, 0, false, 1, &fragment6(next, offset, more, 11, &body));
            all.push(ipv6(a6, b6, 44, &twice));
        }
    }
    // Extension headers: each kind, and chains of growing length.
    for kind in [0, 43, 51, 60, 135, 139, 140, 44, 59, 253] {
        for units in [1, 2, 31] {
            all.push(ipv6(a6, b6, kind, &extension(17, units, &udp(40000, 53))));
        }
    }
    let mut chain = extension(17, 1, &udp(40000, 53));
    for _ in 0..10 {
        all.push(ipv6(a6, b6, 60, &chain));
        all.push(ipv6(a6, b6, 0, &extension(60, 1, &chain)));
        chain = extension(60, 1, &chain);
    }
    // Tunnels, between the peers' own addresses.
    let peers = 2..8;
    let four = peers.clone().map(|host| (format!("10.9.0.{host}"), "10.9.0.1".to_owned()));
    let six = peers.map(|host| (format!("fd09::{host}"), "fd09::1".to_owned()));
    for (peer, here) in four.chain(six) {
        tunnelled(&peer, &here, [(a4, b4), (hosts4[3], b4), (a6, b6), (hosts6[3], b6)], &mut all);
    }
    // No IP at all.
    all.push(vec![0; 40]);
    all.push(vec![0x50; 40]);
    all.push(b"\x45 too short for a header".to_vec());
    all
}

/// What comes out of a peer's tunnels, and goes into them.
fn tunnelled(peer: &str, here: &str, inside: [(&str, &str); 4], all: &mut Vec<Vec<u8>>) {
    for (src, dst) in inside {
        let inner = ip(src, dst, 17, &udp(40000, 53));
        let plain = if inner[0] >> 4 == 4 { 4 } else { 41 };
        all.push(ip(peer, here, plain, &inner));
        all.push(ip(peer, here, 45 - plain, &inner));
        for flags in [0, 0x80, 0x20, 0x10, 0xb0, 0x40, 0x08] {
            all.push(ip(peer, here, 47, &gre(flags, &inner)));
            all.push(ip(here, peer, 47, &gre(flags, &inner)));
        }
        for key in [0x2a, 1] {
            all.push(ip(peer, here, 47, &gre_keyed(0xa0, key, &inner)));
        }
        let nested = ip(peer, here, 47, &gre(0, &inner));
        all.push(ip(peer, here, 47, &gre(0, &nested)));
        // Two fragments, and a first one that shows too little.
        let whole = gre(0, &inner);
        let (first, rest) = whole.split_at(whole.len().min(72) / 8 * 8 - 8);
        for (offset, more, piece) in
            [(0, true, first), (first.len() as u16, false, rest), (0, true, &whole[..16])]
        {
            all.push(if peer.contains(':') {
                ipv6(peer, here, 44, &fragment6(47, offset, more, 5, piece))
            } else {
                let field = (offset / 8) | if more { 0x2000 } else { 0 };
                ipv4(peer, here, 47, 5, field, &[], piece)
            });
        }
        if peer.contains(':') {
            all.push(ip(peer, here, 60, &extension(plain, 1, &inner)));
        }
    }
    // Ethernet, a keepalive's empty end, a wrong version, and what ends too early.
    for gre in [[0, 0, 0x65, 0x58, 1, 2, 3, 4], [0, 0, 0, 0, 1, 2, 3, 4], [0, 1, 8, 0, 0, 0, 0, 0]]
    {
        all.push(ip(peer, here, 47, &gre));
    }
    all.push(ip(peer, here, 47, &[0]));
}

/// A generator of numbers that are the same on each run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Truncates a packet, or changes some octets, most often near its head.
pub fn spoil(packet: &mut Vec<u8>, random: &mut Random) {
    if random.below(3) == 0 {
        packet.truncate(random.below(packet.len() + 1));
    }
    for _ in 0..random.below(4) {
        let reach = if random.below(2) == 0 { 60 } else { packet.len() };
        if let Some(octet) = packet.get_mut(random.below(reach.max(1))) {
            *octet = random.next() as u8;
        }
    }
}
