//! Random rules, routes and packets, out of so few addresses that they meet.

use std::{net::IpAddr, thread, time::Duration};

use wgrouted::core::{
    lookup::packet::Packet,
    prefix::{Family, Prefix},
};

use crate::support::netns::{index, ip, sysctl, try_ip};

/// Numbers that are the same each time (xorshift64*).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// The tables: d3's VRF has 200.
const TABLES: &[&str] = &["main", "100", "101", "200"];
const LINKS: &[&str] = &["d0", "d1", "d2", "d3", "red"];
const PRIORITIES: std::ops::Range<u64> = 100..130;

fn destination(dice: &mut Dice, family: Family) -> String {
    let (a, b) = (dice.below(3), dice.below(3));
    match family {
        Family::V4 => format!("192.0.{a}.{b}"),
        Family::V6 => format!("2001:db8:{a}::{b}"),
    }
}

fn prefix(dice: &mut Dice, family: Family) -> String {
    let (a, b) = (dice.below(3), dice.below(3));
    match (family, dice.below(4)) {
        (Family::V4, 0) => "default".to_owned(),
        (Family::V4, 1) => "192.0.0.0/16".to_owned(),
        (Family::V4, 2) => format!("192.0.{a}.0/24"),
        (Family::V4, _) => format!("192.0.{a}.{b}/32"),
        (Family::V6, 0) => "default".to_owned(),
        (Family::V6, 1) => "2001:db8::/32".to_owned(),
        (Family::V6, 2) => format!("2001:db8:{a}::/48"),
        (Family::V6, _) => format!("2001:db8:{a}::{b}/128"),
    }
}

/// Of this host, by link, and of others.
fn own(link: u64, family: Family) -> String {
    match family {
        Family::V4 => format!("10.0.{link}.1"),
        Family::V6 => format!("fd00:{link}::1"),
    }
}

fn foreign(dice: &mut Dice, family: Family) -> String {
    let host = dice.below(4);
    match family {
        Family::V4 => format!("198.51.100.{}", host + 1),
        Family::V6 => format!("2001:db8:ff::{}", host + 1),
    }
}

fn source_prefix(dice: &mut Dice, family: Family) -> String {
    let link = dice.below(4);
    match (family, dice.below(4)) {
        (Family::V4, 0) => "10.0.0.0/8".to_owned(),
        (Family::V4, 1) => format!("10.0.{link}.0/24"),
        (Family::V4, 2) => "198.51.100.0/30".to_owned(),
        (Family::V4, _) => "0.0.0.0/1".to_owned(),
        (Family::V6, 0) => "fd00::/16".to_owned(),
        (Family::V6, 1) => format!("fd00:{link}::/64"),
        (Family::V6, 2) => "2001:db8:ff::/126".to_owned(),
        (Family::V6, _) => "::/1".to_owned(),
    }
}

fn gateway(dice: &mut Dice, family: Family) -> (String, u64) {
    let (link, host) = (dice.below(3), dice.below(3) + 2);
    let address = match family {
        Family::V4 => format!("10.0.{link}.{host}"),
        Family::V6 => format!("fd00:{link}::{host}"),
    };
    (address, link)
}

/// Makes a world in the namespace that this thread is in. What the kernel refuses is left out. Returns
/// whether it has a VRF; where the kernel knows none, `red` is a link like others.
pub(crate) fn build(dice: &mut Dice) -> bool {
    sysctl("net/ipv4/ip_forward", "1");
    sysctl("net/ipv6/conf/all/forwarding", "1");
    for path in ["all", "default"] {
        sysctl(&format!("net/ipv4/conf/{path}/rp_filter"), "0");
        sysctl(&format!("net/ipv4/conf/{path}/accept_local"), "1");
    }
    let vrf = try_ip("link add red type vrf table 200").is_ok();
    if !vrf {
        cable("red");
    }
    ip("link set red up");
    for link in 0..4 {
        cable(&format!("d{link}"));
        if link == 3 && vrf {
            ip("link set d3 master red");
        }
        ip(&format!("link set d{link} up"));
        while !ip(&format!("-o link show d{link}")).contains("state UP") {
            thread::sleep(Duration::from_millis(2));
        }
        ip(&format!("addr add 10.0.{link}.1/24 dev d{link}"));
        ip(&format!("-6 addr add fd00:{link}::1/64 dev d{link} nodad"));
    }
    ip("link set d1 group 7");
    for family in Family::ALL {
        let flag = if family == Family::V4 { "-4" } else { "-6" };
        let objects = nexthops(dice, family);
        for _ in 0..24 {
            let _ = try_ip(&format!("{flag} route add {}", route(dice, family, &objects)));
        }
        for _ in 0..14 {
            let _ = try_ip(&format!("{flag} rule add {}", rule(dice, family)));
        }
    }
    if dice.one_in(3) {
        ip("link set d2 down");
    }
    vrf
}

/// A link whose other end is up.
fn cable(name: &str) {
    ip(&format!("link add {name} type veth peer name {name}x"));
    ip(&format!("link set {name}x up"));
}

