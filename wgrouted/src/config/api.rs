//! Who may ask over TCP.
//!
//! Here live the keys of `[api]` and what they mean. The Unix socket is always there and needs none.
//! Invariant: an address that others can reach has a token.

use std::{net::SocketAddr, path::PathBuf};

use super::{
    document::{At, Report, Section},
    error::Problem,
    meaning::Unique,
    value,
};

/// Who may ask over TCP (`[api]`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Api {
    /// Where to listen; nowhere by default.
    pub listen: Vec<SocketAddr>,
    /// The file with the token that every request over TCP must bear.
    pub token_file: Option<PathBuf>,
}

/// `[api]`.
pub(super) struct RawApi {
    listen: Vec<At<SocketAddr>>,
    token_file: Option<PathBuf>,
    /// Something was written for `token_file`, if only something wrong.
    token_meant: bool,
}

impl RawApi {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let listen = section.one_or_more("listen", value::socket_address);
        let token_meant = section.holds("token_file");
        let token_file = section.take("token_file", value::absolute_path).map(|at| at.value);
        section.finish();
        RawApi { listen, token_file, token_meant }
    }
}

/// Whether only this machine can reach an address.
pub fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

pub(super) fn meaning(raw: RawApi, report: &Report<'_>) -> Api {
    let mut addresses = Unique::new(report, "api.listen", "list it once");
    for At { at, value } in &raw.listen {
        addresses.add(*at, *value, format!("address {value}"));
        if !is_local(value) && !raw.token_meant {
            report.add(*at, "api.listen", Problem::OpenWithoutToken(*value));
        }
    }
    let listen = raw.listen.into_iter().map(|address| address.value).collect();
    Api { listen, token_file: raw.token_file }
}
