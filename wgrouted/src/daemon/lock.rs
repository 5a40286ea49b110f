//! One daemon an interface, and one that filters or has flows in a network namespace.
//!
//! Here lives [`Lock`]. It is an abstract Unix socket: such names belong to a
//! network namespace, as interfaces do, and the kernel frees them when their process ends, so
//! there is nothing to go stale.

use std::{
    io,
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

/// As long as it lives, no other daemon follows the interface, or filters, or has flows.
#[derive(Debug)]
pub struct Lock {
    name: String,
    _listener: UnixListener,
}

/// The filter's and flows' names among the locks. No interface has a slash in its name.
const FILTER: &str = "/filter";
const FLOWS: &str = "/flows";

/// Why an interface could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error(
        "interface {interface} is already followed by another wgrouted (process {}): stop that \
         one, or leave {interface} out of this one", .process.map_or("unknown".to_owned(), |pid| pid.to_string())
    )]
    Held {
        /// The interface.
        interface: String,
        /// The other daemon.
        process: Option<i32>,
    },
    /// Another daemon filters.
    #[error(
        "another wgrouted (process {}) filters packets in this network namespace: put all filtered \
         interfaces into one configuration", .0.map_or("unknown".to_owned(), |pid| pid.to_string())
    )]
    FilterHeld(Option<i32>),
    /// Another daemon has flows.
    #[error(
        "another wgrouted (process {}) has flows in this network namespace: put all flows into one \
         configuration", .0.map_or("unknown".to_owned(), |pid| pid.to_string())
    )]
    FlowsHeld(Option<i32>),
    /// The system refused.
    #[error("cannot lock {name}: {source}")]
    System {
        /// What: an interface, or the filter.
        name: String,
        /// Why.
        source: io::Error,
    },
}

impl Lock {
    /// Locks an interface of the calling process's network namespace.
    pub fn interface(interface: &str) -> Result<Self, LockError> {
        Lock::acquire(interface)?
            .map_err(|process| LockError::Held { interface: interface.to_owned(), process })
    }

    /// Locks the packet filter of the calling process's network namespace.
    pub fn filter() -> Result<Self, LockError> {
        Lock::acquire(FILTER)?.map_err(LockError::FilterHeld)
    }

    /// Locks flows and exits of the calling process's network namespace.
    pub fn flows() -> Result<Self, LockError> {
        Lock::acquire(FLOWS)?.map_err(LockError::FlowsHeld)
    }

    /// The lock, or the process that has it.
    fn acquire(name: &str) -> Result<Result<Self, Option<i32>>, LockError> {
        let system = |source| LockError::System { name: name.to_owned(), source };
        let address = SocketAddr::from_abstract_name(format!("wgrouted/{name}")).map_err(system)?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Ok(Lock { name: name.to_owned(), _listener: listener })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Ok(Err(UnixStream::connect_addr(&address).ok().and_then(|peer| owner(&peer))))
            }
            Err(error) => Err(system(error)),
        }
    }

    /// Whether it is the filter's.
    pub fn is_filter(&self) -> bool {
        self.name == FILTER
    }

    /// Whether it is for flows.
    pub fn is_flows(&self) -> bool {
        self.name == FLOWS
    }

    /// Whether it is for an interface.
    pub fn is_interface(&self) -> bool {
        !self.is_filter() && !self.is_flows()
    }

    /// The interface that is locked, or what stands for the filter or for flows.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The process that listens at the other end (`SO_PEERCRED`, unix(7)).
fn owner(stream: &UnixStream) -> Option<i32> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: both pointers are valid for the sizes given.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    (result == 0 && credentials.pid > 0).then_some(credentials.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_names_the_holder_and_the_first_ends_with_its_owner() {
        let name = format!("test{}", std::process::id());
        let first = Lock::interface(&name).unwrap();
        let error = Lock::interface(&name).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        Lock::interface(&name).unwrap();
    }
}