/// Objects 1 to 4 (5 to 8 in IPv6), and a group of some.
fn nexthops(dice: &mut Dice, family: Family) -> [u64; 5] {
    let first = if family == Family::V4 { 1 } else { 11 };
    let flag = if family == Family::V4 { "-4" } else { "-6" };
    for id in first..first + 3 {
        let (via, link) = gateway(dice, family);
        ip(&format!("nexthop add id {id} via {via} dev d{link}"));
    }
    ip(&format!("{flag} nexthop add id {} blackhole", first + 3));
    ip(&format!("nexthop add id {} group {first},5/{}", first + 4, first + 1));
    [first, first + 1, first + 2, first + 3, first + 4]
}

fn route(dice: &mut Dice, family: Family, objects: &[u64]) -> String {
    let mut text = String::new();
    let target = dice.below(9);
    let kind = dice.pick(&["blackhole", "unreachable", "prohibit", "throw"]);
    if target == 0 {
        text += &format!("{kind} ");
    } else if target == 1 && dice.one_in(3) {
        text += "local ";
    }
    text += &prefix(dice, family);
    if family == Family::V6 && dice.one_in(3) {
        text += &format!(" from {}", source_prefix(dice, family));
    }
    if family == Family::V4 && dice.one_in(5) {
        text += &format!(" tos {:#x}", dice.pick(&[0x04, 0x10, 0x18]));
    }
    text += &format!(" table {} metric {}", dice.pick(TABLES), dice.below(4) * 10 + 10);
    match target {
        0 => {}
        1 if text.starts_with("local") => text += " dev lo",
        1 | 2 => text += &format!(" nhid {}", dice.pick(objects)),
        3 | 4 => {
            for _ in 0..2 {
                let (via, link) = gateway(dice, family);
                text += &format!(" nexthop via {via} dev d{link} weight {}", dice.below(3) + 1);
            }
        }
        5 => text += &format!(" dev d{}", dice.below(4)),
        _ => {
            let (via, link) = gateway(dice, family);
            text += &format!(" via {via} dev d{link}");
        }
    }
    text
}

fn rule(dice: &mut Dice, family: Family) -> String {
    let priority = PRIORITIES.start + dice.below(PRIORITIES.end - PRIORITIES.start);
    let mut text = format!("priority {priority}");
    if dice.one_in(8) {
        text += " not";
    }
    // Most rules have one or two selectors, or no packet would get far.
    for _ in 0..=dice.below(2) {
        text += &match dice.below(10) {
            0 => format!(" from {}", source_prefix(dice, family)),
            1 => format!(" to {}", prefix(dice, family).replace("default", "all")),
            2 => format!(" iif {}", dice.pick(&["lo", "d0", "d1", "d3", "red"])),
            3 => format!(" oif {}", dice.pick(LINKS)),
            4 => format!(" fwmark {}", dice.pick(&["1", "0x10/0xf0", "0/1"])),
            5 => format!(" uidrange {}", dice.pick(&["0-0", "1000-1999", "1500-3000"])),
            6 => format!(" tos {:#x}", dice.pick(&[0x04, 0x10])),
            7 => format!(" ipproto {}", dice.pick(&["6", "17", "1", "58"])),
            8 => format!(" sport {}", dice.pick(&["80", "1024-65534"])),
            _ => format!(" dport {}", dice.pick(&["443", "1-1023"])),
        };
    }
    text += &match dice.below(12) {
        0 => " blackhole".to_owned(),
        1 => " unreachable".to_owned(),
        2 => " prohibit".to_owned(),
        3 => " nop".to_owned(),
        4 | 5 => format!(" goto {}", priority + 1 + dice.below(10)),
        6 => format!(
            " lookup {} suppress_prefixlength {}",
            dice.pick(TABLES),
            dice.pick(&[0, 24, 32])
        ),
        7 => format!(" lookup {} suppress_ifgroup 7", dice.pick(TABLES)),
        _ => format!(" lookup {}", dice.pick(TABLES)),
    };
    text
}

/// An address of a family.
pub(crate) fn any(family: Family) -> IpAddr {
    Prefix::default_of(family).addr()
}

/// A packet that the kernel answers about.
pub(crate) fn packet(dice: &mut Dice, family: Family) -> Packet {
    let mut dst = destination(dice, family);
    if dice.one_in(8) {
        dst = own(dice.below(4), family);
    }
    let mut packet = Packet::to(dst.parse().unwrap());
    packet.mark = dice.pick(&[0, 0, 1, 0x10, 0x11]);
    packet.tos = dice.pick(&[0, 0, 0x04, 0x10, 0xb8]);
    let icmp = if family == Family::V4 { 1 } else { 58 };
    packet.protocol = Some(dice.pick(&[6, 17, icmp]));
    if packet.protocol != Some(icmp) {
        packet.sport = Some(dice.pick(&[80, 5000]));
        packet.dport = Some(dice.pick(&[443, 5000]));
    }
    if dice.one_in(3) {
        let from = dice.pick(&["d0", "d1", "d3", "red"]);
        packet.iif = Some(index(from));
        packet.src = Some(foreign(dice, family).parse().unwrap());
        return packet;
    }
    packet.uid = dice.pick(&[0, 1000, 1500, 2500]);
    if dice.one_in(2) {
        packet.src = Some(own(dice.below(3), family).parse().unwrap());
    }
    if dice.one_in(4) {
        packet.oif = Some(index(dice.pick(LINKS)));
    }
    packet
}
