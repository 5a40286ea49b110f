//! Dropped packets as people see them.
//!
//! Here live the rows of `GET /v1/filter/samples` and their form as text.

use std::{fmt, net::IpAddr, time::SystemTime};

use ebpf_xdp::{
    addr::{Addr, V4, V6},
    layout::{Reason, Sample},
};
use serde::{Deserialize, Serialize};

use crate::config::filter::{has_ports, is_icmp, protocol_name};

/// A packet that was dropped, or would have been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleRow {
    /// When, in UTC.
    pub time: String,
    /// The interface; its number where the name is not known.
    pub interface: String,
    /// The peer, if it could be told.
    pub peer: Option<String>,
    /// Source; none if the packet was not understood.
    pub src: Option<IpAddr>,
    /// Destination.
    pub dst: Option<IpAddr>,
    /// The protocol's name, or its number.
    pub protocol: Option<String>,
    /// Source port, where the protocol has ports.
    pub src_port: Option<u16>,
    /// Destination port.
    pub dst_port: Option<u16>,
    /// ICMP type.
    pub icmp_type: Option<u16>,
    /// Bytes.
    pub length: u32,
    /// Why.
    pub reason: String,
    /// It passed, because its peer is monitored.
    pub monitored: bool,
}

impl SampleRow {
    /// A sample that was taken at that time, with the names of its interface and peer.
    pub fn new(sample: &Sample, time: SystemTime, interface: String, peer: Option<String>) -> Self {
        let understood = matches!(sample.family, V4 | V6);
        let address = |addr: Addr| match sample.family {
            V4 => Some(IpAddr::from(addr.octets4())),
            V6 => Some(IpAddr::from(addr.octets6())),
            _ => None,
        };
        let number = sample.protocol;
        let ports = understood && has_ports(number);
        SampleRow {
            time: humantime::format_rfc3339_millis(time).to_string(),
            interface,
            peer,
            src: address(sample.src),
            dst: address(sample.dst),
            protocol: understood
                .then(|| protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)),
            src_port: ports.then_some(sample.src_port),
            dst_port: ports.then_some(sample.dst_port),
            icmp_type: (understood && is_icmp(number)).then_some(sample.dst_port),
            length: sample.length,
            reason: Reason::ALL
                .get(usize::from(sample.reason))
                .map_or_else(|| sample.reason.to_string(), |reason| reason.name().to_owned()),
            monitored: sample.monitored != 0,
        }
    }
}

impl fmt::Display for SampleRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer.as_deref().unwrap_or("(unknown)");
        write!(f, "{} {} {peer}", self.time, self.interface)?;
        let end = |addr: Option<IpAddr>, port: Option<u16>| match (addr, port) {
            (None, _) => "?".to_owned(),
            (Some(addr), None) => addr.to_string(),
            (Some(IpAddr::V4(addr)), Some(port)) => format!("{addr}:{port}"),
            (Some(IpAddr::V6(addr)), Some(port)) => format!("[{addr}]:{port}"),
        };
        write!(f, " {} > {}", end(self.src, self.src_port), end(self.dst, self.dst_port))?;
        if let Some(protocol) = &self.protocol {
            write!(f, " {protocol}")?;
        }
        if let Some(number) = self.icmp_type {
            write!(f, " type {number}")?;
        }
        let fate = if self.monitored { "would drop" } else { "drop" };
        write!(f, " {} bytes: {fate}, {}", self.length, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_reads_like_a_line_of_tcpdump() {
        let sample = Sample {
            src: Addr::v4([192, 0, 2, 1]),
            dst: Addr::v4([10, 0, 0, 1]),
            protocol: 6,
            family: V4,
            src_port: 4711,
            dst_port: 22,
            length: 60,
            reason: Reason::NoRoute as u8,
            ..Sample::default()
        };
        let time = SystemTime::UNIX_EPOCH;
        let row = SampleRow::new(&sample, time, "wg-b".to_owned(), Some("exit-b".to_owned()));
        assert_eq!(
            row.to_string(),
            "1970-01-01T00:00:00.000Z wg-b exit-b 192.0.2.1:4711 > 10.0.0.1:22 tcp 60 bytes: \
             drop, no-route"
        );
        let garbage = Sample { reason: Reason::Malformed as u8, length: 7, ..Sample::default() };
        let row = SampleRow::new(&garbage, time, "wg-b".to_owned(), None);
        assert_eq!(
            row.to_string(),
            "1970-01-01T00:00:00.000Z wg-b (unknown) ? > ? 7 bytes: drop, malformed"
        );
    }
}
