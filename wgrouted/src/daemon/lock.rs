//! One daemon an interface.
//!
//! Here lives [`InterfaceLock`]. The lock is an abstract Unix socket: such names belong to a
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

/// As long as it lives, no other daemon follows the interface.
#[derive(Debug)]
pub struct InterfaceLock {
    interface: String,
    _listener: UnixListener,
}

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
    /// The system refused.
    #[error("cannot lock interface {interface}: {source}")]
    System {
        /// The interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
}

impl InterfaceLock {
    /// Locks an interface of the calling process's network namespace.
    pub fn acquire(interface: &str) -> Result<Self, LockError> {
        let system = |source| LockError::System { interface: interface.to_owned(), source };
        let address =
            SocketAddr::from_abstract_name(format!("wgrouted/{interface}")).map_err(system)?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => {
                Ok(InterfaceLock { interface: interface.to_owned(), _listener: listener })
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(LockError::Held {
                interface: interface.to_owned(),
                process: UnixStream::connect_addr(&address).ok().and_then(|peer| owner(&peer)),
            }),
            Err(error) => Err(system(error)),
        }
    }

    /// The interface that is locked.
    pub fn interface(&self) -> &str {
        &self.interface
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
        let first = InterfaceLock::acquire(&name).unwrap();
        let error = InterfaceLock::acquire(&name).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        InterfaceLock::acquire(&name).unwrap();
    }
}
