//! The language of a policy's rules.
//!
//! ```text
//! rule      = ("accept" | "drop") what
//! what      = protocols [types] ["from" place] ["to" place]
//!           | "from" place ["to" place] | "to" place
//! protocols = "any" | NAME {"," NAME} | "proto" NUMBER {"," NUMBER}
//! types     = "type" TYPE {"," TYPE} ["code" RANGE {"," RANGE}]         icmp and icmpv6
//! place     = where ["port" RANGE {"," RANGE}] | "port" RANGE {"," RANGE}
//! where     = "any" | PREFIX {"," PREFIX} | "peer" NAME {"," NAME}
//! TYPE      = NAME | RANGE            RANGE = NUMBER | NUMBER "-" NUMBER
//! ```
//!
//! Here live its reader ([`parse`]) and its printer ([`Canonical`]). Invariant: what is printed is
//! read as what was printed.

use std::{fmt, iter::Peekable};

use ebpf_xdp::parse::protocol;

use super::words::{self, has_ports, is_icmp, protocol_name};
use crate::core::{
    filter::policy::RuleSpec,
    prefix::{ParsePrefixError, Prefix},
};

/// Why a rule says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// A word in the wrong place.
    #[error("`{found}` where {expected} is expected")]
    Word {
        /// What stands there.
        found: String,
        /// What could.
        expected: String,
    },
    /// The text ends too early.
    #[error("the rule ends where {0} is expected")]
    End(String),
    /// Not a prefix.
    #[error(transparent)]
    Prefix(#[from] ParsePrefixError),
    /// The higher end stands first.
    #[error("`{given}` is reversed: write {meant}")]
    Reversed {
        /// What was written.
        given: String,
        /// The range between the two.
        meant: String,
    },
    /// Ports of a protocol that has none.
    #[error(
        "{0} has no ports: name tcp, udp, sctp, udplite or dccp, such as \
         `accept tcp,udp to 10.0.0.0/8 port 53`"
    )]
    Ports(String),
    /// Types of a protocol that has none.
    #[error("{0} has no types: name icmp or icmpv6 alone, such as `accept icmp type echo-request`")]
    Types(String),
    /// A message that is not known by this name.
    #[error("{protocol} has no type `{given}`: write its number or one of {}", .known.join(", "))]
    UnknownType {
        /// Whose types they are.
        protocol: &'static str,
        /// What was written.
        given: String,
        /// What could be written.
        known: Vec<&'static str>,
    },
    /// A number that stands for two different messages.
    #[error(
        "type `{0}` means different things to icmp and icmpv6: write its name, or a rule for each"
    )]
    TypeOfBoth(String),
    /// No peer has the name.
    #[error("no peer is named `{given}`: {}", peers(.known))]
    UnknownPeer {
        /// What was written.
        given: String,
        /// What could be written.
        known: Vec<String>,
    },
    /// The peer stands for no addresses.
    #[error(
        "peer `{0}` stands for its `pinned` prefixes and has none: list them, or write them here"
    )]
    NothingPinned(String),
    /// Source and destination are of different families.
    #[error(
        "no packet can match: its source and its destination are of one family; write IPv4 in \
         both places, or IPv6"
    )]
    Families,
    /// The protocol is not one of the addresses' family.
    #[error("no packet can match: {0}")]
    ProtocolFamily(&'static str),
}

fn peers(known: &[String]) -> String {
    if known.is_empty() {
        "no [[interface.peer]] has a name; write a prefix instead".to_owned()
    } else {
        format!("the peers with a name are {}", known.join(", "))
    }
}

/// Reads a rule that stands in this line. One that names several protocols becomes several: they
/// differ in nothing else, but for the types of ICMP and ICMPv6. `peer` gives the prefixes that a
/// peer stands for.
pub fn parse(
    text: &str,
    line: u32,
    peer: impl Fn(&str) -> Result<Vec<Prefix>, RuleError>,
) -> Result<Vec<RuleSpec>, RuleError> {
    let mut words = Words::of(text);
    let accept = words.take("accept");
    if !accept && !words.take("drop") {
        return Err(words.unexpected());
    }
    let spec = |protocol| RuleSpec {
        text: text.to_owned(),
        line,
        accept,
        from: Vec::new(),
        to: Vec::new(),
        protocol,
        src_ports: Vec::new(),
        dst_ports: Vec::new(),
    };
    let mut specs: Vec<RuleSpec> = words.protocols()?.into_iter().map(spec).collect();
    if words.take("type") {
        words.types(&mut specs)?;
    }
    if words.take("from") {
        let (prefixes, ports) = words.place(&specs, &peer)?;
        for spec in &mut specs {
            spec.from.clone_from(&prefixes);
            spec.src_ports.extend(&ports);
        }
    }
    if words.take("to") {
        let (prefixes, ports) = words.place(&specs, &peer)?;
        for spec in &mut specs {
            spec.to.clone_from(&prefixes);
            spec.dst_ports.extend(&ports);
        }
    }
    if words.peek().is_some() {
        words.expected.push("the end");
        return Err(words.unexpected());
    }
    // One of several protocols may be of another family than the addresses.
    let nothing = specs.iter().find(|spec| spec.size() == 0).map(why_nothing_matches);
    specs.retain(|spec| spec.size() > 0);
    match nothing {
        Some(error) if specs.is_empty() => Err(error),
        _ => Ok(specs),
    }
}

