//! The language of babeld's control socket (babeld(8), "LOCAL CONFIGURATION INTERFACE"; `local.c`).
//!
//! Here live [`Line`], what babeld says, and [`Command`], what it is told. Invariant: whatever babeld
//! says, reading it does not fail; what is not needed here is [`Line::Other`].

use std::{fmt, net::IpAddr, time::Duration};

/// One line of babeld's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// `BABEL 1.0`: the greeting begins.
    Banner {
        /// The protocol's version.
        version: String,
    },
    /// `version babeld-1.12.1`: its own.
    Version(String),
    /// `ok`: the command, or the greeting, is done.
    Ok,
    /// `no`: it was understood and cannot be done.
    No(String),
    /// `bad`: it was not understood, or is not allowed.
    Bad,
    /// An interface is there, or no longer.
    Interface {
        /// What happened to it.
        kind: Kind,
        /// Its name.
        name: String,
        /// Whether it is in use.
        up: bool,
    },
    /// A neighbour is there, or no longer.
    Neighbour {
        /// What happened to it.
        kind: Kind,
        /// What the neighbour is.
        neighbour: Neighbour,
    },
    /// Something else.
    Other(String),
}

/// What happened to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is new, or a dump lists it.
    Add,
    /// It is, perhaps, different.
    Change,
    /// It is gone.
    Flush,
}

/// A neighbour as babeld sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// babeld's name for it.
    pub id: String,
    /// Its link-local address.
    pub address: IpAddr,
    /// The interface.
    pub interface: String,
    /// The last 16 Hellos, the latest in the highest bit: received or not.
    pub reach: u16,
    /// Likewise for Hellos that were not multicast.
    pub ureach: u16,
    /// What receiving from it costs; 65535 if nothing is heard.
    pub rxcost: u32,
    /// What it says that receiving from us costs.
    pub txcost: u32,
    /// Round-trip time, where it is measured.
    pub rtt: Option<Duration>,
}

impl Neighbour {
    /// Whether one of the last two Hellos was received: "to lose one hello is a misfortune, to lose
    /// two is carelessness" (babeld's `neighbour.c`).
    pub fn is_heard(&self) -> bool {
        (self.reach | self.ureach) & 0xC000 != 0
    }
}

impl Line {
    /// Reads a line without its end.
    pub fn parse(line: &str) -> Line {
        Line::known(line).unwrap_or_else(|| Line::Other(line.to_owned()))
    }

    fn known(line: &str) -> Option<Line> {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let kind = match first {
            "BABEL" => return Some(Line::Banner { version: rest.to_owned() }),
            "version" => return Some(Line::Version(rest.to_owned())),
            "ok" if rest.is_empty() => return Some(Line::Ok),
            "bad" if rest.is_empty() => return Some(Line::Bad),
            "no" => return Some(Line::No(rest.to_owned())),
            "add" => Kind::Add,
            "change" => Kind::Change,
            "flush" => Kind::Flush,
            _ => return None,
        };
        let mut words = rest.split_ascii_whitespace();
        match words.next()? {
            "interface" => {
                let name = words.next()?.to_owned();
                let up = pairs(words).any(|pair| pair == ("up", "true"));
                Some(Line::Interface { kind, name, up })
            }
            "neighbour" => {
                let id = words.next()?.to_owned();
                Some(Line::Neighbour { kind, neighbour: neighbour(id, pairs(words))? })
            }
            _ => None,
        }
    }
}

fn pairs<'a>(mut words: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (&'a str, &'a str)> {
    std::iter::from_fn(move || Some((words.next()?, words.next()?)))
}

fn neighbour<'a>(id: String, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Neighbour> {
    let (mut address, mut interface, mut reach) = (None, None, None);
    let (mut ureach, mut rxcost, mut txcost, mut rtt) = (0, 0, 0, None);
    for (key, value) in pairs {
        let hex = || u16::from_str_radix(value, 16).ok();
        match key {
            "address" => address = value.parse().ok(),
            "if" => interface = Some(value.to_owned()),
            "reach" => reach = hex(),
            "ureach" => ureach = hex()?,
            "rxcost" => rxcost = value.parse().ok()?,
            "txcost" => txcost = value.parse().ok()?,
            "rtt" => rtt = Some(milliseconds(value)?),
            _ => {}
        }
    }
    let (address, interface, reach) = (address?, interface?, reach?);
    Some(Neighbour { id, address, interface, reach, ureach, rxcost, txcost, rtt })
}

/// Milliseconds with three decimals, as `format_thousands` writes microseconds.
fn milliseconds(text: &str) -> Option<Duration> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return None;
    }
    let micros: u64 = format!("{part:0<3}").parse().ok()?;
    let whole: u64 = whole.parse().ok()?;
    Some(Duration::from_micros(whole.checked_mul(1000)?.checked_add(micros)?))
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Add => "add",
            Kind::Change => "change",
            Kind::Flush => "flush",
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Banner { version } => write!(f, "BABEL {version}"),
            Line::Version(version) => write!(f, "version {version}"),
            Line::Ok => f.write_str("ok"),
            Line::No(why) if why.is_empty() => f.write_str("no"),
            Line::No(why) => write!(f, "no {why}"),
            Line::Bad => f.write_str("bad"),
            Line::Interface { kind, name, up } => write!(f, "{kind} interface {name} up {up}"),
            Line::Neighbour { kind, neighbour: own } => {
                let Neighbour { id, address, interface, reach, ureach, rxcost, txcost, rtt } = own;
                write!(
                    f,
                    "{kind} neighbour {id} address {address} if {interface} reach {reach:04x} \
                     ureach {ureach:04x} rxcost {rxcost} txcost {txcost}"
                )?;
                if let Some(rtt) = rtt {
                    write!(f, " rtt {}.{:03}", rtt.as_millis(), rtt.subsec_micros() % 1000)?;
                }
                Ok(())
            }
            Line::Other(text) => f.write_str(text),
        }
    }
}

/// What babeld is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// To tell everything, and every change from now on.
    Monitor,
    /// To use an interface.
    Interface {
        /// Its name.
        name: String,
        /// Its options, as babeld's configuration has them.
        options: String,
        /// What receiving on it costs. After the options, so that it overrides them.
        rxcost: Option<u32>,
    },
    /// To leave an interface.
    Flush(String),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Monitor => f.write_str("monitor"),
            Command::Interface { name, options, rxcost } => {
                write!(f, "interface {name}")?;
                if !options.is_empty() {
                    write!(f, " {options}")?;
                }
                rxcost.map_or(Ok(()), |rxcost| write!(f, " rxcost {rxcost}"))
            }
            Command::Flush(name) => write!(f, "flush interface {name}"),
        }
    }
}
