//! Classifiers in the clsact queueing discipline, for kernels without tcx.
//!
//! Here live the requests to rtnetlink. A classifier stays where it is when the daemon goes; it
//! is known by its place: parent, priority and handle. Invariant: nothing at any other place is
//! touched.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{
        TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage,
        TcOption,
    },
};

use crate::{core::route::IfIndex, target::rtnl::Rtnl};

/// Before all others.
const PRIORITY: u32 = 1;
/// Ours among those of our priority: "wgrf".
const HANDLE: u32 = ebpf_xdp::layout::MAGIC;
/// `ETH_P_ALL` in network order.
const ALL_PROTOCOLS: u32 = 0x0003_u16.to_be() as u32;
const NAME: &str = "wgrouted";

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub(super) const ALL: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    fn parent(self) -> TcHandle {
        let minor = match self {
            Direction::Ingress => TcHandle::MIN_INGRESS,
            Direction::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: TcHandle::CLSACT.major, minor }
    }
}

/// What is at our place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// A program of this number.
    Program(u32),
}

/// A socket for requests.
#[derive(Debug)]
pub(super) struct Clsact(Rtnl);

impl Clsact {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Clsact> {
        Rtnl::open().map(Clsact)
    }

    /// Adds the queueing discipline. `false`: there is one.
    pub(super) fn add_qdisc(&mut self, ifindex: IfIndex) -> io::Result<bool> {
        let request = RouteNetlinkMessage::NewQueueDiscipline(qdisc(ifindex));
        match self.exchange(request, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// Removes the queueing discipline, unless there are classifiers in it.
    pub(super) fn remove_empty_qdisc(&mut self, ifindex: IfIndex) -> io::Result<()> {
        for direction in Direction::ALL {
            let mut all = TcMessage::with_index(ifindex as i32);
            all.header.parent = direction.parent();
            match self.exchange(RouteNetlinkMessage::GetTrafficFilter(all), NLM_F_DUMP) {
                Ok(found) if !found.is_empty() => return Ok(()),
                other => absent(other.map(drop))?,
            }
        }
        absent(self.exchange(RouteNetlinkMessage::DelQueueDiscipline(qdisc(ifindex)), 0).map(drop))
    }

    /// Looks what is at our place.
    pub(super) fn find(&mut self, ifindex: IfIndex, direction: Direction) -> io::Result<Found> {
        let request = RouteNetlinkMessage::GetTrafficFilter(filter(ifindex, direction));
        let answers = match self.exchange(request, 0) {
            Ok(answers) => answers,
            Err(error) => return absent(Err(error)).map(|()| Found::Nothing),
        };
        let options =
            answers.iter().flat_map(|answer| &answer.attributes).filter_map(|attribute| {
                match attribute {
                    TcAttribute::Options(options) => Some(options),
                    _ => None,
                }
            });
        let id = options.flatten().find_map(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
            _ => None,
        });
        Ok(id.map_or(Found::Nothing, Found::Program))
    }

    /// Puts a program at our place; what is there is replaced in one step.
    pub(super) fn put(
        &mut self,
        ifindex: IfIndex,
        direction: Direction,
        program: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut message = filter(ifindex, direction);
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(NAME.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        self.exchange(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE).map(drop)
    }

    /// Removes what is at our place.
    pub(super) fn remove(&mut self, ifindex: IfIndex, direction: Direction) -> io::Result<()> {
        let request = RouteNetlinkMessage::DelTrafficFilter(filter(ifindex, direction));
        absent(self.exchange(request, 0).map(drop))
    }

    /// Sends a request and reads its answers.
    fn exchange(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<TcMessage>> {
        let mut filters = Vec::new();
        for answer in self.0.exchange(request, flags)? {
            let answer =
                answer.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if let RouteNetlinkMessage::NewTrafficFilter(filter) = answer {
                filters.push(filter);
            }
        }
        Ok(filters)
    }
}

/// What is not there: no such filter, qdisc or device.
fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn qdisc(ifindex: IfIndex) -> TcMessage {
    let header = TcHeader {
        index: ifindex as i32,
        handle: TcHandle { major: TcHandle::CLSACT.major, minor: 0 },
        parent: TcHandle::CLSACT,
        ..TcHeader::default()
    };
    TcMessage::from_parts(header, vec![TcAttribute::Kind("clsact".to_owned())])
}

fn filter(ifindex: IfIndex, direction: Direction) -> TcMessage {
    let header = TcHeader {
        index: ifindex as i32,
        handle: TcHandle::from(HANDLE),
        parent: direction.parent(),
        info: PRIORITY << 16 | ALL_PROTOCOLS,
        ..TcHeader::default()
    };
    TcMessage::from_parts(header, vec![TcAttribute::Kind(TcFilterBpf::KIND.to_owned())])
}