fn why_nothing_matches(spec: &RuleSpec) -> RuleError {
    if (RuleSpec { protocol: None, ..spec.clone() }).size() == 0 {
        return RuleError::Families;
    }
    RuleError::ProtocolFamily(match spec.protocol {
        Some(protocol::ICMP) => "icmp is IPv4's; write icmpv6, or IPv4 addresses",
        Some(protocol::ICMPV6) => "icmpv6 is IPv6's; write icmp, or IPv6 addresses",
        _ => {
            "in IPv6 this is an extension header, which rules look through; name the protocol \
             that it carries"
        }
    })
}

/// The words of a rule, and what could have stood in the place of the next one.
struct Words {
    words: Peekable<std::vec::IntoIter<String>>,
    expected: Vec<&'static str>,
}

impl Words {
    /// Words stand between spaces; a list with commas is one word, whatever spaces are in it.
    fn of(text: &str) -> Self {
        let mut words: Vec<String> = Vec::new();
        for part in text.split_whitespace() {
            match words.last_mut() {
                Some(last) if last.ends_with(',') || part.starts_with(',') => last.push_str(part),
                _ => words.push(part.to_owned()),
            }
        }
        Words { words: words.into_iter().peekable(), expected: Vec::new() }
    }

    fn peek(&mut self) -> Option<&str> {
        self.words.peek().map(String::as_str)
    }

    /// Takes this word, if it comes next.
    fn take(&mut self, word: &'static str) -> bool {
        let found = self.words.next_if(|next| next == word).is_some();
        if found {
            self.expected.clear();
        } else {
            self.expected.push(word);
        }
        found
    }

    /// Takes a list.
    fn list<T>(
        &mut self,
        expected: &'static str,
        read: impl Fn(&str) -> Result<T, RuleError>,
    ) -> Result<Vec<T>, RuleError> {
        self.expected.push(expected);
        let Some(word) = self.words.peek() else { return Err(self.unexpected()) };
        if word.split(',').any(str::is_empty) {
            return Err(self.unexpected());
        }
        let list = word.split(',').map(read).collect::<Result<_, _>>()?;
        self.words.next();
        self.expected.clear();
        Ok(list)
    }

    /// The next word is wrong.
    fn unexpected(&mut self) -> RuleError {
        let expected = any_of(&self.expected);
        match self.words.next() {
            Some(found) => RuleError::Word { found, expected },
            None => RuleError::End(expected),
        }
    }

    /// `None` is any protocol.
    fn protocols(&mut self) -> Result<Vec<Option<u8>>, RuleError> {
        if self.take("any") || matches!(self.peek(), Some("from" | "to")) {
            return Ok(vec![None]);
        }
        if self.take("proto") {
            return self.list("a protocol's number (0 to 255)", |word| {
                let number = word.parse().ok().map(Some);
                number.ok_or_else(|| wrong(word, "a protocol's number (0 to 255)"))
            });
        }
        self.expected.extend(["from", "to"]);
        self.list(PROTOCOL, |word| {
            words::protocol_number(word).map(Some).ok_or_else(|| {
                wrong(word, &any_of(&["any", "proto and a number", "from", "to", PROTOCOL]))
            })
        })
    }

    /// Takes types and codes.
    fn types(&mut self, specs: &mut [RuleSpec]) -> Result<(), RuleError> {
        let mut protocols = Vec::new();
        for spec in &*specs {
            match spec.protocol {
                Some(number) if is_icmp(number) => protocols.push(number),
                other => return Err(RuleError::Types(protocol_text(other))),
            }
        }
        let types: Vec<Vec<(u16, u16)>> = self.list("a type's name, number or range", |word| {
            protocols
                .iter()
                .map(|&protocol| icmp_type(protocol, word, protocols.len() > 1))
                .collect()
        })?;
        for (index, spec) in specs.iter_mut().enumerate() {
            spec.dst_ports = types.iter().map(|types| types[index]).collect();
        }
        if self.take("code") {
            let codes = self.list(CODE, |word| range(word, u8::MAX.into(), CODE))?;
            for spec in specs {
                spec.src_ports.clone_from(&codes);
            }
        }
        Ok(())
    }

