//! Readers of single values.

use std::ops::RangeInclusive;

use toml::de::DeValue;

use crate::{
    config::{
        document::type_name,
        error::Problem,
        exits::{WEIGHT_RANGE, error::ExitProblem},
        filter::protocol_number,
        value::{choice, count, text},
    },
    core::exits::iprule::{Mark, Span},
};

/// DSCPs that have a name (RFC 2474, 2597, 3246, 5865, 8622).
const DSCPS: [(&str, u8); 23] = [
    ("cs0", 0),
    ("le", 1),
    ("cs1", 8),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("cs2", 16),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("cs3", 24),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("cs4", 32),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("cs5", 40),
    ("va", 44),
    ("ef", 46),
    ("cs6", 48),
    ("cs7", 56),
];

/// A part of a number range that wgrouted may use, `"10000-29999"`.
pub(in crate::config) fn range(
    value: &DeValue<'_>,
    bounds: &RangeInclusive<u32>,
) -> Result<RangeInclusive<u32>, Problem> {
    let given = text(value, "a range in quotes, such as \"10000-29999\",")?;
    let span: Option<Span<u32>> = span_of(given);
    let span = span.filter(|span| bounds.contains(&span.first) && bounds.contains(&span.last));
    let wide = span.filter(|span| span.last - span.first >= 15);
    wide.map(|span| span.first..=span.last).ok_or_else(|| {
        let (min, max) = (*bounds.start(), *bounds.end());
        ExitProblem::Range { given: given.to_owned(), min, max }.into()
    })
}

fn span_of<T: std::str::FromStr + PartialOrd + Copy>(text: &str) -> Option<Span<T>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some(Span { first, last })
}

/// A number, or a range of numbers in quotes.
fn span(value: &DeValue<'_>, what: &'static str, max: u32) -> Result<Span<u32>, Problem> {
    if let DeValue::Integer(_) = value {
        return count(value, &(0..=max)).map(|number| Span { first: number, last: number });
    }
    let given = text(value, "a number, or a range in quotes, such as \"1000-1999\",")?;
    let span = span_of(given).filter(|span: &Span<u32>| span.last <= max);
    span.ok_or_else(|| ExitProblem::Span { given: given.to_owned(), what, max }.into())
}

/// Owners of sockets. The last number stands for "nobody" (`INVALID_UID`).
pub(in crate::config) fn uid(value: &DeValue<'_>) -> Result<Span<u32>, Problem> {
    span(value, "user numbers", u32::MAX - 1)
}

/// Ports.
pub(in crate::config) fn ports(value: &DeValue<'_>) -> Result<Span<u16>, Problem> {
    // The kernel takes zero for "no range" (`fib_rule_port_range_valid`, include/net/fib_rules.h).
    let valid = span(value, "ports", u16::MAX.into())?;
    let port = |port| u16::try_from(port).ok().filter(|port| (1..u16::MAX).contains(port));
    match (port(valid.first), port(valid.last)) {
        (Some(first), Some(last)) => Ok(Span { first, last }),
        _ => Err(ExitProblem::RulePort { first: valid.first, last: valid.last }.into()),
    }
}

/// A number, or a value and a mask in quotes.
pub(in crate::config) fn mark(value: &DeValue<'_>) -> Result<Mark, Problem> {
    if let DeValue::Integer(_) = value {
        return count(value, &(0..=u32::MAX)).map(|value| Mark { value, mask: u32::MAX });
    }
    let given = text(value, "a number, or a value and a mask in quotes, \"0x10/0xff\",")?;
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let (value, mask) = given.split_once('/').unwrap_or((given, "0xffffffff"));
    let mark = number(value).zip(number(mask)).map(|(value, mask)| Mark { value, mask });
    // A mask of zero would say "any", and bits outside the mask could never be met.
    mark.filter(|mark| mark.mask != 0 && mark.value & !mark.mask == 0)
        .ok_or_else(|| ExitProblem::Mark(given.to_owned()).into())
}

/// A DSCP, by number or name.
pub(in crate::config) fn dscp(value: &DeValue<'_>) -> Result<u8, Problem> {
    match value {
        DeValue::String(_) => choice(value, &DSCPS),
        _ => count(value, &(0..=63)).map(|dscp| dscp as u8),
    }
}

/// A TOS octet, without the bits of explicit congestion notification, which the kernel refuses.
pub(in crate::config) fn tos(value: &DeValue<'_>) -> Result<u8, Problem> {
    let tos = count(value, &(1..=255))? as u8;
    if tos & 3 == 0 { Ok(tos) } else { Err(ExitProblem::Tos(tos).into()) }
}

/// A protocol inside IP packets, by number or name.
pub(in crate::config) fn protocol(value: &DeValue<'_>) -> Result<u8, Problem> {
    let Some(name) = value.as_str() else {
        return count(value, &(1..=255)).map(|protocol| protocol as u8);
    };
    protocol_number(name).ok_or_else(|| ExitProblem::FlowProtocol(name.to_owned()).into())
}

/// A link of an exit: its name, and its weight if it has one.
#[derive(Clone, Debug)]
pub(in crate::config) struct RawVia {
    pub(super) link: String,
    pub(super) weight: Option<u16>,
}

/// A name in quotes, or `{ link = "wg-b", weight = 2 }`.
pub(in crate::config) fn via(value: &DeValue<'_>) -> Result<RawVia, Problem> {
    let expected = "a link's name in quotes, or { link = \"wg-b\", weight = 2 },";
    let DeValue::Table(table) = value else {
        return Ok(RawVia { link: text(value, expected)?.to_owned(), weight: None });
    };
    let missing = || Problem::Type { expected, found: type_name(value) };
    if table.keys().any(|key| !matches!(key.get_ref().as_ref(), "link" | "weight")) {
        return Err(Problem::UnknownKey { known: vec!["link", "weight"] });
    }
    let link = text(table.get("link").ok_or_else(missing)?.get_ref(), expected)?.to_owned();
    let weight = table.get("weight").map(|weight| count(weight.get_ref(), &WEIGHT_RANGE));
    Ok(RawVia { link, weight: weight.transpose()?.map(|weight| weight as u16) })
}
