//! From a TOML value to a value of ours, and why not.
//!
//! Here live the readers of single values. What depends on several values is `meaning`'s
//! business.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use toml::de::DeValue;
use tracing_subscriber::EnvFilter;

use super::{
    defaults,
    document::type_name,
    error::{Problem, Size},
    names::{NameKind, Names, OWN_PROTOCOL},
};
use crate::core::{
    reach::rule::BabeldSocket,
    route::{NexthopId, TableId},
    rule::Audit,
};

/// `RT_TABLE_LOCAL` (include/uapi/linux/rtnetlink.h).
const TABLE_LOCAL: TableId = 255;
/// The kernel interprets protocols up to `RTPROT_STATIC` (include/uapi/linux/rtnetlink.h).
const RTPROT_STATIC: u8 = 4;

pub(super) fn text<'v>(value: &'v DeValue<'_>, expected: &'static str) -> Result<&'v str, Problem> {
    value.as_str().ok_or_else(|| Problem::Type { expected, found: type_name(value) })
}

fn number(
    value: &DeValue<'_>,
    range: RangeInclusive<u32>,
    expected: &'static str,
) -> Result<u32, Problem> {
    let DeValue::Integer(integer) = value else {
        return Err(Problem::Type { expected, found: type_name(value) });
    };
    let number = i128::from_str_radix(integer.as_str(), integer.radix());
    let number = number.ok().and_then(|number| u32::try_from(number).ok());
    number.filter(|number| range.contains(number)).ok_or_else(|| Problem::NumberRange {
        given: integer.to_string(),
        min: *range.start(),
        max: *range.end(),
    })
}