    /// Takes what follows `from` or `to`: prefixes and ports.
    fn place(
        &mut self,
        specs: &[RuleSpec],
        peer: &impl Fn(&str) -> Result<Vec<Prefix>, RuleError>,
    ) -> Result<Place, RuleError> {
        let mut prefixes = Vec::new();
        if self.take("peer") {
            prefixes = self.list("a peer's name", peer)?.concat();
        } else if !self.take("any") && self.peek() != Some("port") {
            self.expected.push("port");
            prefixes = self.list("a prefix", |word| Ok(word.parse()?))?;
        }
        if !self.take("port") {
            return Ok((prefixes, Vec::new()));
        }
        let without = |spec: &&RuleSpec| !spec.protocol.is_some_and(has_ports);
        if let Some(spec) = specs.iter().find(without) {
            return Err(RuleError::Ports(protocol_text(spec.protocol)));
        }
        Ok((prefixes, self.list(PORT, |word| range(word, u16::MAX, PORT))?))
    }
}

/// Prefixes and ranges of ports.
type Place = (Vec<Prefix>, Vec<(u16, u16)>);

const PROTOCOL: &str =
    "a protocol (tcp, udp, icmp, icmpv6, sctp, udplite, dccp, esp, ah, gre, ospf)";
const PORT: &str = "a port or a range of ports (0 to 65535)";
const CODE: &str = "a code or a range of codes (0 to 255)";
const TYPE: &str = "a type or a range of types (0 to 255)";

fn wrong(found: &str, expected: &str) -> RuleError {
    RuleError::Word { found: found.to_owned(), expected: expected.to_owned() }
}

/// `a, b or c`.
fn any_of(choices: &[&str]) -> String {
    match choices {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [all @ .., last] => format!("{} or {last}", all.join(", ")),
    }
}

fn range(word: &str, most: u16, expected: &'static str) -> Result<(u16, u16), RuleError> {
    let number = |text: &str| {
        let number = text.parse().ok().filter(|number| *number <= most);
        number.ok_or_else(|| wrong(word, expected))
    };
    let Some((min, max)) = word.split_once('-') else { return number(word).map(|n| (n, n)) };
    let (min, max) = (number(min)?, number(max)?);
    if min > max {
        let (given, meant) = (word.to_owned(), format!("{max}-{min}"));
        return Err(RuleError::Reversed { given, meant });
    }
    Ok((min, max))
}

fn icmp_type(protocol: u8, word: &str, of_both: bool) -> Result<(u16, u16), RuleError> {
    if let Some(number) = words::icmp_type(protocol, word) {
        return Ok((number.into(), number.into()));
    }
    if word.starts_with(|first: char| first.is_ascii_digit()) {
        let range = range(word, u8::MAX.into(), TYPE)?;
        return if of_both { Err(RuleError::TypeOfBoth(word.to_owned())) } else { Ok(range) };
    }
    Err(RuleError::UnknownType {
        protocol: protocol_name(protocol).unwrap_or_default(),
        given: word.to_owned(),
        known: words::icmp_types(protocol).iter().map(|(name, _)| *name).collect(),
    })
}

fn protocol_text(protocol: Option<u8>) -> String {
    match protocol {
        None => "any protocol".to_owned(),
        Some(number) => match protocol_name(number) {
            Some(name) => name.to_owned(),
            None => format!("protocol {number}"),
        },
    }
}

/// A rule in words that say nothing but what it means: peers are prefixes, names numbers.
#[derive(Clone, Copy, Debug)]
pub struct Canonical<'a>(pub &'a RuleSpec);

impl fmt::Display for Canonical<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = self.0;
        f.write_str(if spec.accept { "accept" } else { "drop" })?;
        match spec.protocol {
            None => f.write_str(" any")?,
            Some(number) => match protocol_name(number) {
                Some(name) => write!(f, " {name}")?,
                None => write!(f, " proto {number}")?,
            },
        }
        let icmp = spec.protocol.filter(|&number| is_icmp(number));
        if icmp.is_some() {
            ranges(f, "type", &spec.dst_ports)?;
            ranges(f, "code", &spec.src_ports)?;
        }
        for (word, prefixes, ports) in
            [("from", &spec.from, &spec.src_ports), ("to", &spec.to, &spec.dst_ports)]
        {
            let ports: &[_] = if icmp.is_some() { &[] } else { ports };
            if prefixes.is_empty() && ports.is_empty() {
                continue;
            }
            let texts: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
            let place = if texts.is_empty() { "any".to_owned() } else { texts.join(",") };
            write!(f, " {word} {place}")?;
            ranges(f, "port", ports)?;
        }
        Ok(())
    }
}

fn ranges(f: &mut fmt::Formatter<'_>, word: &str, ranges: &[(u16, u16)]) -> fmt::Result {
    for (index, (min, max)) in ranges.iter().enumerate() {
        match index {
            0 => write!(f, " {word} {min}")?,
            _ => write!(f, ",{min}")?,
        }
        if min != max {
            write!(f, "-{max}")?;
        }
    }
    Ok(())
}
