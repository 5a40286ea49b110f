//! Readers of single values.

use std::time::Duration;

use toml::de::DeValue;

use super::{KEEPALIVE_RANGE, MTU_RANGE};
use crate::{
    config::{
        document::type_name,
        error::Problem,
        value::{count, duration},
    },
    core::links::rule::{LinkLocal, MtuRule},
};

/// A number or `"auto"`.
pub(in crate::config) fn mtu(value: &DeValue<'_>) -> Result<MtuRule, Problem> {
    match value.as_str() {
        Some("auto") => Ok(MtuRule::Auto),
        Some(other) => {
            Err(Problem::Choice { given: other.to_owned(), choices: vec!["auto", "1420"] })
        }
        None => count(value, &MTU_RANGE).map(MtuRule::Given),
    }
}

/// Whole seconds, or `"off"`.
pub(in crate::config) fn keepalive(value: &DeValue<'_>) -> Result<u16, Problem> {
    if value.as_str() == Some("off") {
        return Ok(0);
    }
    let given = duration(value, &KEEPALIVE_RANGE)?;
    let seconds = u16::try_from(given.as_secs()).expect("the range ends at u16::MAX");
    if given == Duration::from_secs(seconds.into()) {
        Ok(seconds)
    } else {
        Err(Problem::WholeSeconds(value.as_str().unwrap_or_default().to_owned()))
    }
}

/// `"auto"`, `"off"` or a link-local address.
pub(in crate::config) fn link_local(value: &DeValue<'_>) -> Result<LinkLocal, Problem> {
    let expected = "\"auto\", \"off\" or an address in quotes";
    let found = type_name(value);
    match value.as_str().ok_or(Problem::Type { expected, found })? {
        "auto" => Ok(LinkLocal::Auto),
        "off" => Ok(LinkLocal::Off),
        given => given
            .parse()
            .ok()
            .filter(std::net::Ipv6Addr::is_unicast_link_local)
            .map(LinkLocal::Given)
            .ok_or_else(|| Problem::LinkLocal(given.to_owned())),
    }
}

/// An address.
pub(in crate::config) fn address(value: &DeValue<'_>) -> Result<std::net::IpAddr, Problem> {
    let expected = "an address in quotes";
    let given = value.as_str().ok_or(Problem::Type { expected, found: type_name(value) })?;
    let address: Option<std::net::IpAddr> = given.parse().ok();
    address
        .filter(|address| !address.is_unspecified() && !address.is_multicast())
        .ok_or_else(|| Problem::Address(given.to_owned()))
}