/// A value that knows how to read itself.
pub(super) fn parsed<T>(value: &DeValue<'_>) -> Result<T, Problem>
where
    T: FromStr,
    Problem: From<T::Err>,
{
    Ok(text(value, "a string")?.parse()?)
}

/// One of a few words.
pub(super) fn choice<T: Copy>(
    value: &DeValue<'_>,
    choices: &[(&'static str, T)],
) -> Result<T, Problem> {
    let given = text(value, "a word in quotes")?;
    let chosen = choices.iter().find(|(word, _)| *word == given);
    chosen.map(|(_, meaning)| *meaning).ok_or_else(|| Problem::Choice {
        given: given.to_owned(),
        choices: choices.iter().map(|(word, _)| *word).collect(),
    })
}

/// A duration such as `"20ms"`.
pub(super) fn duration(
    value: &DeValue<'_>,
    range: &RangeInclusive<Duration>,
) -> Result<Duration, Problem> {
    let given = text(value, "a duration in quotes, such as \"20ms\",")?;
    let duration =
        humantime::parse_duration(given).map_err(|_| Problem::Duration(given.to_owned()))?;
    if !range.contains(&duration) {
        let (given, min, max) = (given.to_owned(), *range.start(), *range.end());
        return Err(Problem::DurationRange { given, min, max });
    }
    Ok(duration)
}

/// A duration, `"auto"` or `"off"`.
pub(super) fn audit(value: &DeValue<'_>) -> Result<Audit, Problem> {
    match text(value, "\"auto\", \"off\" or a duration in quotes")? {
        "auto" => Ok(Audit::Auto),
        "off" => Ok(Audit::Off),
        _ => duration(value, &defaults::AUDIT_INTERVAL_RANGE).map(Audit::Every),
    }
}

/// A size such as `"64MiB"`.
pub(super) fn size(value: &DeValue<'_>, range: &RangeInclusive<usize>) -> Result<usize, Problem> {
    let given = text(value, "a size in quotes, such as \"64MiB\",")?;
    let malformed = || Problem::Size(given.to_owned());
    let digits = given.find(|c: char| !c.is_ascii_digit()).ok_or_else(malformed)?;
    let (number, unit) = given.split_at(digits);
    let number: usize = number.parse().map_err(|_| malformed())?;
    let unit = Size::UNITS.into_iter().find(|(name, _)| *name == unit.trim_start());
    let (_, bytes) = unit.ok_or_else(malformed)?;
    let size = number.checked_mul(bytes).filter(|size| range.contains(size));
    size.ok_or_else(|| Problem::SizeRange {
        given: given.to_owned(),
        min: *range.start(),
        max: *range.end(),
    })
}

/// A number, or a name that iproute2 has for one.
fn named(
    value: &DeValue<'_>,
    names: &Names,
    kind: NameKind,
    range: RangeInclusive<u32>,
    expected: &'static str,
) -> Result<u32, Problem> {
    let Some(name) = value.as_str() else { return number(value, range, expected) };
    let number = names
        .number(kind, name)
        .ok_or_else(|| Problem::UnknownName { kind, name: name.to_owned() })?;
    if !range.contains(&number) {
        let given = format!("{name} ({number})");
        return Err(Problem::NumberRange { given, min: *range.start(), max: *range.end() });
    }
    Ok(number)
}

/// A routing table that can be followed.
pub(super) fn table(value: &DeValue<'_>, names: &Names) -> Result<TableId, Problem> {
    let expected = "a table's number or name";
    match named(value, names, NameKind::Table, 0..=u32::MAX, expected)? {
        0 => {
            Err(Problem::ReservedTable(0, "0 stands for no table (RT_TABLE_UNSPEC), give its own"))
        }
        TABLE_LOCAL => Err(Problem::ReservedTable(
            TABLE_LOCAL,
            "the kernel keeps the host's own addresses there, give the table that your routing \
             daemon exports to",
        )),
        table => Ok(table),
    }
}

/// A routing protocol.
pub(super) fn protocol(value: &DeValue<'_>, names: &Names) -> Result<u8, Problem> {
    let expected = "a protocol's number or name";
    let number = named(value, names, NameKind::Protocol, 0..=u8::MAX.into(), expected)?;
    Ok(u8::try_from(number).expect("the range ends at u8::MAX"))
}

/// A routing protocol whose routes may be removed because they are ours: none that somebody else has.
pub(super) fn own_protocol(value: &DeValue<'_>, names: &Names) -> Result<u8, Problem> {
    let protocol = protocol(value, names)?;
    match taken(protocol) {
        Some(by) => Err(Problem::ForeignProtocol(protocol, by)),
        None => Ok(protocol),
    }
}

/// Who uses a protocol's number: include/uapi/linux/rtnetlink.h and, for the rest of FRR's,
/// zebra/rt_netlink.h.
fn taken(protocol: u8) -> Option<&'static str> {
    const FRR: RangeInclusive<u8> = 186..=198;
    let named = NameKind::Protocol.built_in().iter();
    let mut named = named.filter(|(name, _)| *name != OWN_PROTOCOL);
    let name = named.find(|(_, number)| *number == u32::from(protocol)).map(|(name, _)| *name);
    name.or_else(|| FRR.contains(&protocol).then_some("FRR"))
        .or_else(|| (protocol <= RTPROT_STATIC).then_some("the kernel"))
}

/// A realm; zero would be "none", and each half of `RTA_FLOW` has 16 bits.
pub(super) fn realm(value: &DeValue<'_>, names: &Names) -> Result<u32, Problem> {
    named(value, names, NameKind::Realm, 1..=u16::MAX.into(), "a realm's number or name")
}

/// A metric.
pub(super) fn metric(value: &DeValue<'_>) -> Result<u32, Problem> {
    number(value, 0..=u32::MAX, "a number")
}

/// A nexthop object's number; zero would be "none".
pub(super) fn nexthop(value: &DeValue<'_>) -> Result<NexthopId, Problem> {
    number(value, 1..=u32::MAX, "a nexthop object's number")
}

/// A tracing filter.
pub(super) fn log(value: &DeValue<'_>) -> Result<String, Problem> {
    log_filter(text(value, "a log filter in quotes")?)
}

/// Checks a tracing filter, as in `log` and `--log`.
pub fn log_filter(given: &str) -> Result<String, Problem> {
    match EnvFilter::builder().parse(given) {
        Ok(_) => Ok(given.to_owned()),
        Err(error) => {
            Err(Problem::LogFilter { given: given.to_owned(), reason: error.to_string() })
        }
    }
}

/// A path that means the same whatever the working directory.
pub(super) fn absolute_path(value: &DeValue<'_>) -> Result<PathBuf, Problem> {
    let given = text(value, "a path in quotes")?;
    let path = PathBuf::from(given);
    if path.is_absolute() { Ok(path) } else { Err(Problem::RelativePath(given.to_owned())) }
}

pub(super) fn interface(value: &DeValue<'_>) -> Result<String, Problem> {
    interface_name(text(value, "an interface's name")?)
}

/// Checks an interface's name, as in `name` and `--interface`, by the kernel's rules
/// (`dev_valid_name`, net/core/dev.c).
pub fn interface_name(given: &str) -> Result<String, Problem> {
    /// `IFNAMSIZ` without the terminating zero (include/uapi/linux/if.h).
    const MAX: usize = 15;
    let allowed = |c: char| c != '/' && c != ':' && !c.is_whitespace() && !c.is_control();
    let valid = (1..=MAX).contains(&given.len())
        && !matches!(given, "." | "..")
        && given.chars().all(allowed);
    if valid { Ok(given.to_owned()) } else { Err(Problem::InterfaceName(given.to_owned())) }
}

/// A number of things.
pub(super) fn count(value: &DeValue<'_>, range: &RangeInclusive<u32>) -> Result<u32, Problem> {
    number(value, range.clone(), "a number")
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Problem> {
    let expected = "true or false, without quotes,";
    value.as_bool().ok_or_else(|| Problem::Type { expected, found: type_name(value) })
}

/// A rule of a policy, to be read when all peers are known.
pub(super) fn rule(value: &DeValue<'_>) -> Result<String, Problem> {
    let expected = "a rule in quotes, such as \"accept tcp to 10.0.0.0/8 port 22\",";
    Ok(text(value, expected)?.to_owned())
}

/// A UDP or TCP port that can be named.
pub(super) fn port(value: &DeValue<'_>) -> Result<u16, Problem> {
    let port = number(value, 1..=u16::MAX.into(), "a port's number")?;
    Ok(u16::try_from(port).expect("the range ends at u16::MAX"))
}

/// An address, without a prefix length or a zone.
pub(super) fn address(value: &DeValue<'_>) -> Result<IpAddr, Problem> {
    let given = text(value, "an address in quotes")?;
    given.parse().map_err(|_| Problem::Address(given.to_owned()))
}

/// An address and a TCP port to listen on.
pub(super) fn socket_address(value: &DeValue<'_>) -> Result<SocketAddr, Problem> {
    let given = text(value, "an address and a port in quotes")?;
    let address = given.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
    address.ok_or_else(|| Problem::SocketAddress(given.to_owned()))
}

/// Where babeld listens: a Unix socket's path, or a port of `::1`.
pub(super) fn babeld_socket(value: &DeValue<'_>) -> Result<BabeldSocket, Problem> {
    match value {
        DeValue::String(_) => absolute_path(value).map(BabeldSocket::Path),
        _ => port(value).map(BabeldSocket::Port),
    }
}

/// One line of text that is handed on as it is.
pub(super) fn argument(value: &DeValue<'_>) -> Result<String, Problem> {
    let given = text(value, "a text in quotes")?;
    let plain = !given.is_empty() && !given.chars().any(char::is_control);
    if plain { Ok(given.to_owned()) } else { Err(Problem::Argument(given.to_owned())) }
}

/// The address of a webhook.
pub(super) fn url(value: &DeValue<'_>) -> Result<String, Problem> {
    let given = text(value, "a URL in quotes")?;
    let plain = given.strip_prefix("http://").is_some_and(|rest| !rest.is_empty())
        && !given.chars().any(|c| c.is_control() || c.is_whitespace());
    if plain { Ok(given.to_owned()) } else { Err(Problem::Url(given.to_owned())) }
}

/// A protocol of BIRD's, by its own rule for symbols (`conf/cf-lex.l`), unquoted.
pub(super) fn bird_protocol(value: &DeValue<'_>) -> Result<String, Problem> {
    let given = text(value, "the name of a protocol in quotes")?;
    let start = |c: char| c.is_ascii_alphabetic() || c == '_';
    let valid = given.len() <= 64
        && given.starts_with(start)
        && given.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if valid { Ok(given.to_owned()) } else { Err(Problem::BirdProtocol(given.to_owned())) }
}

/// A peer's name.
pub(super) fn peer_name(value: &DeValue<'_>) -> Result<String, Problem> {
    name(value, "a peer", "a peer's name")
}

/// A policy's name.
pub(super) fn policy_name(value: &DeValue<'_>) -> Result<String, Problem> {
    name(value, "a policy", "a policy's name")
}

/// The name of a group of peers.
pub(super) fn group_name(value: &DeValue<'_>) -> Result<String, Problem> {
    name(value, "a group", "a group's name")
}

/// An exit's name.
pub(super) fn exit_name(value: &DeValue<'_>) -> Result<String, Problem> {
    name(value, "an exit", "an exit's name")
}

/// A flow's name.
pub(super) fn flow_name(value: &DeValue<'_>) -> Result<String, Problem> {
    name(value, "a flow", "a flow's name")
}

/// What can be a column of output and a value of a log field.
fn name(
    value: &DeValue<'_>,
    what: &'static str,
    expected: &'static str,
) -> Result<String, Problem> {
    let given = text(value, expected)?;
    let visible = given.chars().all(|c| !c.is_whitespace() && !c.is_control());
    let valid = visible && (1..=64).contains(&given.chars().count());
    if valid { Ok(given.to_owned()) } else { Err(Problem::Name { given: given.to_owned(), what }) }
}
